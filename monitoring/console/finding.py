"""Find completions, newest first, in a bounded time: a search that takes long stops and says how far it got.

It looks at stretches of the newest rows, each as long as time has shown to be fine, and takes from each what fits. So a
page costs the same over a thousand completions and over a hundred million, however rare it is what is asked for.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import and_, exists, func, or_, select, tuple_
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.adapters import VERSION_NUMBER
from feedback.completions import day_of, with_text
from feedback.errors import HoneError, NotFound
from feedback.tables import completion_redacted, completion_texts, feedback
from feedback.tables import completions as rows
from feedback.wanted import says

SECONDS_MAX = 0.12
ROWS_FIRST = 500
ROWS_MOST = 20_000
TEXT_ROWS_MOST = 4_000
"""Looking for words opens each text, which takes longer."""
DAYS = (1, 7, 30, 365)
RATINGS = ("up", "down", "corrected", "commented", "none")
STATUSES = ("ok", "error", "aborted")


@dataclass(frozen=True, slots=True)
class Asked:
    """What is looked for; empty is anything."""

    q: str = ""
    version: str = ""
    rating: str = ""
    arm: str = ""
    status: str = ""
    days: int = 7


@dataclass(frozen=True, slots=True)
class Found:
    """Rows with their texts, newest first. `older` goes on after them; `reached` is where a search stopped for time."""

    rows: list[dict[str, Any]]
    older: str | None
    reached: datetime | None


@dataclass(frozen=True, slots=True)
class _Stretch:
    ids: list[str]
    last: tuple[datetime, str] | None
    looked_at: int


async def find(
    connection: AsyncConnection, project: str, model: str, asked: Asked, before: str, *, most: int
) -> Found:
    """At most `most` completions that fit, from `before` back."""
    cursor, size, ids = _read_cursor(before), ROWS_FIRST, list[str]()
    end, limit = time.monotonic() + SECONDS_MAX, TEXT_ROWS_MOST if asked.q else ROWS_MOST
    fits, since = _fits(asked), datetime.now(UTC) - timedelta(days=asked.days if asked.days in DAYS else 7)
    while True:
        stretch = await _stretch(connection, project, model, fits, since, cursor, size)
        ids += stretch.ids
        cursor = stretch.last or cursor
        if len(ids) > most:
            return Found(
                await _texts(connection, ids[:most]), await _cursor_at(connection, ids[most - 1]), None
            )
        if stretch.looked_at < size:
            return Found(await _texts(connection, ids), None, None)
        if time.monotonic() > end:
            assert cursor is not None
            return Found(await _texts(connection, ids), _write_cursor(cursor), cursor[0])
        size = min(size * 2, limit)


async def _stretch(
    connection: AsyncConnection,
    project: str,
    model: str,
    fits: Any,
    since: datetime,
    cursor: tuple[datetime, str] | None,
    size: int,
) -> _Stretch:
    conditions = [
        rows.c.project == project,
        rows.c.model == model,
        rows.c.created_at >= since,
        # A completion's day is its partition: named, the older partitions are not opened.
        rows.c.day >= (since - timedelta(days=1)).date(),
    ]
    if cursor is not None:
        conditions += [
            rows.c.created_at <= cursor[0],
            tuple_(rows.c.created_at, rows.c.completion_id) < cursor,
        ]
    newest = (
        select(rows)
        .where(*conditions)
        .order_by(rows.c.created_at.desc(), rows.c.completion_id.desc())
        .limit(size)
        .subquery("newest")
    )
    order = aggregate_order_by(
        newest.c.completion_id, newest.c.created_at.desc(), newest.c.completion_id.desc()
    )
    query = select(
        func.array_agg(order).filter(fits(newest)),
        func.array_agg(order),
        func.min(newest.c.created_at),
        func.count(),
    )
    found = (await connection.execute(query)).one()
    last = (found[2], found[1][-1]) if found[1] else None
    return _Stretch(found[0] or [], last, found[3])


async def _texts(connection: AsyncConnection, ids: Sequence[str]) -> list[dict[str, Any]]:
    query = (
        with_text()
        .where(rows.c.completion_id.in_(ids), rows.c.day.in_(_days(ids)))
        .order_by(rows.c.created_at.desc(), rows.c.completion_id.desc())
    )
    return [dict(row._mapping) for row in await connection.execute(query)]


def _fits(asked: Asked) -> Any:
    """Whether a row of `newest` is looked for, as a function of that subquery."""

    def condition(newest: Any) -> Any:
        wanted: list[Any] = []
        if asked.version:
            wanted.append(newest.c.version == _number(asked.version))
        if asked.arm:
            wanted.append(newest.c.arm == asked.arm)
        if asked.status:
            wanted.append(newest.c.status == asked.status)
        if asked.rating:
            wanted.append(_rated(newest, asked.rating))
        if asked.q:
            wanted.append(_says(newest, asked.q))
        return and_(True, *wanted)

    return condition


def _says(newest: Any, words: str) -> Any:
    """Whether the answer or what was asked has these words, as they were said or redacted."""
    said = [
        exists().where(
            one.c.completion_id == newest.c.completion_id,
            one.c.day == newest.c.day,
            says(one, words),
        )
        for one in (completion_texts, completion_redacted)
    ]
    return or_(newest.c.completion_id == words, *said)


def _rated(newest: Any, rating: str) -> Any:
    effective = exists().where(
        feedback.c.completion_id == newest.c.completion_id,
        feedback.c.project == newest.c.project,
        feedback.c.effective,
    )
    thumbs = effective.where(feedback.c.kind == "rating", feedback.c.name == "thumbs")
    conditions = {
        "up": thumbs.where(feedback.c.value == func.to_jsonb(True)),
        "down": thumbs.where(feedback.c.value == func.to_jsonb(False)),
        "corrected": effective.where(feedback.c.kind == "demonstration"),
        "commented": effective.where(or_(feedback.c.kind == "comment", feedback.c.comment.is_not(None))),
        "none": ~effective,
    }
    if rating not in conditions:
        raise HoneError(f"rating is '{rating}'; expected one of {', '.join(conditions)}.")
    return conditions[rating]


async def _cursor_at(connection: AsyncConnection, completion_id: str) -> str:
    query = select(rows.c.created_at).where(
        rows.c.completion_id == completion_id, rows.c.day.in_(_days([completion_id]))
    )
    return _write_cursor((await connection.scalar(query), completion_id))


def _write_cursor(cursor: tuple[Any, str]) -> str:
    return f"{cursor[0].isoformat()},{cursor[1]}"


def _read_cursor(value: str) -> tuple[datetime, str] | None:
    if not value:
        return None
    moment, _, completion_id = value.partition(",")
    try:
        return datetime.fromisoformat(moment), completion_id
    except ValueError as error:
        raise NotFound(
            f"before is '{value}'; expected a time and an id, such as 2026-11-21T08:00:00+00:00,chatcmpl-1."
        ) from error


def _days(ids: Sequence[str]) -> list[Any]:
    return sorted({day_of(one) for one in ids})


def _number(value: str) -> int:
    if not VERSION_NUMBER.fullmatch(value):
        raise HoneError(f"version is '{value}'; expected a number of nine digits at most, such as 7.")
    return int(value)
