"""The audit trail: every decision a row, every row chained to the one before by hash.

The database refuses to change or remove a row. Whoever gets around that breaks the chain at that place, and `verify`
says where; only cutting off the newest rows leaves a whole chain, so keep the newest hash somewhere else. Rows are
written in the same transaction as the change they describe, so neither exists without the other.

They name people who decide, never people who ask or rate, and hold nothing that either said.
"""

import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson
from sqlalchemy import Select, func, literal, select, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.tables import audit

AUDIT_LOCK = 0x686F6E67
GENESIS = "0" * 64


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One decision."""

    sequence: int
    at: datetime
    project: str
    actor: str
    action: str
    subject: str
    detail: dict[str, Any]
    hash: str


async def write(
    connection: AsyncConnection,
    *,
    project: str,
    actor: str,
    action: str,
    subject: str,
    detail: dict[str, Any],
) -> str:
    """Append one entry and return its hash."""
    # Entries are chained: two writers reading the same last hash would fork the chain.
    await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": AUDIT_LOCK})
    last = (
        await connection.execute(
            select(audit.c.sequence, audit.c.hash).order_by(audit.c.sequence.desc()).limit(1)
        )
    ).one_or_none()
    sequence, previous = (last.sequence + 1, last.hash) if last else (1, GENESIS)
    at = datetime.now(UTC)
    # PostgreSQL keeps numbers, not their spelling: -0.0 comes back as 0.0, 1e16 as a whole number.
    detail = (await connection.execute(select(literal(detail, JSONB)))).scalar_one()
    entry_hash = _entry_hash(previous, sequence, at, project, actor, action, subject, detail)
    await connection.execute(
        audit.insert().values(
            sequence=sequence,
            at=at,
            project=project,
            actor=actor,
            action=action,
            subject=subject,
            detail=detail,
            previous_hash=previous,
            hash=entry_hash,
        )
    )
    return entry_hash


async def entries(
    connection: AsyncConnection,
    project: str,
    *,
    subject: str | None = None,
    action: str | None = None,
    limit: int = 100,
) -> list[AuditEntry]:
    """The newest entries of a project, newest first."""
    query = _newest(project, limit)
    if subject is not None:
        query = query.where(audit.c.subject == subject)
    if action is not None:
        query = query.where(audit.c.action == action)
    return await _read(connection, query)


async def decisions(
    connection: AsyncConnection, project: str, model: str, *, limit: int = 100
) -> list[AuditEntry]:
    """What was decided last about versions of a model; a champion's retirement is told with what replaced it."""
    about, what = (func.split_part(audit.c.action, ".", part) for part in (1, 2))
    query = _newest(project, limit).where(
        func.split_part(audit.c.subject, "@", 1) == model,
        about.in_(("adapter", "experiment", "rollout")),
        what.not_in(("register", "replace", "start")),
    )
    return await _read(connection, query)


def _newest(project: str, limit: int) -> Select[Any]:
    return select(audit).where(audit.c.project == project).order_by(audit.c.sequence.desc()).limit(limit)


async def _read(connection: AsyncConnection, query: Select[Any]) -> list[AuditEntry]:
    return [
        AuditEntry(
            row.sequence, row.at, row.project, row.actor, row.action, row.subject, row.detail, row.hash
        )
        for row in await connection.execute(query)
    ]


async def verify(connection: AsyncConnection) -> int | None:
    """Recompute the whole chain; the sequence number of the first broken entry, or None when it is whole."""
    previous, expected = GENESIS, 1
    async with connection.stream(select(audit).order_by(audit.c.sequence)) as result:
        async for row in result:
            seen = _entry_hash(
                row.previous_hash,
                row.sequence,
                row.at,
                row.project,
                row.actor,
                row.action,
                row.subject,
                row.detail,
            )
            if row.sequence != expected or row.previous_hash != previous or row.hash != seen:
                return expected
            previous, expected = row.hash, expected + 1
    return None


async def newest(connection: AsyncConnection) -> tuple[int, str]:
    """How many entries there are, and the hash of the last."""
    query = select(audit.c.sequence, audit.c.hash).order_by(audit.c.sequence.desc()).limit(1)
    row = (await connection.execute(query)).one_or_none()
    return (row.sequence, row.hash) if row else (0, GENESIS)


async def has(connection: AsyncConnection, entry_hash: str) -> bool:
    """Whether an entry has this hash."""
    found = await connection.scalar(select(audit.c.sequence).where(audit.c.hash == entry_hash))
    return found is not None or entry_hash == GENESIS


def _entry_hash(
    previous: str,
    sequence: int,
    at: datetime,
    project: str,
    actor: str,
    action: str,
    subject: str,
    detail: dict[str, Any],
) -> str:
    content = [previous, sequence, at.astimezone(UTC).isoformat(), project, actor, action, subject, detail]
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()
