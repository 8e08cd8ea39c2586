"""One thing said, or taken back: checked, and ready to be stored or spooled."""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

import orjson

from feedback.ids import new_id
from feedback.values import TEXT_CHARS_MAX, check_kind, check_metadata, check_text, check_value

ANONYMOUS = "anonymous"
"""Who rated, when nobody says it: all of these together have one vote on a completion."""


@dataclass(frozen=True, slots=True)
class Submission:
    """One thing a rater said of one completion or conversation, checked and ready to store.

    `named` says that the caller told who rates; else the completion's own rater is meant, where the record knows one.
    `binds` says that a token without a rater was shown: whoever used it first is its rater. `renews` makes other
    content under the same idempotency id a change instead of a conflict.
    """

    feedback_id: str
    project: str
    completion_id: str | None
    rater: str
    kind: str
    name: str
    value: Any
    comment: str | None
    metadata: dict[str, Any] | None
    idempotency_id: str | None
    key_id: str | None
    created_at: datetime
    session: str | None = None
    named: bool = True
    binds: bool = False
    renews: bool = False

    def to_json(self) -> bytes:
        """For the spool."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Back from the spool."""
        fields = orjson.loads(data)
        return cls(**fields | {"created_at": datetime.fromisoformat(fields["created_at"])})


@dataclass(frozen=True, slots=True)
class Retraction:
    """A submission taken back: by a key of its project or, with `rater` and `completion_id`, by who gave it."""

    retracts: str
    project: str
    rater: str | None
    completion_id: str | None
    created_at: datetime

    def to_json(self) -> bytes:
        """For the spool."""
        return orjson.dumps(self)


Spooled = Submission | Retraction


def read_spooled(data: bytes) -> Spooled:
    """What was spooled: a submission or a retraction."""
    fields = orjson.loads(data)
    if "retracts" not in fields:
        return Submission.from_json(data)
    return Retraction(**fields | {"created_at": datetime.fromisoformat(fields["created_at"])})


def submission(
    *,
    project: str,
    completion_id: str | None = None,
    rater: str,
    kind: str,
    value: Any,
    session: str | None = None,
    name: str | None = None,
    comment: str | None = None,
    metadata: dict[str, Any] | None = None,
    idempotency_id: str | None = None,
    key_id: str | None = None,
    text_chars_max: int = TEXT_CHARS_MAX,
    part_of: bytes = b"",
    named: bool = True,
    binds: bool = False,
    renews: bool = False,
) -> Submission:
    """Check what arrived.

    With an idempotency id, equal content has an equal `feedback_id` wherever it is sent again; `part_of` is the content
    of the whole of which this is a part.

    Raises:
        HoneError: the kind is unknown, or the value does not fit it.
    """
    assert (completion_id is None) != (session is None), "feedback is about one thing"
    name = check_kind(kind, name)
    check_value(kind, name, value, text_chars_max=text_chars_max)
    check_metadata(metadata)
    if comment is not None:
        check_text("comment", comment, text_chars_max)
    said = (completion_id, session, rater if named else None, kind, name, value, comment, metadata)
    # A renewed score may say again what it said before: that is a change, and not the same submission.
    fresh = idempotency_id is None or renews
    return Submission(
        feedback_id=new_id("fb") if fresh else _id_of(project, idempotency_id or "", said, part_of),
        project=project,
        completion_id=completion_id,
        rater=rater,
        kind=kind,
        name=name,
        value=value,
        comment=comment,
        metadata=metadata,
        idempotency_id=idempotency_id,
        key_id=key_id,
        created_at=datetime.now(UTC),
        session=session,
        named=named,
        binds=binds,
        renews=renews,
    )


def _id_of(project: str, idempotency_id: str, said: tuple[Any, ...], part_of: bytes) -> str:
    content = orjson.dumps((project, idempotency_id, said), option=orjson.OPT_SORT_KEYS)
    return f"fb-{hashlib.blake2b(content + part_of, digest_size=16).hexdigest()}"
