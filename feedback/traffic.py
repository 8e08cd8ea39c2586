"""Stretches of traffic in the order in which it came, a bounded number of rows a rater: what drift is looked for in."""

from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Date, cast, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import completions as texts
from feedback.console_keys import CONSOLE_KEYS
from feedback.exposures import FAILED
from feedback.tables import completions

CHUNK_ROWS = 1000


@dataclass(frozen=True, slots=True)
class Row:
    """One finished completion. `request` is the body as it was asked, `vote` up, down or none.

    `channel` says how the vote came: with a key, with a token, or none.
    """

    completion_id: str
    unit: str
    created_at: datetime
    named: bool
    request: dict[str, Any]
    output_text: str
    output_tokens: int
    finish_reason: str
    refused: bool
    vote: str = "none"
    channel: str = "none"


async def window(
    connection: AsyncConnection,
    project: str,
    model: str,
    *,
    after: datetime,
    rows: int,
    rows_per_unit: int,
    adapter_id: str | None = None,
    before: datetime | None = None,
    votes_within: timedelta | None = None,
) -> list[Row]:
    """The first `rows` completions after a moment that still have their text, `rows_per_unit` of a unit at most.

    Fewer than `rows` come back when there are no more. Votes count that came within `votes_within` of their answer.
    """
    met: Counter[str] = Counter()
    found: list[Row] = []
    async for row in _in_order(connection, project, model, after, before, adapter_id):
        met[row.unit] += 1
        if met[row.unit] <= rows_per_unit:
            found.append(row)
            if len(found) == rows:
                break
    return await _with_votes(connection, project, found, votes_within)


async def _in_order(
    connection: AsyncConnection,
    project: str,
    model: str,
    after: datetime,
    before: datetime | None,
    adapter_id: str | None,
) -> AsyncIterator[Row]:
    while True:
        here = completions.c
        query = (
            texts.with_text()
            .where(
                here.project == project,
                here.model == model,
                here.status == "ok",
                # What operators try out in the console is no sign of what people ask.
                ~here.key_id.startswith(CONSOLE_KEYS, autoescape=True),
                here.created_at > after,
                # Lets the database skip the partitions of earlier months.
                here.day >= cast(func.timezone("UTC", after), Date) - text("1"),
            )
            .order_by(here.created_at, here.completion_id)
            .limit(CHUNK_ROWS)
        )
        if adapter_id is not None:
            query = query.where(here.adapter_id == adapter_id)
        if before is not None:
            query = query.where(here.created_at <= before)
        chunk = (await connection.execute(query)).all()
        for one in chunk:
            if one.request is not None:
                yield _row(one)
        if len(chunk) < CHUNK_ROWS:
            return
        after = chunk[-1].created_at


def _row(one: Any) -> Row:
    return Row(
        completion_id=one.completion_id,
        unit=one.unit,
        created_at=one.created_at,
        named=one.rater is not None,
        request=one.request,
        output_text=one.output_text or "",
        output_tokens=one.output_tokens or 0,
        finish_reason=one.finish_reason or "none",
        refused=one.refused,
    )


async def _with_votes(
    connection: AsyncConnection, project: str, rows: list[Row], within: timedelta | None
) -> list[Row]:
    said = await connection.execute(
        text(
            "SELECT completion_id, bool_or(value = 'false') AS down, bool_or(key_id IS NULL) AS token"
            " FROM feedback JOIN unnest(CAST(:ids AS text[]), CAST(:answered AS timestamptz[]))"
            " AS asked (completion_id, answered_at) USING (completion_id)"
            " WHERE project = :project AND effective AND kind = 'rating' AND name = 'thumbs'"
            " AND (CAST(:within AS interval) IS NULL OR feedback.created_at <= answered_at + :within)"
            " GROUP BY completion_id"
        ),
        {
            "project": project,
            "ids": [row.completion_id for row in rows],
            "answered": [row.created_at for row in rows],
            "within": within,
        },
    )
    votes = {
        one.completion_id: ("down" if one.down else "up", "token" if one.token else "key") for one in said
    }
    return [
        replace(row, vote=votes[row.completion_id][0], channel=votes[row.completion_id][1])
        if row.completion_id in votes
        else row
        for row in rows
    ]


@dataclass(frozen=True, slots=True)
class Failures:
    """How often one version (None: another API in its place) was asked, and failed, by whose failure it was."""

    version: int | None
    requests: int
    own: int
    infrastructure: int


async def failures(
    connection: AsyncConnection, project: str, model: str, *, since: datetime
) -> list[Failures]:
    """Of every version that answered since a moment."""
    query = text(f"""
        SELECT version, count(*) AS requests, count(*) FILTER (WHERE {FAILED}) AS own,
               count(*) FILTER (WHERE status = 'error' AND error_class = 'infrastructure') AS infrastructure
        FROM completions
        WHERE project = :project AND model = :model AND created_at >= :since
          AND day >= (CAST(:since AS timestamptz) AT TIME ZONE 'UTC')::date - 1
          AND NOT starts_with(key_id, :console_keys)
        GROUP BY version ORDER BY version""")
    values = {"project": project, "model": model, "since": since, "console_keys": CONSOLE_KEYS}
    return [Failures(**row._mapping) for row in await connection.execute(query, values)]


async def count_since(
    connection: AsyncConnection, project: str, model: str, after: datetime, *, adapter_id: str | None = None
) -> int:
    """Finished completions after a moment: an upper bound of what `window` can find."""
    here = completions.c
    query = select(func.count()).where(
        here.project == project, here.model == model, here.status == "ok", here.created_at > after
    )
    if adapter_id is not None:
        query = query.where(here.adapter_id == adapter_id)
    return int(await connection.scalar(query) or 0)
