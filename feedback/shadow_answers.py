"""Answers that nobody saw: how a version without traffic answered real questions, in numbers, never in words.

They are rows of their own: no verdict counts them, nobody can rate them, no run trains on them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import exists, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import completions as texts
from feedback.tables import completions
from feedback.watch_tables import shadow_answers

CHAT = "/v1/chat/completions"


@dataclass(frozen=True, slots=True)
class Question:
    """What somebody asked, and what the service answered."""

    completion_id: str
    request: dict[str, Any]
    output_text: str


@dataclass(frozen=True, slots=True)
class Pair:
    """One question answered twice: first by the service, second in the shadow."""

    unit: str
    error_class: str | None
    """Whose failure it was in the shadow, where there was one; the service answered."""
    same_text: bool
    refused: tuple[bool, bool]
    output_tokens: tuple[int | None, int | None]
    duration_seconds: tuple[float, float]


async def unasked(
    connection: AsyncConnection,
    project: str,
    model: str,
    adapter_id: str,
    *,
    since: datetime,
    share: float,
    limit: int,
) -> list[Question]:
    """Whole chat answers after a moment that fall into the share and that this version was not asked yet."""
    here = completions.c
    asked = exists().where(
        shadow_answers.c.adapter_id == adapter_id, shadow_answers.c.completion_id == here.completion_id
    )
    sampled = func.abs(func.hashtextextended(here.completion_id, 0) % 10_000) < round(share * 10_000)
    query = (
        texts.with_text()
        .where(
            here.project == project,
            here.model == model,
            here.status == "ok",
            here.endpoint == CHAT,
            here.created_at > since,
            here.adapter_id != adapter_id,
            sampled,
            ~asked,
        )
        .order_by(here.created_at)
        .limit(limit)
    )
    return [
        Question(row.completion_id, row.request, row.output_text or "")
        for row in await connection.execute(query)
        if row.request is not None
    ]


async def keep(
    connection: AsyncConnection, adapter_id: str, completion_id: str, *, output_text: str, **values: Any
) -> None:
    """Keep the numbers of one answer; of its text only whether it declines. Safe to repeat."""
    await connection.execute(
        text(
            "INSERT INTO shadow_answers (adapter_id, completion_id, status, error, error_class, finish_reason, refused,"
            " same_text, output_tokens, duration_seconds) VALUES (:adapter_id, :completion_id, :status, :error,"
            " :error_class, :finish_reason, CAST(:output_text AS text) ~* :declines, :same_text, :output_tokens,"
            " :duration_seconds)"
            " ON CONFLICT DO NOTHING"
        ),
        {
            "adapter_id": adapter_id,
            "completion_id": completion_id,
            "output_text": output_text,
            "declines": texts.DECLINES,
            **_DEFAULTS,
            **values,
        },
    )


_DEFAULTS: Mapping[str, Any] = {
    "error": None,
    "error_class": None,
    "finish_reason": None,
    "same_text": False,
    "output_tokens": None,
}


async def pairs(connection: AsyncConnection, adapter_id: str) -> list[Pair]:
    """Every question that this version was asked in the shadow, with what the service did."""
    query = (
        select(
            completions.c.unit,
            shadow_answers.c.error_class,
            shadow_answers.c.same_text,
            completions.c.refused,
            shadow_answers.c.refused.label("shadow_refused"),
            completions.c.output_tokens,
            shadow_answers.c.output_tokens.label("shadow_tokens"),
            completions.c.duration_seconds,
            shadow_answers.c.duration_seconds.label("shadow_seconds"),
        )
        .join(completions, completions.c.completion_id == shadow_answers.c.completion_id)
        .where(shadow_answers.c.adapter_id == adapter_id)
    )
    return [
        Pair(
            row.unit,
            row.error_class,
            row.same_text,
            (row.refused, row.shadow_refused),
            (row.output_tokens, row.shadow_tokens),
            (row.duration_seconds, row.shadow_seconds),
        )
        for row in await connection.execute(query)
    ]
