"""Plans, runs, datasets and searches asked for over HTTP or in the console. The worker answers.

Planning reads the whole record and needs the training side, which neither has. A request is answered once, in the
transaction that queues its run or freezes its rows; a search runs meanwhile, and may be cancelled.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, null, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import audit, models
from feedback.errors import HoneError, IllegalMove, NotFound
from feedback.ids import new_id
from feedback.tables import METHODS, SEQUENCES
from feedback.tuning_tables import RUN_REQUEST_KINDS, SAMPLERS, run_requests

TRIALS_MAX = 200
UNANSWERED = ("waiting", "running")


@dataclass(frozen=True, slots=True)
class RunRequest:
    """One request, and its answer once there is one."""

    request_id: str
    project: str
    model: str
    kind: str
    method: str | None
    recipe: dict[str, Any]
    status: str
    plan: dict[str, Any] | None
    refusal: str | None
    run_id: str | None
    requested_by: str
    created_at: datetime
    finished_at: datetime | None
    search: dict[str, Any] | None = None
    dataset_id: str | None = None
    search_id: str | None = None


async def create(
    connection: AsyncConnection,
    project: str,
    model: str,
    kind: str,
    *,
    method: str | None = None,
    recipe: Mapping[str, Any] | None = None,
    search: Mapping[str, Any] | None = None,
    by: str,
) -> RunRequest:
    """Ask the worker for a plan, for a run `now`, for a `dataset` of its rows, or for a `search` as `search_of` made.

    Raises:
        NotFound: there is no such model.
        HoneError: there is no such method.
    """
    assert kind in RUN_REQUEST_KINDS
    await models.get(connection, project, model)
    method = None if method == "auto" else method
    if method not in (None, *METHODS, *SEQUENCES):
        raise HoneError(f"'method' is '{method}'; expected auto, {', '.join((*METHODS, *SEQUENCES))}.")
    row = (
        await connection.execute(
            run_requests.insert()
            .values(
                request_id=new_id("runreq"),
                project=project,
                model=model,
                kind=kind,
                method=method,
                recipe=dict(recipe or {}),
                search=null() if search is None else dict(search),
                status="waiting",
                requested_by=by,
            )
            .returning(run_requests)
        )
    ).one()
    made = RunRequest(**row._mapping)
    asked = {"kind": kind, "method": method or "auto", "recipe": made.recipe} | (
        dict(search) if search else {}
    )
    await audit.write(
        connection, project=project, actor=by, action="run.request", subject=model,
        detail={"request_id": made.request_id} | asked,
    )  # fmt: skip
    return made


def search_of(trials: int, sampler: str) -> dict[str, Any]:
    """What a search is asked for with.

    Raises:
        HoneError: too few or too many trials, or no such sampler.
    """
    if not 1 <= trials <= TRIALS_MAX:
        raise HoneError(f"'trials' is {trials}; expected 1 to {TRIALS_MAX}.")
    if sampler not in SAMPLERS:
        raise HoneError(f"'sampler' is '{sampler}'; expected {', '.join(SAMPLERS)}.")
    return {"trials": trials, "sampler": sampler}


async def begin_search(connection: AsyncConnection, request: RunRequest) -> str:
    """Say that a search has begun; returns its id.

    Raises:
        IllegalMove: it does not wait any more.
    """
    search_id = new_id("search")
    await _move(connection, request.request_id, ("waiting",), status="running", search_id=search_id)
    return search_id


async def cancel(connection: AsyncConnection, project: str, request_id: str, *, by: str) -> None:
    """Withdraw a request that waits, or end a search that runs; its trials so far are kept.

    Raises:
        NotFound: the project has no such request.
        IllegalMove: it has been answered.
    """
    request = await get(connection, project, request_id)
    # The trail first, then the request, as for whoever queues a run: the two would otherwise wait for each other.
    await audit.write(
        connection, project=project, actor=by, action="run.cancel_request", subject=request.model,
        detail={"request_id": request_id, "kind": request.kind},
    )  # fmt: skip
    await answer(connection, request_id, refusal="Cancelled on request.")


async def get(connection: AsyncConnection, project: str, request_id: str) -> RunRequest:
    """One request.

    Raises:
        NotFound: the project has none of this id.
    """
    query = select(run_requests).where(
        run_requests.c.project == project, run_requests.c.request_id == request_id
    )
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise NotFound(f"Project '{project}' has no run request '{request_id}'.")
    return RunRequest(**row._mapping)


async def in_project(connection: AsyncConnection, project: str, *, most: int = 100) -> list[RunRequest]:
    """The newest requests of a project, newest first."""
    query = (
        select(run_requests)
        .where(run_requests.c.project == project)
        .order_by(run_requests.c.created_at.desc())
        .limit(most)
    )
    return [RunRequest(**row._mapping) for row in await connection.execute(query)]


async def waiting(connection: AsyncConnection, *, status: str = "waiting") -> list[RunRequest]:
    """Requests that nobody has answered, oldest first; with `status`, the searches that run."""
    query = select(run_requests).where(run_requests.c.status == status).order_by(run_requests.c.created_at)
    return [RunRequest(**row._mapping) for row in await connection.execute(query)]


async def answer(
    connection: AsyncConnection,
    request_id: str,
    *,
    plan: Mapping[str, Any] | None = None,
    run_id: str | None = None,
    dataset_id: str | None = None,
    refusal: str | None = None,
) -> None:
    """Say what came of a request; what was done for it belongs to the same transaction.

    Raises:
        IllegalMove: it has been answered or cancelled.
    """
    await _move(
        connection,
        request_id,
        UNANSWERED,
        status="done" if refusal is None else "refused",
        plan=None if plan is None else dict(plan),
        run_id=run_id,
        dataset_id=dataset_id,
        refusal=refusal,
        finished_at=func.now(),
    )


async def _move(connection: AsyncConnection, request_id: str, since: Collection[str], **values: Any) -> None:
    """Change a request that is in one of the states `since`."""
    one = run_requests.c.request_id == request_id
    moved = await connection.scalar(
        update(run_requests)
        .where(one, run_requests.c.status.in_(since))
        .values(**values)
        .returning(run_requests.c.request_id)
    )
    if moved is None:
        status = await connection.scalar(select(run_requests.c.status).where(one))
        raise IllegalMove(
            f"{request_id} is '{status}'; only what waits or runs can be answered or cancelled."
        )
