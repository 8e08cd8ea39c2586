"""Plans and runs asked for over HTTP. The gateway writes the request, the worker answers it.

Planning reads the whole record and needs the training side, which a gateway does not have. A request is answered once,
in the transaction that queues its run.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import models
from feedback.errors import HoneError, NotFound
from feedback.ids import new_id
from feedback.tables import METHODS, SEQUENCES
from feedback.tuning_tables import RUN_REQUEST_KINDS, run_requests


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


async def create(
    connection: AsyncConnection,
    project: str,
    model: str,
    kind: str,
    *,
    method: str | None = None,
    recipe: Mapping[str, Any] | None = None,
    by: str,
) -> RunRequest:
    """Ask the worker for a plan, or for a run `now`.

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
                status="waiting",
                requested_by=by,
            )
            .returning(run_requests)
        )
    ).one()
    return RunRequest(**row._mapping)


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


async def waiting(connection: AsyncConnection) -> list[RunRequest]:
    """Requests that nobody has answered, oldest first."""
    query = select(run_requests).where(run_requests.c.status == "waiting").order_by(run_requests.c.created_at)
    return [RunRequest(**row._mapping) for row in await connection.execute(query)]


async def answer(
    connection: AsyncConnection,
    request_id: str,
    *,
    plan: Mapping[str, Any] | None = None,
    run_id: str | None = None,
    refusal: str | None = None,
) -> None:
    """Say what came of a request."""
    await connection.execute(
        update(run_requests)
        .where(run_requests.c.request_id == request_id)
        .values(
            status="done" if refusal is None else "refused",
            plan=None if plan is None else dict(plan),
            run_id=run_id,
            refusal=refusal,
            finished_at=func.now(),
        )
    )
