"""Erasures: forget a person, or one completion, everywhere that this service knows of.

An erasure is a row with phases, so a crash leaves it where it was and `advance` goes on; asking twice is one erasure.
`requested`: the tombstone stands, what was made until then gets in no more. `record`: every row is deleted, the
adapters that learned from them are listed. `files`: files of this machine are clean. `done`: nothing names the person
any more; hashes, times, counts and adapters remain, and the audit trail has its entries without a name.

Not reached: the database's write-ahead log and backups, exports that were copied, uploads, and whatever the
applications keep themselves. The page on privacy says what to do about each.
"""

import re
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import ColumnElement, func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import audit, erasing, exports, keys, runs, taint, tombstones
from feedback.database import Database, notify_registry
from feedback.erasing import Found
from feedback.erasure_files import clean
from feedback.errors import HoneError, NotFound
from feedback.ids import RATER_ID_LENGTH_MAX, new_id, pseudonym
from feedback.moments import check_days
from feedback.privacy_tables import erasures
from feedback.tables import completions

PSEUDONYM = re.compile(r"rater-[0-9a-f]{24}")
LOCK_TIMEOUT = "5s"

_OLDER = text("""
    SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()
    AND backend_type = 'client backend' AND xact_start < to_timestamp(:since)""")


@dataclass(frozen=True, slots=True)
class Erasure:
    """One request to forget, and how far it got."""

    erasure_id: str
    project: str
    kind: str
    phase: str
    pending: dict[str, Any] | None
    counts: dict[str, int]
    waits_for: str | None
    requested_by: str
    retire_by: datetime | None
    requested_at: datetime
    finished_at: datetime | None

    def view(self) -> dict[str, Any]:
        """For people and programs: without what names the person."""
        return {name: value for name, value in asdict(self).items() if name != "pending"}


async def request(
    connection: AsyncConnection,
    project: str,
    *,
    rater: str | None = None,
    completion_id: str | None = None,
    retire_within_days: float | None = None,
    and_future: bool = False,
    by: str,
) -> Erasure:
    """Ask to forget a rater (as the application calls them, or by pseudonym) or a completion; refuses them from now on.

    `and_future` refuses what the rater does later, too. `retire_within_days` sets the deadline for adapters that
    learned from it. Asking again for what is being erased returns that erasure, with either added: it never shrinks.

    Raises:
        HoneError: not exactly one of rater and completion is named, or it names nobody.
    """
    if (rater is None) == (completion_id is None):
        raise HoneError("Name what to erase: either a rater or a completion.")
    check_days("The deadline for the adapters", retire_within_days)
    kind, name = (
        ("rater", await _pseudonym(connection, project, rater)) if rater else ("completion", completion_id)
    )
    assert name is not None
    subject = tombstones.rater_subject(project, name) if kind == "rater" else name
    subject_hash = await tombstones.subject_hash(connection, subject)
    # Two requests at once would otherwise both find none.
    await connection.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 2))"), {"name": subject}
    )
    deadline = None if retire_within_days is None else func.now() + timedelta(days=retire_within_days)
    open_one = select(erasures).where(erasures.c.subject_hash == subject_hash, erasures.c.phase != "done")
    found = (await connection.execute(open_one.with_for_update())).one_or_none()
    if kind == "completion":
        await _check_owner(connection, project, name, found.project if found else None)
    if found is not None:
        return await _widen(connection, _erasure(found), subject, deadline, and_future=and_future, by=by)
    row = await connection.execute(
        erasures.insert()
        .values(
            erasure_id=new_id("erasure"),
            project=project,
            kind=kind,
            phase="requested",
            subject_hash=subject_hash,
            pending={"subject": name},
            requested_by=by,
            retire_by=deadline,
        )
        .returning(erasures)
    )
    erasure = _erasure(row.one())
    until = erasure.requested_at if kind == "rater" and not and_future else None
    await tombstones.bury(connection, erasure.erasure_id, [subject], until)
    await _audit(connection, erasure, "erasure.request", by, {"kind": kind, "and_future": and_future})
    # Gateways let go of what their spools still hold.
    await notify_registry(connection, f"erasure:{erasure.erasure_id}")
    return erasure


async def _widen(
    connection: AsyncConnection,
    erasure: Erasure,
    subject: str,
    deadline: ColumnElement[Any] | None,
    *,
    and_future: bool,
    by: str,
) -> Erasure:
    """Add to an open erasure what is asked for on top: the future, or an earlier deadline."""
    wider = erasure
    if deadline is not None:
        # Of two deadlines the earlier: LEAST passes over one that is NULL.
        sooner = func.least(erasures.c.retire_by, deadline)
        wider = await _change(connection, erasure.erasure_id, retire_by=sooner)
    until = await tombstones.refused_until(connection, subject)
    adds_future = and_future and until < tombstones.FOR_EVER
    if adds_future:
        await tombstones.bury(connection, erasure.erasure_id, [subject])
        # What they did since the first request was let in: it is looked for, too.
        await _change(connection, erasure.erasure_id, phase="requested")
    if adds_future or wider != erasure:
        detail = {"and_future": adds_future, "retire_by": wider.retire_by and wider.retire_by.isoformat()}
        await _audit(connection, erasure, "erasure.widen", by, detail)
    return wider


async def _pseudonym(connection: AsyncConnection, project: str, rater: str | None) -> str:
    if not rater or len(rater) > RATER_ID_LENGTH_MAX:
        raise HoneError(
            f"A rater's id has 1 to {RATER_ID_LENGTH_MAX} characters; this one has {len(rater or '')}."
        )
    if PSEUDONYM.fullmatch(rater):
        return rater
    return pseudonym(await keys.service_secret(connection, "pseudonym"), project, rater)


async def _check_owner(
    connection: AsyncConnection, project: str, completion_id: str, erased_for: str | None
) -> None:
    owner = erased_for or await connection.scalar(
        select(completions.c.project).where(completions.c.completion_id == completion_id)
    )
    if owner is not None and owner != project:
        raise NotFound(f"Project '{project}' has no completion '{completion_id}'.")


async def advance(database: Database, erasure_id: str, state_dir: Path) -> Erasure:
    """Do what is left of an erasure, as far as it can be done now and on this machine. Safe to repeat."""
    async with database.begin() as connection:
        erasure = await _by_id(connection, erasure_id)
    if erasure.phase == "requested":
        async with database.begin() as connection:
            await erasing.bury(connection, erasure_id, await _find(connection, erasure))
        await _wait_for_writers(database)
        async with database.begin() as connection:
            erasure = await _erase_record(connection, erasure_id)
    if erasure.phase == "record":
        erasure = await _clean_files(database, erasure, state_dir)
    if erasure.phase == "files":
        async with database.begin() as connection:
            erasure = await _finish(connection, erasure)
    return erasure


async def _wait_for_writers(database: Database) -> None:
    """Return when every transaction has ended that may have looked for the tombstones before they stood."""
    async with database.begin() as connection:
        await connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
        await connection.execute(
            text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": tombstones.WRITING_LOCK}
        )
        await connection.execute(text("LOCK TABLE completions IN SHARE MODE"))


async def count(connection: AsyncConnection, erasure: Erasure) -> dict[str, int]:
    """How many completions and pieces of feedback an erasure is about."""
    assert erasure.pending is not None
    found = await _find(connection, erasure)
    return {"completions": len(found.completion_ids), "feedback": len(found.feedback_ids)}


async def _find(connection: AsyncConnection, erasure: Erasure) -> Found:
    assert erasure.pending is not None
    find = erasing.find_rater if erasure.kind == "rater" else erasing.find_completion
    return await find(connection, erasure.project, erasure.pending["subject"])


async def _erase_record(connection: AsyncConnection, erasure_id: str) -> Erasure:
    erasure = await _by_id(connection, erasure_id, lock=True)
    if erasure.phase != "requested" or erasure.pending is None:
        return erasure
    by, subject = erasure.requested_by, erasure.pending["subject"]
    found = (await _find(connection, erasure)).with_what(erasure.pending.get("found"))
    erased = await erasing.erase(connection, erasure_id, found, by=by)
    tainted = await taint.mark(connection, erasure_id, erasure.project, erased.trained_datasets)
    run_ids = sorted({*erasure.pending.get("runs", ()), *erased.run_ids})
    pending = {"subject": subject, "found": asdict(found), "runs": run_ids}
    moment = await connection.scalar(select(func.clock_timestamp()))
    assert isinstance(moment, datetime)
    pending["since"] = moment.timestamp()
    counts = {"completions": 0, "feedback": 0, **erasure.counts, "tainted_adapters": len(tainted)}
    for name, rows in erased.counts.items():
        counts[name] = counts.get(name, 0) + rows
    return await _change(connection, erasure_id, phase="record", pending=pending, counts=counts)


async def _clean_files(database: Database, erasure: Erasure, state_dir: Path) -> Erasure:
    assert erasure.pending is not None
    found, run_ids = Found(**erasure.pending["found"]), erasure.pending["runs"]
    async with database.begin() as connection:
        busy = {run.run_id for run in await runs.unfinished(connection)} & set(run_ids)
        written = await exports.on_this_machine(connection, erasure.project)
        older = await connection.scalar(_OLDER, {"since": erasure.pending["since"]})
    cleaned = await clean(state_dir, found.names, [one for one in run_ids if one not in busy], written)
    waits = [*cleaned.waits_for, *(f"run {run_id} is being cancelled" for run_id in sorted(busy))]
    waits += ["queries that began before the rows were deleted"] if older else []
    counts = dict(erasure.counts)
    for name, number in cleaned.counts.items():
        counts[name] = counts.get(name, 0) + number
    async with database.begin() as connection:
        await exports.mark_deleted(connection, cleaned.exports)
        return await _change(
            connection,
            erasure.erasure_id,
            counts=counts,
            waits_for="; ".join(waits) or None,
            phase="record" if waits else "files",
        )


async def _finish(connection: AsyncConnection, erasure: Erasure) -> Erasure:
    now = await _by_id(connection, erasure.erasure_id, lock=True)
    if now.phase == "done" or now.pending is None:
        return now
    # A dataset that was being frozen meanwhile may have read the rows before they were deleted.
    found = Found(**now.pending["found"])
    again = await erasing.erase(connection, now.erasure_id, found, by=now.requested_by)
    if again.run_ids:
        await taint.mark(connection, now.erasure_id, now.project, again.trained_datasets)
        pending = now.pending | {"runs": list(again.run_ids)}
        return await _change(connection, now.erasure_id, phase="record", pending=pending)
    done = await _change(
        connection, erasure.erasure_id, phase="done", pending=None, waits_for=None, finished_at=func.now()
    )
    await _audit(connection, done, "erasure.done", erasure.requested_by, done.counts)
    return done


async def unfinished(connection: AsyncConnection) -> list[Erasure]:
    """Those that are not done, oldest first."""
    return await _where(connection, erasures.c.phase != "done")


async def in_project(connection: AsyncConnection, project: str) -> list[Erasure]:
    """The erasures of a project, oldest first."""
    return await _where(connection, erasures.c.project == project)


async def get(connection: AsyncConnection, project: str, erasure_id: str) -> Erasure:
    """One erasure.

    Raises:
        NotFound: the project has none of this id.
    """
    found = await _where(connection, (erasures.c.project == project) & (erasures.c.erasure_id == erasure_id))
    if not found:
        raise NotFound(
            f"Project '{project}' has no erasure '{erasure_id}'. `hone privacy list` shows its own."
        )
    return found[0]


async def report(connection: AsyncConnection, erasure: Erasure) -> dict[str, Any]:
    """An erasure with the adapters it taints, and what to do about each."""
    return erasure.view() | {
        "exports_elsewhere": await exports.elsewhere(connection, erasure.project),
        "tainted": await taint.plan(connection, erasure.erasure_id),
    }


async def newest_request(connection: AsyncConnection) -> datetime | None:
    """When the last erasure was asked for: what is older in a spool's files may belong to it."""
    moment: datetime | None = await connection.scalar(select(func.max(erasures.c.requested_at)))
    return moment


async def touched_tables(connection: AsyncConnection) -> list[str]:
    """The tables, and partitions, that hold what erasures delete."""
    names = ("feedback", "dataset_rows", "dataset_exclusions", "reviews", "evaluation_answers", "erasures")
    parts = await connection.scalars(
        text(
            "SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent IN "
            "('completions'::regclass, 'completion_texts'::regclass, 'completion_redacted'::regclass)"
        )
    )
    return [*names, *sorted(parts)]


async def rewrite_tables(database: Database) -> int:
    """Write every table that erasures touch anew, so that no deleted byte is left in its files; returns how many.

    Locks one table at a time, for as long as copying it takes; completions and feedback wait in the spool meanwhile.
    """
    async with database.begin() as connection:
        tables = await touched_tables(connection)
    raw = await database.connect_raw()
    try:
        for table in tables:
            await raw.execute(f"VACUUM (FULL) {table}")
        await raw.execute("CHECKPOINT")
    finally:
        await raw.close()
    return len(tables)


async def _by_id(connection: AsyncConnection, erasure_id: str, *, lock: bool = False) -> Erasure:
    query = select(erasures).where(erasures.c.erasure_id == erasure_id)
    return _erasure((await connection.execute(query.with_for_update() if lock else query)).one())


async def _where(connection: AsyncConnection, condition: Any) -> list[Erasure]:
    query = select(erasures).where(condition).order_by(erasures.c.requested_at, erasures.c.erasure_id)
    return [_erasure(row) for row in await connection.execute(query)]


async def _change(connection: AsyncConnection, erasure_id: str, **values: Any) -> Erasure:
    query = update(erasures).where(erasures.c.erasure_id == erasure_id).values(**values)
    return _erasure((await connection.execute(query.returning(erasures))).one())


def _erasure(row: Any) -> Erasure:
    return Erasure(**{name: value for name, value in row._mapping.items() if name != "subject_hash"})


async def _audit(
    connection: AsyncConnection, erasure: Erasure, action: str, by: str, detail: dict[str, Any]
) -> None:
    await audit.write(
        connection,
        project=erasure.project,
        actor=by,
        action=action,
        subject=erasure.erasure_id,
        detail=detail,
    )
