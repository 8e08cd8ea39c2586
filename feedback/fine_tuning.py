"""Fine-tuning jobs as OpenAI's clients know them, each in front of one run.

A job is what was asked for; everything that happens is its run's. Until the worker has read the files a job has a
status of its own, afterwards it is the run's. The `ft:` name is given when the run is made and answers once the run has
succeeded, whatever the gate said: the name is pinned, so nobody meets it who did not ask for it. Taking the name back
(`withdraw`) lets engines drop a version that nothing else needs.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from sqlalchemy import func, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import adapters, audit, models
from feedback import runs as runs_of_record
from feedback.adapters import REFERENCE
from feedback.database import notify_registry
from feedback.errors import HoneError, IllegalMove, NotFound
from feedback.ids import new_id
from feedback.tables import adapters as adapter_rows
from feedback.tables import runs
from feedback.tuning_tables import fine_tuning_jobs as jobs

WAITING = ("validating_files", "queued")
ENDED = ("succeeded", "failed", "cancelled")
FT_PREFIX = "ft:"


@dataclass(frozen=True, slots=True)
class Job:
    """One job, with the state of its run."""

    job_id: str
    project: str
    model: str
    asked_model: str
    start_from: str | None
    method: str
    hyperparameters: dict[str, Any]
    training_file: str
    validation_file: str | None
    suffix: str | None
    seed: int
    metadata: dict[str, str] | None
    status: str
    error: dict[str, Any] | None
    run_id: str | None
    fine_tuned_model: str | None
    trained_tokens: int | None
    result_files: list[str]
    cancel_requested: bool
    requested_by: str
    created_at: datetime
    finished_at: datetime | None
    withdrawn_at: datetime | None
    progress: dict[str, Any]
    recipe: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Target:
    """What a client's `model` means here."""

    model: models.Model
    start_from: str | None
    """Id of the adapter to continue from."""


@dataclass(frozen=True, slots=True)
class Named:
    """A version that answers under an `ft:` name."""

    project: str
    name: str
    adapter_id: str


async def resolve(connection: AsyncConnection, project: str, asked: str) -> Target:
    """Find what to train: an alias, a version of it, an `ft:` name, or a base model that one alias stands on.

    Raises:
        NotFound: none of these.
        HoneError: several aliases stand on that base model.
    """
    if asked.startswith(FT_PREFIX):
        found = next(
            (one for one in await named(connection) if (one.project, one.name) == (project, asked)), None
        )
        if found is None:
            raise NotFound(
                f"Project '{project}' has no fine-tuned model '{asked}'. `GET /v1/models` lists them."
            )
        adapter = await adapters.by_id(connection, found.adapter_id)
        return Target(await models.get(connection, project, adapter.model), adapter.adapter_id)
    if REFERENCE.fullmatch(asked):
        adapter = await adapters.get(connection, project, asked)
        model = await models.get(connection, project, adapter.model)
        return Target(model, adapter.adapter_id if adapter.version else None)
    every = await models.in_project(connection, project)
    on_base = [model for model in every if asked in (model.base_model, base_name(model.base_model))]
    by_alias = next((model for model in every if model.model == asked), None)
    if by_alias is None and len(on_base) > 1:
        names = ", ".join(model.model for model in on_base)
        raise HoneError(f"Base model '{asked}' stands behind {names}. Name one of these as the model.")
    chosen = by_alias or next(iter(on_base), None)
    if chosen is None:
        raise NotFound(
            f"Project '{project}' has no model '{asked}' to fine-tune; it has: "
            f"{', '.join(model.model for model in every) or 'none'}. Name one of these, or a version such as support@7."
        )
    return Target(chosen, None)


def base_name(base_model: str) -> str:
    """The base model's part of an `ft:` name: the last part of its path or hub name."""
    return PurePosixPath(base_model).name


def ft_name(base_model: str, project: str, suffix: str | None, adapter_id: str) -> str:
    """`ft:<base>:<project>:<suffix>:<id>`; the id is the adapter's own, so no name comes twice."""
    parts = (base_name(base_model), project, suffix or "", adapter_id.rpartition("-")[2])
    return FT_PREFIX + ":".join(re.sub(r"[^A-Za-z0-9._-]", "-", part) for part in parts)


async def create(
    connection: AsyncConnection,
    *,
    project: str,
    target: Target,
    asked_model: str,
    method: str,
    hyperparameters: Mapping[str, Any],
    training_file: str,
    validation_file: str | None,
    suffix: str | None,
    seed: int,
    metadata: Mapping[str, str] | None,
    by: str,
) -> Job:
    """Ask for a job; the worker reads its files and makes the run."""
    job_id = new_id("ftjob")
    await connection.execute(
        jobs.insert().values(
            job_id=job_id,
            project=project,
            model=target.model.model,
            asked_model=asked_model,
            start_from=target.start_from,
            method=method,
            hyperparameters=dict(hyperparameters),
            training_file=training_file,
            validation_file=validation_file,
            suffix=suffix,
            seed=seed,
            metadata=None if metadata is None else dict(metadata),
            status="validating_files",
            requested_by=by,
        )
    )
    detail = {"model": target.model.model, "method": method, "training_file": training_file}
    await audit.write(
        connection, project=project, actor=by, action="fine_tuning.create", subject=job_id, detail=detail
    )
    return await get(connection, project, job_id)


async def get(connection: AsyncConnection, project: str, job_id: str) -> Job:
    """One job.

    Raises:
        NotFound: the project has none of this id.
    """
    row = (
        await connection.execute(_joined().where(jobs.c.project == project, jobs.c.job_id == job_id))
    ).one_or_none()
    if row is None:
        raise NotFound(f"Project '{project}' has no fine-tuning job '{job_id}'.")
    return _job(row)


async def in_project(
    connection: AsyncConnection,
    project: str,
    *,
    after: str | None = None,
    limit: int = 20,
    metadata: Mapping[str, str] | None = None,
) -> list[Job]:
    """The jobs of a project, newest first, at most `limit`, older than `after`, with all of `metadata`."""
    place = tuple_(jobs.c.created_at, jobs.c.job_id)
    query = _joined().where(jobs.c.project == project).limit(limit)
    if after is not None:
        last = await get(connection, project, after)
        query = query.where(place < tuple_(last.created_at, last.job_id))
    if metadata:
        query = query.where(jobs.c.metadata.contains(dict(metadata)))
    query = query.order_by(jobs.c.created_at.desc(), jobs.c.job_id.desc())
    return [_job(row) for row in await connection.execute(query)]


async def waiting(connection: AsyncConnection) -> list[Job]:
    """Jobs of all projects whose files nobody has turned into a run, oldest first."""
    query = _joined().where(jobs.c.run_id.is_(None), jobs.c.status.in_(WAITING)).order_by(jobs.c.created_at)
    return [_job(row) for row in await connection.execute(query)]


async def attach(
    connection: AsyncConnection,
    job: Job,
    run_id: str,
    *,
    fine_tuned_model: str,
) -> None:
    """Put the run behind the job, and reserve the job's name.

    Raises:
        IllegalMove: somebody has cancelled or paused it.
    """
    await _move(connection, job, WAITING, status="queued", run_id=run_id, fine_tuned_model=fine_tuned_model)


async def of_run(connection: AsyncConnection, project: str, run_id: str) -> Job | None:
    """The job that drives a run, if one does."""
    query = _joined().where(jobs.c.project == project, jobs.c.run_id == run_id)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else _job(row)


async def keep_results(
    connection: AsyncConnection, job: Job, *, result_files: Sequence[str], trained_tokens: int | None
) -> None:
    """Note what the training left beside the model."""
    await connection.execute(
        update(jobs)
        .where(jobs.c.job_id == job.job_id)
        .values(result_files=list(result_files), trained_tokens=trained_tokens)
    )


async def set_status(connection: AsyncConnection, job: Job, status: str) -> None:
    """Where a job without a run stands from now on; nobody else moves it until the transaction ends.

    Raises:
        IllegalMove: somebody has moved it since `job` was read.
    """
    await _move(connection, job, (job.status,), status=status)


async def fail(connection: AsyncConnection, job: Job, *, code: str, message: str, param: str | None) -> None:
    """End a job whose files cannot be trained on.

    Raises:
        IllegalMove: as `attach`.
    """
    error = {"code": code, "message": message, "param": param}
    await _move(connection, job, WAITING, status="failed", error=error, finished_at=func.now())
    await audit.write(
        connection,
        project=job.project,
        actor=adapters.AUTOMATIC_ACTOR,
        action="fine_tuning.failed",
        subject=job.job_id,
        detail=error,
    )


async def cancel(connection: AsyncConnection, project: str, job_id: str, *, by: str) -> Job:
    """End a job, and its run where it has one. The champion is not touched.

    Raises:
        IllegalMove: it has ended.
    """
    job = await _unended(connection, project, job_id)
    values: dict[str, Any] = {"cancel_requested": True}
    if job.run_id is not None:
        await runs_of_record.request_cancel(connection, project, job.run_id, by=by)
    else:
        values |= {"status": "cancelled", "finished_at": func.now()}
    await connection.execute(update(jobs).where(jobs.c.job_id == job_id).values(**values))
    await audit.write(
        connection, project=project, actor=by, action="fine_tuning.cancel", subject=job_id, detail={}
    )
    return await get(connection, project, job_id)


async def pause(connection: AsyncConnection, project: str, job_id: str, *, by: str) -> Job:
    """Let a job rest: at its run's next checkpoint, or before it begins.

    Raises:
        IllegalMove: it has ended, or is past its training.
    """
    job = await _unended(connection, project, job_id)
    if job.run_id is not None:
        await runs_of_record.request_pause(connection, project, job.run_id, by=by)
    else:
        await set_status(connection, job, "paused")
    return await get(connection, project, job_id)


async def resume(connection: AsyncConnection, project: str, job_id: str, *, by: str) -> Job:
    """Let a paused job go on.

    Raises:
        IllegalMove: it is not paused.
    """
    job = await _unended(connection, project, job_id)
    if job.run_id is not None:
        await runs_of_record.resume(connection, project, job.run_id, by=by)
    elif job.status == "paused":
        await set_status(connection, job, "validating_files")
    else:
        raise IllegalMove(f"{job_id} is '{job.status}', not paused: there is nothing to resume.")
    return await get(connection, project, job_id)


async def withdraw(connection: AsyncConnection, project: str, name: str, *, by: str) -> None:
    """Take an `ft:` name back for good. The version stays in the record and keeps its state.

    Raises:
        NotFound: the project has no such name.
    """
    found = (
        await connection.execute(
            update(jobs)
            .where(jobs.c.project == project, jobs.c.fine_tuned_model == name, jobs.c.withdrawn_at.is_(None))
            .values(withdrawn_at=func.now())
            .returning(jobs.c.job_id)
        )
    ).one_or_none()
    if found is None:
        raise NotFound(f"Project '{project}' has no fine-tuned model '{name}'. `GET /v1/models` lists them.")
    await audit.write(
        connection, project=project, actor=by, action="fine_tuning.withdraw", subject=name, detail={}
    )
    await notify_registry(connection, f"model:{name}")


async def named(connection: AsyncConnection) -> list[Named]:
    """Every `ft:` name that may answer, of all projects."""
    query = (
        select(jobs.c.project, jobs.c.fine_tuned_model, adapter_rows.c.adapter_id)
        .join(runs, runs.c.run_id == jobs.c.run_id)
        .join(adapter_rows, adapter_rows.c.adapter_id == runs.c.adapter_id)
        .where(runs.c.status == "succeeded", jobs.c.withdrawn_at.is_(None))
        .order_by(jobs.c.created_at)
    )
    return [Named(*row) for row in await connection.execute(query)]


async def _move(connection: AsyncConnection, job: Job, since: Collection[str], **values: Any) -> None:
    """Change a job that has no run and is in one of the states `since`."""
    one = (jobs.c.job_id == job.job_id, jobs.c.run_id.is_(None), jobs.c.status.in_(since))
    moved = await connection.scalar(update(jobs).where(*one).values(**values).returning(jobs.c.job_id))
    if moved is None:
        now = await get(connection, job.project, job.job_id)
        raise IllegalMove(
            f"{job.job_id} was '{job.status}' and is '{now.status}' by now; it is left as it is."
        )


async def _unended(connection: AsyncConnection, project: str, job_id: str) -> Job:
    """A job that has not ended, and that nobody else moves until the transaction ends."""
    # Read only once it is held: the worker may be putting a run behind it.
    one = select(jobs.c.job_id).where(jobs.c.project == project, jobs.c.job_id == job_id)
    await connection.execute(one.with_for_update())
    job = await get(connection, project, job_id)
    if job.status in ENDED:
        raise IllegalMove(f"{job_id} has ended as '{job.status}'; it cannot change any more.")
    return job


def _joined() -> Any:
    return select(
        jobs,
        runs.c.status.label("run_status"),
        runs.c.error.label("run_error"),
        runs.c.finished_at.label("run_finished_at"),
        runs.c.progress.label("run_progress"),
        runs.c.recipe.label("run_recipe"),
    ).join(runs, runs.c.run_id == jobs.c.run_id, isouter=True)


def _job(row: Any) -> Job:
    values = dict(row._mapping)
    status, error = values.pop("run_status"), values.pop("run_error")
    finished, progress = values.pop("run_finished_at"), values.pop("run_progress")
    recipe = values.pop("run_recipe")
    if status is not None:
        values |= {"status": status, "finished_at": finished}
    if status == "failed":
        values["error"] = {"code": "training_failed", "message": error, "param": None}
    return Job(**values, progress=progress or {}, recipe=recipe or {})
