"""Which completions or feedback somebody wants to see, as conditions for PostgreSQL."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import ColumnElement, Select, Text, cast, exists, func, literal, or_, select, type_coerce
from sqlalchemy.dialects.postgresql import JSONB

from feedback.adapters import VERSION_NUMBER
from feedback.errors import HoneError
from feedback.tables import completions, feedback

YEAR_MIN, YEAR_MAX = 1970, 9000


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows; what is None does not matter. `rating` is a thumb: up or down."""

    project: str
    model: str | None = None
    version: int | None = None
    arm: str | None = None
    rating: bool | None = None
    rater: str | None = None
    session: str | None = None
    text: str | None = None
    since: datetime | None = None
    until: datetime | None = None
    kind: str | None = None
    name: str | None = None
    history: bool = False
    """Of feedback: with what was changed or taken back."""
    stored: bool = False
    """Of completions: only answers to chats that were asked to be stored (`store: true`, or imported with consent)."""
    metadata: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a time from which no days can be counted back.

        Raises:
            HoneError: it is before the first year or after the last of which there can be a record.
        """
        for name, moment in (("since", self.since), ("until", self.until)):
            if moment is not None and not YEAR_MIN <= moment.year <= YEAR_MAX:
                raise HoneError(
                    f"{name} is {moment.isoformat()}; expected a time from {YEAR_MIN} to {YEAR_MAX}."
                )


def model_and_version(asked: str | None) -> tuple[str | None, int | None]:
    """What `support` or `support@7` asks for.

    Raises:
        HoneError: the version is no number.
    """
    name, _, version = (asked or "").partition("@")
    if version and not VERSION_NUMBER.fullmatch(version):
        raise HoneError(f"'{asked}' names no version; expected a model such as support, or support@7.")
    return name or None, int(version) if version else None


def completion_conditions(wanted: Wanted) -> list[ColumnElement[bool]]:
    """Everything asked of a completion but what was said in it."""
    there = completions.c
    conditions: list[ColumnElement[bool]] = [there.project == wanted.project]
    conditions += [
        column == value
        for column, value in (
            (there.model, wanted.model),
            (there.version, wanted.version),
            (there.arm, wanted.arm),
            (there.rater, wanted.rater),
            (there.session, wanted.session),
        )
        if value is not None
    ]
    if wanted.since is not None:
        conditions.append(there.created_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(there.created_at < wanted.until)
    if wanted.rating is not None:
        conditions.append(
            exists().where(
                feedback.c.completion_id == there.completion_id,
                feedback.c.project == there.project,
                feedback.c.effective,
                feedback.c.kind == "rating",
                feedback.c.value == type_coerce(wanted.rating, JSONB),
            )
        )
    if wanted.stored:
        conditions += [
            there.consent,
            or_(there.endpoint == "/v1/chat/completions", there.endpoint.like("import:%")),
        ]
    return conditions


def feedback_query(wanted: Wanted) -> Select[Any]:
    """Select feedback, each row with model, version, arm and session of what it is about, where that is recorded."""
    said, there = feedback.c, completions.c
    conditions = [said.project == wanted.project]
    conditions += [
        column == value
        for column, value in (
            (said.kind, wanted.kind),
            (said.name, wanted.name),
            (said.rater, wanted.rater),
            (there.model, wanted.model),
            (there.version, wanted.version),
            (there.arm, wanted.arm),
        )
        if value is not None
    ]
    if not wanted.history:
        conditions.append(said.effective)
    if wanted.rating is not None:
        conditions += [said.kind == "rating", said.value == type_coerce(wanted.rating, JSONB)]
    if wanted.session is not None:
        conditions.append(or_(said.session == wanted.session, there.session == wanted.session))
    if wanted.since is not None:
        conditions.append(said.created_at >= wanted.since)
    if wanted.until is not None:
        conditions.append(said.created_at < wanted.until)
    if wanted.text is not None:
        conditions.append(
            or_(
                said.comment.ilike(pattern(wanted.text)),
                cast(said.value, Text).ilike(json_pattern(wanted.text)),
            )
        )
    about = func.coalesce(there.session, said.session).label("about_session")
    columns = [column for column in said if column.name not in ("project", "idempotency_id")]
    return (
        select(*columns, there.model, there.version, there.arm, about)
        .select_from(feedback)
        .outerjoin(
            completions,
            # Said before the answer was recorded, it may turn out to be about another project's.
            (there.project == said.project)
            & (there.completion_id == said.completion_id)
            & (there.day == func.completion_day(said.completion_id)),
        )
        .where(*conditions)
    )


def says(texts: Any, words: str) -> ColumnElement[bool]:
    """Whether a row of `texts`, said or redacted, has these words in the answer or anywhere in what was asked.

    The model's own name does not count: every request has it.
    """
    asked = cast(texts.c.request.op("-")(literal("model", Text)), Text)
    return or_(texts.c.output_text.ilike(pattern(words)), asked.ilike(json_pattern(words)))


def pattern(words: str) -> str:
    """What ILIKE takes to find these words."""
    return "%" + words.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"


def json_pattern(words: str) -> str:
    """The same in a JSON document's text."""
    return pattern(orjson.dumps(words).decode()[1:-1])
