"""Look through the record: completions and feedback, filtered, a page at a time.

Pages follow a cursor, the id of the last row, and cost the same wherever they are: nothing is counted or skipped. Only
a search for text reads what it does not show. It goes back day by day until a page is full, and unless `since` says
otherwise no further than `SEARCH_DAYS`; the page says how far it looked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Select,
    and_,
    select,
    text,
    tuple_,
    union,
    union_all,
)
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.completions import day_of, is_one, plain, with_text
from feedback.errors import HoneError, NotFound
from feedback.tables import completion_redacted, completion_texts, completions, feedback, models
from feedback.wanted import Wanted, completion_conditions, feedback_query, says

PAGE_ROWS = 50
PAGE_ROWS_MAX = 1000
SEARCH_DAYS = 7
METADATA_LOOKED_AT = 2000
TEXTS = (completion_texts, completion_redacted)


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows, the cursor to those after them (None: there are none), and from when on was searched for text."""

    rows: list[dict[str, Any]]
    after: str | None
    searched_since: datetime | None = None


async def completions_page(
    connection: AsyncConnection,
    wanted: Wanted,
    *,
    after: str | None = None,
    limit: int = PAGE_ROWS,
    oldest_first: bool = False,
) -> Page:
    """Completions with what was said in them and their effective feedback, newest first.

    Raises:
        NotFound: the project has no completion `after`.
        HoneError: the limit is out of range.
    """
    _check_limit(limit)
    there, searched = completions.c, None
    condition = and_(*completion_conditions(wanted))
    if after is not None:
        condition = and_(condition, await _beyond(connection, wanted.project, after, oldest_first))
    if wanted.text is not None:
        ids, searched = await _search(connection, wanted, condition, limit + 1, oldest_first)
    elif wanted.metadata:
        ids = await _with_metadata(connection, wanted, condition, limit + 1, oldest_first)
    else:
        ids = await _ids(connection, wanted, condition, limit + 1, oldest_first)
    order = (there.created_at.asc(), there.completion_id.asc())
    found = await connection.execute(
        with_text()
        .where(there.completion_id.in_(ids[:limit]), there.day.in_({day_of(one) for one in ids[:limit]}))
        .order_by(
            *(order if oldest_first else (one.desc() for one in (there.created_at, there.completion_id)))
        )
    )
    rows = [plain(row) for row in found.mappings()]
    said = await _said_of(connection, wanted.project, [row["completion_id"] for row in rows])
    for row in rows:
        row["feedback"] = said.get(row["completion_id"], [])
    return Page(rows, ids[limit - 1] if len(ids) > limit else None, searched)


async def feedback_page(
    connection: AsyncConnection, wanted: Wanted, *, after: str | None = None, limit: int = PAGE_ROWS
) -> Page:
    """Feedback with the version that it is about, newest first.

    Raises:
        NotFound: the project has no feedback `after`.
        HoneError: the limit is out of range.
    """
    _check_limit(limit)
    said = feedback.c
    query = feedback_query(wanted)
    searched = None
    if wanted.text is not None:
        searched = _search_from(wanted)
        query = query.where(said.created_at >= searched)
    if after is not None:
        anchor = await connection.scalar(
            select(said.created_at).where(said.project == wanted.project, said.feedback_id == after)
        )
        if anchor is None:
            raise NotFound(f"Project '{wanted.project}' has no feedback '{after}' to go on after.")
        query = query.where(tuple_(said.created_at, said.feedback_id) < tuple_(anchor, after))
    query = query.order_by(said.created_at.desc(), said.feedback_id.desc()).limit(limit + 1)
    rows = [plain(row) for row in (await connection.execute(query)).mappings()]
    return Page(rows[:limit], rows[limit - 1]["feedback_id"] if len(rows) > limit else None, searched)


async def _beyond(
    connection: AsyncConnection, project: str, after: str, oldest_first: bool
) -> ColumnElement[bool]:
    there = completions.c
    anchor = await connection.scalar(
        select(there.created_at).where(there.project == project, is_one(completions, after))
    )
    if anchor is None:
        raise NotFound(f"Project '{project}' has no completion '{after}' to go on after.")
    here, last = tuple_(there.created_at, there.completion_id), tuple_(anchor, after)
    return here > last if oldest_first else here < last


async def _ids(
    connection: AsyncConnection,
    wanted: Wanted,
    condition: ColumnElement[bool],
    limit: int,
    oldest_first: bool,
) -> list[str]:
    """Ids in order. A model at a time, each from its own end of the index: one for all would sort the project."""
    there = completions.c
    names = (
        [wanted.model]
        if wanted.model is not None
        else list(await connection.scalars(select(models.c.model).where(models.c.project == wanted.project)))
    )
    if not names:
        return []
    each = [
        _ordered(
            select(there.completion_id, there.created_at).where(condition, there.model == name),
            there,
            oldest_first,
        )
        .limit(limit)
        .subquery()
        for name in names
    ]
    together = union_all(*(select(one) for one in each)).subquery()
    found = await connection.scalars(
        _ordered(select(together.c.completion_id), together.c, oldest_first).limit(limit)
    )
    return list(found)


def _ordered(query: Select[Any], columns: Any, oldest_first: bool) -> Select[Any]:
    keys = (columns.created_at, columns.completion_id)
    return query.order_by(*(key.asc() if oldest_first else key.desc() for key in keys))


async def _with_metadata(
    connection: AsyncConnection,
    wanted: Wanted,
    condition: ColumnElement[bool],
    limit: int,
    oldest_first: bool,
) -> list[str]:
    """Ids of completions that carry these pairs.

    Pairs that many carry are found among the next completions in line, pairs that few carry through their index; either
    way alone would read everything for the other.
    """
    there = completions.c
    near = await _ids(connection, wanted, condition, METADATA_LOOKED_AT, oldest_first)
    found = await _that_carry(connection, near, wanted.metadata)
    if len(found) >= limit:
        return found[:limit]
    if len(near) < METADATA_LOOKED_AT:
        return found
    carrying = union(
        *(
            select(table.c.completion_id, table.c.day).where(table.c.metadata.contains(dict(wanted.metadata)))
            for table in TEXTS
        )
    ).subquery()
    query = (
        select(there.completion_id)
        .join(carrying, (carrying.c.completion_id == there.completion_id) & (carrying.c.day == there.day))
        .where(condition)
    )
    return list(await connection.scalars(_ordered(query, there, oldest_first).limit(limit)))


async def _that_carry(
    connection: AsyncConnection, ids: Sequence[str], metadata: Mapping[str, str]
) -> list[str]:
    days = {day_of(one) for one in ids}
    carrying: set[str] = set()
    for table in TEXTS:
        carrying.update(
            await connection.scalars(
                select(table.c.completion_id).where(
                    table.c.completion_id.in_(ids),
                    table.c.day.in_(days),
                    table.c.metadata.contains(dict(metadata)),
                )
            )
        )
    return [one for one in ids if one in carrying]


async def _search(
    connection: AsyncConnection,
    wanted: Wanted,
    condition: ColumnElement[bool],
    limit: int,
    oldest_first: bool,
) -> tuple[list[str], datetime]:
    """Ids of completions in which a text was said, and from when on was looked: a day at a time, while too few."""
    since = _search_from(wanted)
    first, last = (
        since.astimezone(UTC).date(),
        (wanted.until or _now() + timedelta(days=1)).astimezone(UTC).date(),
    )
    days = [day for day in await _days_with_text(connection) if first <= day <= last]
    there, found = completions.c, list[str]()
    for day in sorted(days, reverse=not oldest_first):
        saying = union(
            *(
                select(table.c.completion_id).where(table.c.day == day, says(table, wanted.text or ""))
                for table in TEXTS
            )
        )
        query = select(there.completion_id).where(
            condition, there.day == day, there.completion_id.in_(saying)
        )
        query = query.where(there.created_at >= since)
        found += await connection.scalars(_ordered(query, there, oldest_first).limit(limit - len(found)))
        if len(found) >= limit:
            break
    return found, since


def _search_from(wanted: Wanted) -> datetime:
    return wanted.since or (wanted.until or _now()) - timedelta(days=SEARCH_DAYS)


async def _days_with_text(connection: AsyncConnection) -> set[date]:
    names = await connection.scalars(
        text(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent IN "
            "('completion_texts'::regclass, 'completion_redacted'::regclass)"
        )
    )
    return {
        date.fromisoformat(name.strip('"')[-10:].replace("_", "-")) for name in names if name[-1:].isdigit()
    }


async def _said_of(
    connection: AsyncConnection, project: str, ids: Sequence[str]
) -> dict[str, list[dict[str, Any]]]:
    said = feedback.c
    found = await connection.execute(
        select(
            said.completion_id, said.feedback_id, said.kind, said.name, said.value, said.comment, said.rater
        )
        .where(said.project == project, said.completion_id.in_(ids), said.effective)
        .order_by(said.created_at)
    )
    about: dict[str, list[dict[str, Any]]] = {}
    for row in found.mappings():
        values = plain(row)
        about.setdefault(values.pop("completion_id"), []).append(values)
    return about


def _check_limit(limit: int) -> None:
    if not 1 <= limit <= PAGE_ROWS_MAX:
        raise HoneError(f"limit = {limit}; expected 1 to {PAGE_ROWS_MAX}.")


def _now() -> datetime:
    return datetime.now(UTC)
