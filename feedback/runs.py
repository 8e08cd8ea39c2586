"""Training runs: a frozen recipe on a frozen dataset, and where each stands.

A run's status and phase are enough to go on after any crash: the worker reads them and repeats the phase. A paused run
keeps its checkpoint and its version number, and goes on from there when it is resumed.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import case, func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import adapters, audit
from feedback.errors import Conflict, IllegalMove, NotFound
from feedback.ids import new_id
from feedback.tables import run_events, runs

UNFINISHED = ("queued", "running", "paused")


@dataclass(frozen=True, slots=True)
class Run:
    """One run."""

    run_id: str
    project: str
    model: str
    method: str
    status: str
    phase: str
    recipe: dict[str, Any]
    recipe_hash: str
    dataset_id: str
    adapter_id: str | None
    progress: dict[str, Any]
    attempts: int
    error: str | None
    requested_by: str
    cancel_requested: bool
    pause_requested: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None


@dataclass(frozen=True, slots=True)
class RunEvent:
    """One thing a run did."""

    event_id: int
    run_id: str
    level: str
    message: str
    data: dict[str, Any]
    at: datetime


async def create(
    connection: AsyncConnection,
    *,
    project: str,
    model: str,
    method: str,
    recipe: dict[str, Any],
    recipe_hash: str,
    dataset_id: str,
    by: str,
) -> Run:
    """Queue a run and reserve its adapter version.

    Raises:
        Conflict: the model has a run that has not ended.
    """
    adapter_id, version = await adapters.reserve(connection, project, model)
    if (busy := await unfinished_of(connection, project, model)) is not None:
        raise Conflict(
            f"Model '{model}' is already being trained by {busy.run_id}, which is '{busy.status}'. Wait for it, or "
            "end it with `hone run cancel`."
        )
    row = (
        await connection.execute(
            runs.insert()
            .values(
                run_id=new_id("run"),
                project=project,
                model=model,
                method=method,
                status="queued",
                phase="training",
                recipe=recipe,
                recipe_hash=recipe_hash,
                dataset_id=dataset_id,
                adapter_id=adapter_id,
                requested_by=by,
            )
            .returning(runs)
        )
    ).one()
    run = Run(**row._mapping)
    await audit.write(
        connection,
        project=project,
        actor=by,
        action="run.create",
        subject=run.run_id,
        detail={
            "version": f"{model}@{version}",
            "method": method,
            "dataset_id": dataset_id,
            "recipe_hash": recipe_hash,
        },
    )
    return run


async def get(connection: AsyncConnection, project: str, run_id: str) -> Run:
    """One run.

    Raises:
        NotFound: the project has no such run.
    """
    row = (
        await connection.execute(select(runs).where(runs.c.project == project, runs.c.run_id == run_id))
    ).one_or_none()
    if row is None:
        raise NotFound(f"Project '{project}' has no run '{run_id}'. `hone run list` shows its runs.")
    return Run(**row._mapping)


async def by_id(connection: AsyncConnection, run_id: str) -> Run:
    """The run with this id, of any project: for the processes that carry it out."""
    row = (await connection.execute(select(runs).where(runs.c.run_id == run_id))).one_or_none()
    if row is None:
        raise NotFound(f"No run has the id '{run_id}'.")
    return Run(**row._mapping)


async def in_project(connection: AsyncConnection, project: str, *, model: str | None = None) -> list[Run]:
    """The runs of a project, newest first."""
    query = select(runs).where(runs.c.project == project).order_by(runs.c.created_at.desc())
    if model is not None:
        query = query.where(runs.c.model == model)
    return [Run(**row._mapping) for row in await connection.execute(query)]


async def unfinished(connection: AsyncConnection) -> list[Run]:
    """Runs with something to be done, oldest first: all that have not ended, but for those that only rest."""
    resting = (runs.c.status == "paused") & ~runs.c.cancel_requested
    query = select(runs).where(runs.c.status.in_(UNFINISHED), ~resting).order_by(runs.c.created_at)
    return [Run(**row._mapping) for row in await connection.execute(query)]


async def unfinished_of(connection: AsyncConnection, project: str, model: str) -> Run | None:
    """The run of a model that has not ended, if there is one; paused counts."""
    query = select(runs).where(
        runs.c.project == project, runs.c.model == model, runs.c.status.in_(UNFINISHED)
    )
    row = (await connection.execute(query.order_by(runs.c.created_at).limit(1))).one_or_none()
    return None if row is None else Run(**row._mapping)


async def start(connection: AsyncConnection, run_id: str) -> Run:
    """Count an attempt and mark the run as running."""
    return await change(
        connection,
        run_id,
        status="running",
        attempts=runs.c.attempts + 1,
        started_at=func.coalesce(runs.c.started_at, func.now()),
    )


async def finish(connection: AsyncConnection, run_id: str, *, status: str, error: str | None = None) -> Run:
    """End a run as `succeeded`, `failed` (with what went wrong and what to do) or `cancelled`."""
    run = await change(connection, run_id, status=status, phase="done", error=error, finished_at=func.now())
    await audit.write(
        connection,
        project=run.project,
        actor=adapters.AUTOMATIC_ACTOR,
        action=f"run.{status}",
        subject=run_id,
        detail={"error": error},
    )
    return run


async def change(connection: AsyncConnection, run_id: str, **values: Any) -> Run:
    """Set columns of a run that has not ended.

    Raises:
        IllegalMove: it has ended.
    """
    row = (
        await connection.execute(
            update(runs)
            .where(runs.c.run_id == run_id, runs.c.status.in_(UNFINISHED))
            .values(**values)
            .returning(runs)
        )
    ).one_or_none()
    if row is None:
        run = await by_id(connection, run_id)
        raise IllegalMove(f"{run_id} has ended as '{run.status}'; it cannot change any more.")
    return Run(**row._mapping)


async def request_cancel(connection: AsyncConnection, project: str, run_id: str, *, by: str) -> Run:
    """Ask a run to stop; the worker ends it within seconds. The champion is not touched.

    Raises:
        IllegalMove: it has ended.
    """
    await get(connection, project, run_id)
    run = await change(connection, run_id, cancel_requested=True)
    await audit.write(connection, project=project, actor=by, action="run.cancel", subject=run_id, detail={})
    return run


async def request_pause(connection: AsyncConnection, project: str, run_id: str, *, by: str) -> Run:
    """Ask a run to rest at its next checkpoint; the worker does it within seconds. Safe to repeat.

    Raises:
        IllegalMove: it has ended, or is past its training.
    """
    run = await get(connection, project, run_id)
    if run.status in UNFINISHED and run.phase != "training":
        raise IllegalMove(f"{run_id} is {run.phase}: only training can be paused. It ends within minutes.")
    paused = await change(connection, run_id, pause_requested=True)
    if not run.pause_requested:
        await audit.write(
            connection, project=project, actor=by, action="run.pause", subject=run_id, detail={}
        )
    return paused


async def rest(connection: AsyncConnection, run_id: str) -> bool:
    """Mark a run as paused, as somebody asked; False where they have let it go on meanwhile, or it has ended."""
    wished = runs.c.pause_requested & runs.c.status.in_(UNFINISHED)
    rests = await connection.scalar(
        update(runs).where(runs.c.run_id == run_id, wished).values(status="paused").returning(runs.c.run_id)
    )
    return rests is not None


async def resume(connection: AsyncConnection, project: str, run_id: str, *, by: str) -> Run:
    """Let a paused run go on from its last checkpoint.

    Raises:
        IllegalMove: it is not paused, and nobody asked for that.
    """
    run = await get(connection, project, run_id)
    if not run.pause_requested:
        raise IllegalMove(f"{run_id} is '{run.status}', not paused: there is nothing to resume.")
    # Not yet at its checkpoint: it never rested, so it only goes on. Decided in the statement: the worker moves it too.
    status = case((runs.c.status == "paused", "queued"), else_=runs.c.status)
    resumed = await change(connection, run_id, pause_requested=False, status=status)
    await audit.write(connection, project=project, actor=by, action="run.resume", subject=run_id, detail={})
    return resumed


async def add_event(
    connection: AsyncConnection,
    run_id: str,
    message: str,
    *,
    level: str = "info",
    data: dict[str, Any] | None = None,
) -> None:
    """Append to what the run did."""
    await connection.execute(
        run_events.insert().values(run_id=run_id, level=level, message=message, data=data or {})
    )


async def events(connection: AsyncConnection, run_id: str, *, after: int = 0) -> list[RunEvent]:
    """What the run did, in order, from the event after `after`."""
    query = (
        select(run_events)
        .where(run_events.c.run_id == run_id, run_events.c.event_id > after)
        .order_by(run_events.c.event_id)
    )
    return [RunEvent(**row._mapping) for row in await connection.execute(query)]


async def newest_told(connection: AsyncConnection, run_id: str, name: str) -> Any:
    """What the run's newest event with `name` in its data holds under it; None where there is none."""
    query = (
        select(run_events.c.data[name])
        .where(run_events.c.run_id == run_id, run_events.c.data.has_key(name))
        .order_by(run_events.c.event_id.desc())
        .limit(1)
    )
    return await connection.scalar(query)
