"""Builders of what people said, and a record that says it: many submissions at once, without an API between."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import models
from feedback.completions import insert_many
from feedback.policy import ModelPolicy, TrainingPolicy
from feedback.tables import feedback
from retrain.selection import Selected, select_statements
from tests.builders import PROJECT, a_completion, a_model

START = datetime(2026, 1, 1, tzinfo=UTC)
MODEL = "support"
_numbers = count()


def _completion_id() -> str:
    """An id of a day in January: those of one test share a few partitions."""
    milliseconds = int(START.timestamp() * 1000) + next(_numbers)
    return f"chatcmpl-{milliseconds:012x}7{next(_numbers):03x}".ljust(len("chatcmpl-") + 32, "8")


@dataclass(frozen=True)
class Said:
    """One submission about a completion of its own, unless `completion_id` names another's."""

    question: str = "How long may I return a lamp?"
    answer: str = "You may return it within 30 days."
    kind: str = "rating"
    value: Any = True
    rater: str = "ann"
    name: str | None = None
    minute: float = 0
    changes: dict[str, Any] = field(default_factory=dict)
    completion_id: str = field(default_factory=_completion_id)
    feedback_id: str = field(default_factory=lambda: f"fb-{next(_numbers):08d}")
    asked: bool = True
    """False where another submission brings the completion."""


def voted(
    question: str, answer: str, up: Any, *, rater: str = "ann", minute: float = 0, **changes: Any
) -> Said:
    """A completion that somebody voted on."""
    return Said(question, answer, value=up, rater=rater, minute=minute, changes=changes)


def taught(
    question: str,
    right: str,
    *,
    rater: str = "ann",
    wrong: str = "Thirty days.",
    minute: float = 0,
    **changes: Any,
) -> Said:
    """A completion that somebody corrected."""
    return Said(question, wrong, "demonstration", right, rater, minute=minute, changes=changes)


def also(
    first: Said, value: Any = True, *, kind: str = "rating", rater: str = "bob", minute: float = 0
) -> Said:
    """Another submission about the same completion."""
    return Said(
        first.question,
        first.answer,
        kind,
        value,
        rater,
        None,
        minute,
        completion_id=first.completion_id,
        asked=False,
    )


async def record(
    connection: AsyncConnection, said: Sequence[Said], policy: ModelPolicy | None = None
) -> None:
    """A record in which exactly this was said."""
    await a_model(connection, MODEL, policy=policy)
    await insert_many(connection, [_asked(one) for one in said if one.asked])
    names = {"rating": "thumbs"}
    await connection.execute(
        feedback.insert(),
        [
            {
                "feedback_id": one.feedback_id,
                "project": PROJECT,
                "completion_id": one.completion_id,
                "rater": one.rater,
                "kind": one.kind,
                "name": one.name or names.get(one.kind, one.kind),
                "value": one.value,
                "effective": True,
                "created_at": START + timedelta(minutes=one.minute),
            }
            for one in said
        ],
    )


async def select(
    connection: AsyncConnection, said: Sequence[Said], training: TrainingPolicy | None = None, **policy: Any
) -> Selected:
    """What is selected where exactly this was said."""
    await record(connection, said, ModelPolicy(training=training or TrainingPolicy(), **policy))
    return await select_statements(connection, await models.get(connection, PROJECT, MODEL))


async def statements(connection: AsyncConnection, *sources: str) -> list[Any]:
    """Ballots that count, of these sources or of all, by completion."""
    found = await connection.execute(
        text(
            "SELECT *, number AS place FROM ballots WHERE reason IS NULL "
            "AND (cardinality(CAST(:sources AS text[])) = 0 OR source = ANY(:sources)) ORDER BY completion_id, source"
        ),
        {"sources": list(sources)},
    )
    return list(found)


async def kept_share(connection: AsyncConnection, said: Sequence[Said]) -> float:
    """The share of these submissions that stand behind a statement, themselves or merged into one."""
    kept = await connection.scalar(
        text(
            "SELECT count(DISTINCT feedback_id) FROM ballots WHERE feedback_id = ANY(:ids) AND NOT implied AND "
            "(reason IS NULL OR reason = 'same answer to the same question, counted once')"
        ),
        {"ids": [one.feedback_id for one in said]},
    )
    return int(kept or 0) / len(said)


def _asked(one: Said) -> Any:
    request = {"model": MODEL, "messages": [{"role": "user", "content": one.question}]}
    values: dict[str, Any] = {
        "completion_id": one.completion_id,
        "rater": one.rater,
        "unit": one.rater,
        "request": orjson.dumps(one.changes.get("request", request)).decode(),
        "output_text": one.answer,
        "message": orjson.dumps({"role": "assistant", "content": one.answer}).decode(),
        "created_at": START + timedelta(minutes=one.minute),
    }
    return a_completion(**(values | {name: v for name, v in one.changes.items() if name != "request"}))
