"""Feedback as people give it: late, early, repeated, changed, taken back.

A submission is stored whether or not its completion has been recorded yet. Of one rater about one completion, the
newest submission of a kind and name is effective; earlier ones stay as history. A submission with an `id` that was
seen before changes nothing and returns the first one.
"""

import math
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

import orjson
from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import completions
from feedback.errors import HoneError, NotFound
from feedback.ids import new_id
from feedback.tables import FEEDBACK_KINDS, feedback

TEXT_LENGTH_MAX = 65_536
DEFAULT_NAMES = {
    "rating": "thumbs",
    "comment": "comment",
    "demonstration": "demonstration",
    "preference": "preference",
}


@dataclass(frozen=True, slots=True)
class Submission:
    """One thing a rater said of one completion, checked and ready to store."""

    feedback_id: str
    project: str
    completion_id: str
    rater: str
    kind: str
    name: str
    value: Any
    comment: str | None
    metadata: dict[str, Any] | None
    idempotency_id: str | None
    key_id: str | None
    created_at: datetime

    def to_json(self) -> bytes:
        """For the spool."""
        return orjson.dumps(self)

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Back from the spool."""
        fields = orjson.loads(data)
        return cls(**fields | {"created_at": datetime.fromisoformat(fields["created_at"])})


def submission(
    *,
    project: str,
    completion_id: str,
    rater: str,
    kind: str,
    value: Any,
    name: str | None = None,
    comment: str | None = None,
    metadata: dict[str, Any] | None = None,
    idempotency_id: str | None = None,
    key_id: str | None = None,
) -> Submission:
    """Check what arrived.

    Raises:
        HoneError: the kind is unknown, or the value does not fit it.
    """
    if kind not in FEEDBACK_KINDS:
        raise HoneError(f"Feedback kind '{kind}' is unknown; expected one of {', '.join(FEEDBACK_KINDS)}.")
    _check_value(kind, value)
    if comment is not None:
        _check_text("comment", comment)
    return Submission(
        feedback_id=new_id("fb"),
        project=project,
        completion_id=completion_id,
        rater=rater,
        kind=kind,
        name=name or DEFAULT_NAMES[kind],
        value=value,
        comment=comment,
        metadata=metadata,
        idempotency_id=idempotency_id,
        key_id=key_id,
        created_at=datetime.now(UTC),
    )


async def store(connection: AsyncConnection, given: Submission) -> str:
    """Make a submission effective in place of the rater's earlier one; returns the id under which it is kept."""
    # Two votes of one rater at once would otherwise both find no earlier one and collide.
    await connection.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 1))"),
        {"name": f"{given.completion_id}/{given.rater}/{given.kind}/{given.name}"},
    )
    if (kept := await _seen(connection, given)) is not None:
        return kept
    # A spooled submission may land after a newer one: the newer stays effective.
    newer = await connection.scalar(
        select(feedback.c.feedback_id).where(
            *_same_vote(given), feedback.c.effective, feedback.c.created_at > given.created_at
        )
    )
    if newer is None:
        await connection.execute(
            update(feedback)
            .where(*_same_vote(given), feedback.c.effective)
            .values(effective=False, replaced_at=func.now())
        )
    values = {column: getattr(given, column) for column in Submission.__dataclass_fields__}
    await connection.execute(
        insert(feedback)
        .values(**values, effective=newer is None, replaced_at=None if newer is None else func.now())
        .on_conflict_do_nothing()
    )
    kept = await _seen(connection, given)
    assert kept is not None
    return kept


async def retract(
    connection: AsyncConnection, project: str, feedback_id: str, *, rater: str | None = None
) -> None:
    """Take a submission back; doing it twice changes nothing. With `rater`, only that rater's own.

    Raises:
        NotFound: there is no such submission of this project (and rater).
    """
    conditions = [feedback.c.project == project, feedback.c.feedback_id == feedback_id]
    if rater is not None:
        conditions.append(feedback.c.rater == rater)
    done = await connection.scalar(
        update(feedback)
        .where(*conditions)
        .values(effective=False, retracted_at=func.coalesce(feedback.c.retracted_at, func.now()))
        .returning(feedback.c.feedback_id)
    )
    if done is None:
        raise NotFound(f"There is no feedback '{feedback_id}' of yours to take back.")


async def of_completion(
    connection: AsyncConnection, project: str, completion_id: str
) -> list[dict[str, Any]]:
    """Everything said of a completion, history included, oldest first."""
    query = (
        select(feedback)
        .where(feedback.c.project == project, feedback.c.completion_id == completion_id)
        .order_by(feedback.c.created_at)
    )
    return [dict(row._mapping) for row in await connection.execute(query)]


async def completion_is_elsewhere(connection: AsyncConnection, project: str, completion_id: str) -> bool:
    """Whether the completion is recorded, but in another project."""
    owner = await completions.project_of(connection, completion_id)
    return owner is not None and owner != project


async def _seen(connection: AsyncConnection, given: Submission) -> str | None:
    condition = feedback.c.feedback_id == given.feedback_id
    if given.idempotency_id is not None:
        condition = condition | (
            (feedback.c.project == given.project) & (feedback.c.idempotency_id == given.idempotency_id)
        )
    kept: str | None = await connection.scalar(select(feedback.c.feedback_id).where(condition))
    return kept


def _same_vote(given: Submission) -> tuple[Any, ...]:
    return (
        feedback.c.completion_id == given.completion_id,
        feedback.c.rater == given.rater,
        feedback.c.kind == given.kind,
        feedback.c.name == given.name,
    )


def _check_value(kind: str, value: Any) -> None:
    if kind == "rating":
        if not isinstance(value, bool | int | float) or (
            isinstance(value, float) and not math.isfinite(value)
        ):
            raise HoneError(f"A rating's value is {value!r}; expected true (up), false (down) or a number.")
    elif kind == "demonstration" and isinstance(value, list):
        _check_messages(value)
    else:
        _check_text(kind, value)


def _check_text(what: str, value: Any) -> None:
    if not isinstance(value, str) or not value.strip():
        raise HoneError(f"A {what}'s value is {value!r}; expected text.")
    if len(value) > TEXT_LENGTH_MAX:
        raise HoneError(
            f"A {what} of {len(value)} characters is too long; at most {TEXT_LENGTH_MAX} are kept."
        )


def _check_messages(value: list[Any]) -> None:
    well_formed = value and all(
        isinstance(message, dict)
        and isinstance(message.get("role"), str)
        and isinstance(message.get("content"), str)
        for message in value
    )
    if not well_formed or value[-1]["role"] != "assistant":
        raise HoneError(
            "A demonstration's value is a list that is not a conversation; "
            "expected messages of {role, content} ending with the assistant's right answer, or the answer as text."
        )
