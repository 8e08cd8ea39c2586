"""`/admin/v1`, the part that trains: ask for a plan, a run, a dataset or a search; pause and resume a run.

Planning is the worker's work, so a request is answered a moment later: it is `waiting` until then, and afterwards
`done`, with what came of it, or `refused`, with the reason in words; a search is `running` in between.
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


class NewDataset(BaseModel):
    """For which method; left out: the one that the data allows."""

    model_config = ConfigDict(extra="forbid")
    method: str | None = None


class NewSearch(NewDataset):
    """How many recipes to try, and how they are chosen: bayesian, random or grid."""

    trials: int = 20
    sampler: str = "bayesian"


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

    @router.post("/models/{model}/datasets", status_code=202, summary="Make a dataset of the next run's rows")
    async def make_dataset(model: str, body: NewDataset, by: Operator = may_decide) -> dict[str, Any]:
        return await _ask(by, model, "dataset", body)

    @router.post("/models/{model}/searches", status_code=202, summary="Search for a recipe")
    async def search_recipe(model: str, body: NewSearch, by: Operator = may_decide) -> dict[str, Any]:
        asked = run_requests.search_of(body.trials, body.sampler)
        return await _ask(by, model, "search", body, search=asked)

    @router.post("/run-requests/{request_id}/cancel", summary="Withdraw a request, or end a search")
    async def cancel_request(request_id: str, by: Operator = may_decide) -> dict[str, Any]:
        await run_requests.cancel(by.connection, by.project, request_id, by=by.actor)
        return asdict(await run_requests.get(by.connection, by.project, request_id))

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


async def _ask(
    by: Operator, model: str, kind: str, body: NewRun | NewDataset, *, search: dict[str, Any] | None = None
) -> dict[str, Any]:
    recipe = body.recipe if isinstance(body, NewRun) else {}
    made = await run_requests.create(
        by.connection, by.project, model, kind, method=body.method, recipe=recipe, search=search, by=by.actor
    )
    return asdict(made)
