"""`/admin/v1`, the part about what is watched: rollouts, the champion, drift, alerts.

Pausing holds a canary at its share; guardrails go on watching it. Only a person resumes.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, ConfigDict, Field

from feedback import models, rollouts, shipping
from serving.operators import AdminDeps, Operator, operator_of


class Why(BaseModel):
    """Why, in the operator's words; kept in the audit trail."""

    model_config = ConfigDict(extra="forbid")
    reason: str = Field("", max_length=2000)


def admin_watch_router(deps: Callable[[Request], AdminDeps]) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/admin/v1", tags=["admin"])
    may_decide = operator_of(deps)
    _add_rollouts(router, may_decide)
    return router


def _add_rollouts(router: APIRouter, may_decide: Any) -> None:
    @router.get("/models/{model}/rollout", summary="Show where a rollout stands, or why the last one ended")
    async def show_rollout(model: str, by: Operator = may_decide) -> dict[str, Any]:
        await models.get(by.connection, by.project, model)
        return await rollouts.view(by.connection, by.project, model)

    @router.post("/models/{model}/pause", summary="Keep the canary at its share until somebody resumes")
    async def pause(model: str, body: Why, by: Operator = may_decide) -> dict[str, Any]:
        reason = body.reason or "an operator paused it"
        return asdict(await shipping.pause(by.connection, by.project, model, by=by.actor, reason=reason))

    @router.post("/models/{model}/resume", summary="Let a paused rollout go on")
    async def resume(model: str, body: Why, by: Operator = may_decide) -> dict[str, Any]:
        return asdict(
            await shipping.resume(by.connection, by.project, model, by=by.actor, reason=body.reason)
        )
