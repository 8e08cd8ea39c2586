"""What the record knows for training: completions of a model with the effective feedback on each.

Reads only. What becomes a row, and why the rest does not, is decided in `data`, without a database.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import ARRAY, Text, any_, literal, select
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.completions import for_training
from feedback.tables import adapters, completions, feedback

TRAINING_KINDS = ("rating", "demonstration", "preference")


@dataclass(frozen=True, slots=True)
class Opinion:
    """One effective submission about a completion."""

    feedback_id: str
    rater: str
    kind: str
    name: str
    value: Any
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Rated:
    """A completion that somebody said something of."""

    completion_id: str
    endpoint: str
    request: dict[str, Any] | None
    """None once its text was deleted."""
    answer: str
    has_tool_calls: bool
    finish_reason: str | None
    status: str
    consent: bool
    withdrawn: bool
    """Whether the version that answered was aborted and has not come back."""
    opinions: tuple[Opinion, ...] = field(default_factory=tuple)


async def rated_completions(connection: AsyncConnection, project: str, model: str) -> list[Rated]:
    """Every completion of the model with effective feedback, and those that a preference compares it with."""
    of_model = (completions.c.project == project) & (completions.c.model == model)
    query = (
        select(feedback)
        .join(completions, completions.c.completion_id == feedback.c.completion_id)
        .where(
            of_model, feedback.c.project == project, feedback.c.effective, feedback.c.kind.in_(TRAINING_KINDS)
        )
        .order_by(feedback.c.created_at, feedback.c.feedback_id)
    )
    opinions: dict[str, list[Opinion]] = {}
    for row in await connection.execute(query):
        opinion = Opinion(row.feedback_id, row.rater, row.kind, row.name, row.value, row.created_at)
        opinions.setdefault(row.completion_id, []).append(opinion)
        if row.kind == "preference" and isinstance(row.value, str):
            opinions.setdefault(row.value, [])
    return [
        _rated(row, tuple(opinions[row.completion_id]))
        for row in await connection.execute(
            for_training()
            .add_columns(
                (adapters.c.aborted_at.is_not(None) & (adapters.c.state != "champion")).label("withdrawn")
            )
            .join(adapters, adapters.c.adapter_id == completions.c.adapter_id, isouter=True)
            .where(of_model, completions.c.completion_id == any_(literal(list(opinions), ARRAY(Text))))
            .order_by(completions.c.completion_id)
        )
    ]


def _rated(row: Any, opinions: tuple[Opinion, ...]) -> Rated:
    return Rated(
        completion_id=row.completion_id,
        endpoint=row.endpoint,
        request=row.request,
        answer=row.output_text or "",
        has_tool_calls=bool((row.message or {}).get("tool_calls")),
        finish_reason=row.finish_reason,
        status=row.status,
        consent=row.consent,
        withdrawn=bool(row.withdrawn),
        opinions=opinions,
    )
