"""How long what is kept: partitions made ahead, and dropped when the last of their rows is old enough.

Dropping a partition gives its disk space back at once and rewrites nothing, however many rows it had. Each drop is one
transaction with its audit row; one that would have to wait for a long query is left for the next time. Rows whose id
carries no day, and comments and corrections, which stand beside votes that stay, are deleted in small batches.

What was asked and answered goes before its completion, which alone says whose it was: an erasure finds all that is
left.

Datasets keep their own copy of their rows; they lose them by erasure only.
"""

import re
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import audit, exposure_sums
from feedback.adapters import AUTOMATIC_ACTOR
from feedback.database import Database
from feedback.settings import FeedbackSettings

AHEAD_DAYS = 7
BATCH_ROWS = 10_000
LOCK_TIMEOUT = "2s"
EVERY_PROJECT = "*"
UPPER_BOUND = re.compile(r"TO \('(\d{4}-\d{2}-\d{2})'\)")

# Completions last: they say whose the texts are.
_LIVES = {
    "completion_texts": "text_retention_days",
    "completion_redacted": "redacted_retention_days",
    "completions": "completion_retention_days",
}

_PARTITIONS = text("""
    SELECT inhrelid::regclass::text AS partition, pg_get_expr(part.relpartbound, part.oid) AS bounds,
           pg_total_relation_size(part.oid) AS bytes, greatest(part.reltuples, 0)::bigint AS rows
    FROM pg_inherits JOIN pg_class AS part ON part.oid = inhrelid
    WHERE inhparent = CAST(:parent AS regclass) ORDER BY 1""")

_OLD_TEXT = """
    created_at < :before AND (
        comment IS NOT NULL OR metadata IS NOT NULL
        OR (kind IN ('comment', 'demonstration') AND value <> 'null'))"""

_FORGET_SAID = text(f"""
    UPDATE feedback SET comment = NULL, metadata = NULL,
        value = CASE WHEN kind IN ('comment', 'demonstration') THEN 'null' ELSE value END,
        effective = effective AND kind NOT IN ('comment', 'demonstration')
    WHERE feedback_id IN (SELECT feedback_id FROM feedback WHERE {_OLD_TEXT} LIMIT :rows)""")

# A text whose completion is gone has no time of its own, and goes at once.
_FORGET_OTHER = {
    table: text(
        f"DELETE FROM {table}_other WHERE completion_id IN (SELECT completion_id FROM {table}_other "
        "LEFT JOIN completions_other AS whose USING (completion_id) "
        "WHERE coalesce(whose.created_at < :before, true) LIMIT :rows)"
    )
    for table in _LIVES
}


@dataclass(frozen=True, slots=True)
class Part:
    """One partition, when its time is over, and what it takes up."""

    table: str
    partition: str
    goes_on: date | None
    """The first day on which it may be dropped; None: never."""
    bytes: int
    rows: int
    """As PostgreSQL estimates it."""


def days_kept(settings: FeedbackSettings, name: str) -> int:
    """What one of the settings `*_retention_days` comes to, in days; 0: for ever.

    What was asked and answered is kept no longer than its completion, whatever its own setting says.
    """
    days, longest = int(getattr(settings, name)), settings.completion_retention_days
    return min(days or longest, longest or days) if name in _LIVES.values() else days


async def make_ahead(connection: AsyncConnection) -> int:
    """Make the partitions of the coming days; returns how many were missing."""
    made = await connection.scalar(
        text("SELECT make_partitions(CAST(:first AS date), CAST(:last AS date))"),
        {"first": _today() - timedelta(days=1), "last": _today() + timedelta(days=AHEAD_DAYS)},
    )
    return int(made or 0)


async def parts(connection: AsyncConnection, settings: FeedbackSettings) -> list[Part]:
    """Every partition, by table and age."""
    found = []
    for table, name in _LIVES.items():
        days = days_kept(settings, name)
        for row in await connection.execute(_PARTITIONS, {"parent": table}):
            upper = UPPER_BOUND.search(row.bounds)
            last = date.fromisoformat(upper[1]) if upper else None
            named_other = row.partition.endswith("_other")
            goes_on = None if not days or last is None or named_other else last + timedelta(days=days)
            found.append(Part(table, row.partition, goes_on, row.bytes, row.rows))
    return found


async def due(connection: AsyncConnection, settings: FeedbackSettings) -> list[Part]:
    """The partitions that may be dropped today."""
    return [part for part in await parts(connection, settings) if part.goes_on and part.goes_on <= _today()]


async def old_texts(connection: AsyncConnection, settings: FeedbackSettings) -> int:
    """How many comments and corrections are over their time."""
    if not settings.feedback_text_retention_days:
        return 0
    before = {"before": _before(settings.feedback_text_retention_days)}
    return int(await connection.scalar(text(f"SELECT count(*) FROM feedback WHERE {_OLD_TEXT}"), before) or 0)


async def keep(database: Database, settings: FeedbackSettings) -> list[str]:
    """Make partitions ahead and let go of what is over its time; returns what was done, one sentence each."""
    async with database.begin() as connection:
        await make_ahead(connection)
        over = await due(connection, settings)
    dropped = [await _drop(database, part) for part in over if part.table != "completions"]
    if all(dropped):  # Else a text that has to wait would lose the completion that says whose it is.
        dropped += [await _drop(database, part) for part in over if part.table == "completions"]
    done = [sentence for sentence in dropped if sentence]
    for table, name in _LIVES.items():
        if days := days_kept(settings, name):
            deleted = await _in_batches(database, _FORGET_OTHER[table], _before(days))
            done += await _say(database, table, "rows without a day", deleted)
    if settings.feedback_text_retention_days:
        forgotten = await _in_batches(database, _FORGET_SAID, _before(settings.feedback_text_retention_days))
        done += await _say(database, "feedback", "comments and corrections", forgotten)
    return done


def drop_set_aside(state_dir: Path, days: int) -> list[str]:
    """Delete records that were set aside as long ago as text is kept; blocks. Returns what was done."""
    before = datetime.now(UTC).timestamp() - days * 86_400
    old = [path for path in state_dir.glob("spool/refused/*.bin") if days and path.stat().st_mtime < before]
    for path in old:
        path.unlink(missing_ok=True)
    return [f"{len(old)} records that were set aside are deleted."] if old else []


async def _drop(database: Database, part: Part) -> str | None:
    try:
        async with database.begin() as connection:
            await connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
            await connection.execute(text(f"DROP TABLE {part.partition}"))
            if part.table == "completions":
                await exposure_sums.distrust(connection)
            detail = {"table": part.table, "rows_estimated": part.rows, "bytes": part.bytes}
            await _audit(connection, "retention.drop", part.partition, detail)
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != "55P03":
            raise
        return None  # A long query reads the table: the next hour comes.
    return f"{part.partition} is dropped: {part.bytes} bytes come back."


async def _in_batches(database: Database, statement: Any, before: datetime) -> int:
    total = 0
    while True:
        async with database.begin() as connection:
            result = await connection.execute(statement, {"before": before, "rows": BATCH_ROWS})
        total += result.rowcount
        if result.rowcount < BATCH_ROWS:
            return total


async def _say(database: Database, table: str, what: str, count: int) -> list[str]:
    if not count:
        return []
    async with database.begin() as connection:
        await _audit(connection, "retention.delete", table, {"rows": count, "what": what})
    return [f"{count} {what} of {table} are deleted."]


async def _audit(connection: AsyncConnection, action: str, subject: str, detail: dict[str, Any]) -> None:
    await audit.write(
        connection,
        project=EVERY_PROJECT,
        actor=AUTOMATIC_ACTOR,
        action=action,
        subject=subject,
        detail=detail,
    )


def _today() -> date:
    return datetime.now(UTC).date()


def _before(days: int) -> datetime:
    return datetime.now(UTC) - timedelta(days=days)
