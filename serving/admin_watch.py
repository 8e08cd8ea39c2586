"""`/admin/v1`, the part about what is watched: rollouts, the champion, drift, alerts, cost.

Pausing holds a canary at its share; guardrails go on watching it. Only a person resumes.
"""

from collections.abc import Callable
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from feedback import adapters, champion_reports, models, rollouts, shadow_answers, shipping
from monitoring import alerts, drift
from monitoring.cost import Prices, report
from monitoring.settings import MonitoringSettings
from monitoring.shadow import summarise
from serving.operators import AdminDeps, Operator, operator_of


class Why(BaseModel):
    """Why, in the operator's words; kept in the audit trail."""

    model_config = ConfigDict(extra="forbid")
    reason: str = Field("", max_length=2000)


class Silence(Why):
    """Which rule, and for how long; `*` is every rule."""

    rule: str
    hours: float = Field(8.0, gt=0, le=24 * 30)


def admin_watch_router(deps: Callable[[Request], AdminDeps]) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/admin/v1", tags=["admin"])
    may_decide = operator_of(deps)
    _add_rollouts(router, may_decide)
    _add_alerts(router, may_decide)
    _add_cost(router, may_decide)
    return router


def _add_cost(router: APIRouter, may_decide: Any) -> None:
    @router.get("/cost", summary="Show what answers and training took, and what came of it")
    async def show_cost(
        model: str | None = None,
        days: Annotated[float, Query(gt=0, le=3660, description="How far back.")] = 30.0,
        by: Operator = may_decide,
    ) -> dict[str, Any]:
        until, prices = datetime.now(UTC), Prices.of(MonitoringSettings.load())
        since = until - timedelta(days=days)
        return await report(by.connection, by.project, prices, since=since, until=until, model=model)


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


def _add_alerts(router: APIRouter, may_decide: Any) -> None:
    @router.get("/alerts", summary="List alerts, those that fire first")
    async def list_alerts(
        model: str | None = None,
        state: Literal["firing", "resolved"] | None = None,
        by: Operator = may_decide,
    ) -> dict[str, Any]:
        found = await alerts.listed(by.connection, by.project, model, state=state)
        return {"object": "list", "data": [asdict(one) for one in found]}

    @router.post("/models/{model}/silence", summary="Tell nobody of a rule's alerts for some hours")
    async def silence(model: str, body: Silence, by: Operator = may_decide) -> dict[str, Any]:
        until = await alerts.silence(
            by.connection,
            by.project,
            model,
            rule=body.rule,
            hours=body.hours,
            by=by.actor,
            reason=body.reason,
        )
        return {"model": model, "rule": body.rule, "until": until}

    @router.get("/models/{model}/drift", summary="List the windows of traffic that were compared last")
    async def list_drift(model: str, by: Operator = may_decide) -> dict[str, Any]:
        await models.get(by.connection, by.project, model)
        found = await drift.newest(by.connection, by.project, model)
        return {"object": "list", "data": [asdict(one) for one in found]}

    @router.get("/models/{model}/champion-watch", summary="Show how the champion does since its promotion")
    async def show_watch(model: str, by: Operator = may_decide) -> dict[str, Any]:
        champion = await adapters.champion(by.connection, by.project, model)
        watch = await champion_reports.of_champion(by.connection, champion.adapter_id)
        return {"version": champion.name, "watched": watch}

    @router.get("/adapters/{reference}/shadow", summary="Show how a version did on questions in the shadow")
    async def show_shadow(reference: str, by: Operator = may_decide) -> dict[str, Any]:
        version = await adapters.get(by.connection, by.project, reference)
        found = await shadow_answers.pairs(by.connection, version.adapter_id)
        return {"version": version.name} | asdict(summarise(found, name=version.name))
