"""`/admin/v1`, the part that trains: ask for a plan or a run, pause and resume one.

Planning is the worker's work, so a request is answered a moment later: it is `waiting` until then, and afterwards
`done`, with the plan and the run, or `refused`, with the reason in words.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from feedback import run_requests, runs
from serving.operators import AdminDeps, Operator, operator_of


class NewRun(BaseModel):
    """How to train; left out: as the model's policy says."""

    model_config = ConfigDict(extra="forbid")
    method: str | None = None
    recipe: dict[str, Any] = Field(default_factory=dict)


def admin_runs_router(deps: Callable[[Request], AdminDeps]) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/admin/v1", tags=["admin"])
    may_decide = operator_of(deps)

    @router.post("/models/{model}/runs", status_code=202, summary="Ask the worker to train now")
    async def start_run(model: str, body: NewRun, by: Operator = may_decide) -> dict[str, Any]:
        return await _ask(by, model, "now", body)

    @router.post("/models/{model}/plan", status_code=202, summary="Ask what the next run would do")
    async def plan_run(model: str, body: NewRun, by: Operator = may_decide) -> dict[str, Any]:
        return await _ask(by, model, "plan", body)

    @router.get("/run-requests/{request_id}", summary="Show what came of a request for a plan or a run")
    async def show_request(request_id: str, by: Operator = may_decide) -> dict[str, Any]:
        return asdict(await run_requests.get(by.connection, by.project, request_id))

    @router.post("/runs/{run_id}/pause", summary="Let a run rest at its next checkpoint")
    async def pause_run(run_id: str, by: Operator = may_decide) -> dict[str, Any]:
        return asdict(await runs.request_pause(by.connection, by.project, run_id, by=by.actor))

    @router.post("/runs/{run_id}/resume", summary="Let a paused run go on")
    async def resume_run(run_id: str, by: Operator = may_decide) -> dict[str, Any]:
        return asdict(await runs.resume(by.connection, by.project, run_id, by=by.actor))

    return router


async def _ask(by: Operator, model: str, kind: str, body: NewRun) -> dict[str, Any]:
    made = await run_requests.create(
        by.connection, by.project, model, kind, method=body.method, recipe=body.recipe, by=by.actor
    )
    return asdict(made)
