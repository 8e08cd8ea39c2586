"""`/admin/v1`: what operators do, over HTTP, with the same words and effects as the `hone` command.

Role `operator` reads everything of its project and decides about adapters; `admin` also makes and revokes keys and
models. Role `app` is refused. Every decision is one transaction with its audit row, by `key:<name>`.
"""

from collections.abc import Callable
from dataclasses import asdict
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field

from feedback import (
    adapters,
    audit,
    completions,
    datasets,
    engines,
    evidence_page,
    experiments,
    keys,
    models,
    runs,
    shipping,
    submissions,
)
from feedback.adapters import Adapter
from feedback.allocations import CANDIDATES_MAX, Rule
from feedback.errors import HoneError
from feedback.keys import Key
from feedback.policy import read_policy
from serving.operators import AdminDeps, Operator, administrator_of, operator_of


class Canaries(BaseModel):
    """Versions that meet traffic together, and how they share it."""

    model_config = ConfigDict(extra="forbid")
    versions: list[str] = Field(min_length=1, max_length=CANDIDATES_MAX)
    allocation: Rule = "equal"


class Reason(BaseModel):
    """Why, in the operator's words; kept in the audit trail."""

    model_config = ConfigDict(extra="forbid")
    reason: str = Field("", max_length=2000)


class Abort(Reason):
    """Which of several canaries to end, all if left out, and why."""

    only: str | None = Field(None, max_length=200)


class Rollback(Reason):
    """Which earlier champion to restore; the one replaced last when left out."""

    to: str | None = None


class NewModel(BaseModel):
    """A name for clients to ask for."""

    model_config = ConfigDict(extra="forbid")
    model: str
    base_model: str
    policy: dict[str, Any] = Field(default_factory=dict)


class NewKey(BaseModel):
    """A key to be made."""

    model_config = ConfigDict(extra="forbid")
    role: str
    name: str = Field(min_length=1, max_length=100)
    requests_per_minute: int | None = None
    lifetime_days: float | None = Field(None, gt=0)


def admin_router(deps: Callable[[Request], AdminDeps]) -> APIRouter:
    """All routes under `/admin/v1`."""
    router = APIRouter(prefix="/admin/v1", tags=["admin"])
    may_decide, may_administer = operator_of(deps), administrator_of(deps)
    _add_models(router, may_decide, may_administer)
    _add_adapters(router, may_decide)
    _add_runs(router, may_decide)
    _add_record(router, may_decide)
    _add_keys(router, may_administer)
    return router


def _add_models(router: APIRouter, may_decide: Any, may_administer: Any) -> None:
    @router.get("/models", summary="List the models")
    async def list_models(by: Operator = may_decide) -> dict[str, Any]:
        return _listing(
            [await _model_view(by, model) for model in await models.in_project(by.connection, by.project)]
        )

    @router.post("/models", status_code=201, summary="Make a model on a base model")
    async def create_model(body: NewModel, by: Operator = may_administer) -> dict[str, Any]:
        model = await models.create(
            by.connection,
            project=by.project,
            model=body.model,
            base_model=body.base_model,
            policy=read_policy(body.policy),
            by=by.actor,
        )
        return await _model_view(by, model)

    @router.get("/models/{model}", summary="Show a model: champion, canary, policy")
    async def show_model(model: str, by: Operator = may_decide) -> dict[str, Any]:
        return await _model_view(by, await models.get(by.connection, by.project, model))

    @router.patch("/models/{model}/policy", summary="Change parts of a model's policy, without a restart")
    async def change_policy(model: str, body: dict[str, Any], by: Operator = may_decide) -> dict[str, Any]:
        changed = await models.change_policy(by.connection, by.project, model, body, by=by.actor)
        return await _model_view(by, changed)

    @router.post("/models/{model}/abort", summary="End the canary; its traffic goes back to the champion")
    async def abort(model: str, body: Abort, by: Operator = may_decide) -> dict[str, Any]:
        reason = body.reason or "an operator ended it"
        return _adapter_view(
            await shipping.abort(by.connection, by.project, model, only=body.only, by=by.actor, reason=reason)
        )

    @router.post(
        "/models/{model}/canary", summary="Send the first step's share of traffic to several versions"
    )
    async def start_canaries(model: str, body: Canaries, by: Operator = may_decide) -> dict[str, Any]:
        if others := [one for one in body.versions if one.rpartition("@")[0] != model]:
            raise HoneError(f"'{others[0]}' is no version of '{model}'; expected such as '{model}@7'.")
        return asdict(
            await shipping.start_canaries(
                by.connection, by.project, body.versions, rule=body.allocation, by=by.actor
            )
        )

    @router.post("/models/{model}/rollback", summary="Put an earlier champion back")
    async def roll_back(model: str, body: Rollback, by: Operator = may_decide) -> dict[str, Any]:
        return _adapter_view(
            await shipping.roll_back(
                by.connection, by.project, model, to=body.to, by=by.actor, reason=body.reason
            )
        )


def _add_adapters(router: APIRouter, may_decide: Any) -> None:
    @router.get("/adapters", summary="List the versions of a model")
    async def list_adapters(model: str, by: Operator = may_decide) -> dict[str, Any]:
        await models.get(by.connection, by.project, model)
        return _listing([_adapter_view(a) for a in await adapters.of_model(by.connection, by.project, model)])

    @router.get(
        "/adapters/{reference}", summary="Show a version with the gate's report and where it is loaded"
    )
    async def show_adapter(reference: str, by: Operator = may_decide) -> dict[str, Any]:
        adapter = await adapters.get(by.connection, by.project, reference)
        standing = await engines.standing(by.connection, adapter.adapter_id)
        return _adapter_view(adapter) | {"engines": [asdict(one) for one in standing]}

    @router.get(
        "/adapters/{reference}/evidence", summary="Show what a decision about a version rests on, on one page"
    )
    async def show_evidence(reference: str, by: Operator = may_decide) -> dict[str, Any]:
        adapter = await adapters.get(by.connection, by.project, reference)
        return await evidence_page.of_version(by.connection, adapter)

    @router.post("/adapters/{reference}/approve", summary="Let a candidate meet traffic")
    async def approve(reference: str, body: Reason, by: Operator = may_decide) -> dict[str, Any]:
        return _adapter_view(
            await shipping.approve(by.connection, by.project, reference, by=by.actor, reason=body.reason)
        )

    @router.post("/adapters/{reference}/reject", summary="Keep a candidate out for good")
    async def reject(reference: str, body: Reason, by: Operator = may_decide) -> dict[str, Any]:
        return _adapter_view(
            await shipping.reject(by.connection, by.project, reference, by=by.actor, reason=body.reason)
        )

    @router.post(
        "/adapters/{reference}/canary", summary="Send the first step's share of traffic to a version"
    )
    async def start_canary(reference: str, by: Operator = may_decide) -> dict[str, Any]:
        return asdict(await shipping.start_canary(by.connection, by.project, reference, by=by.actor))

    @router.post("/adapters/{reference}/promote", summary="Make a version the champion")
    async def promote(reference: str, body: Reason, by: Operator = may_decide) -> dict[str, Any]:
        return _adapter_view(
            await shipping.promote(by.connection, by.project, reference, by=by.actor, reason=body.reason)
        )


def _add_runs(router: APIRouter, may_decide: Any) -> None:
    @router.get("/runs", summary="List training runs, newest first")
    async def list_runs(model: str | None = None, by: Operator = may_decide) -> dict[str, Any]:
        return _listing(
            [asdict(run) for run in await runs.in_project(by.connection, by.project, model=model)]
        )

    @router.get("/runs/{run_id}", summary="Show a run")
    async def show_run(run_id: str, by: Operator = may_decide) -> dict[str, Any]:
        return asdict(await runs.get(by.connection, by.project, run_id))

    @router.get("/runs/{run_id}/events", summary="List what a run did, from an event on")
    async def list_events(run_id: str, after: int = 0, by: Operator = may_decide) -> dict[str, Any]:
        await runs.get(by.connection, by.project, run_id)
        return _listing([asdict(event) for event in await runs.events(by.connection, run_id, after=after)])

    @router.post("/runs/{run_id}/cancel", summary="Stop a run; the champion is not touched")
    async def cancel_run(run_id: str, by: Operator = may_decide) -> dict[str, Any]:
        return asdict(await runs.request_cancel(by.connection, by.project, run_id, by=by.actor))

    @router.get("/experiments", summary="List experiments with their newest verdict")
    async def list_experiments(by: Operator = may_decide) -> dict[str, Any]:
        return _listing([asdict(one) for one in await experiments.in_project(by.connection, by.project)])

    @router.get("/experiments/{experiment_id}", summary="Show an experiment")
    async def show_experiment(experiment_id: str, by: Operator = may_decide) -> dict[str, Any]:
        return asdict(await experiments.get(by.connection, by.project, experiment_id))


def _add_record(router: APIRouter, may_decide: Any) -> None:
    @router.get(
        "/completions/{completion_id}", summary="Show a completion, its feedback, and what it trained"
    )
    async def show_completion(completion_id: str, by: Operator = may_decide) -> dict[str, Any]:
        row = await completions.get(by.connection, by.project, completion_id)
        said = await submissions.of_completion(by.connection, by.project, completion_id)
        trained = await datasets.adapters_trained_on(by.connection, completion_id)
        return row | {"feedback": said, "trained": trained}

    @router.get("/engines", summary="List the engine replicas as last seen")
    async def list_engines(by: Operator = may_decide) -> dict[str, Any]:
        return _listing([asdict(engine) for engine in await engines.every(by.connection)])

    @router.get("/audit", summary="List decisions, newest first")
    async def list_audit(
        subject: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        by: Operator = may_decide,
    ) -> dict[str, Any]:
        found = await audit.entries(by.connection, by.project, subject=subject, limit=limit)
        return _listing([asdict(entry) for entry in found])


def _add_keys(router: APIRouter, may_administer: Any) -> None:
    @router.get("/keys", summary="List the keys of the project")
    async def list_keys(by: Operator = may_administer) -> dict[str, Any]:
        return _listing([_key_view(key) for key in await keys.in_project(by.connection, by.project)])

    @router.post("/keys", status_code=201, summary="Make a key; the answer is the only time it is shown")
    async def create_key(body: NewKey, by: Operator = may_administer) -> dict[str, Any]:
        key, secret = await keys.create(
            by.connection,
            role=body.role,
            name=body.name,
            project=by.project,
            requests_per_minute=body.requests_per_minute,
            lifetime_days=body.lifetime_days,
            by=by.actor,
        )
        return _key_view(key) | {"key": secret}

    @router.delete("/keys/{key_id}", summary="Revoke a key")
    async def revoke_key(key_id: str, by: Operator = may_administer) -> dict[str, Any]:
        return _key_view(await keys.revoke(by.connection, by.project, key_id, by=by.actor))


def _listing(data: list[dict[str, Any]]) -> dict[str, Any]:
    return {"object": "list", "data": data}


def _adapter_view(adapter: Adapter) -> dict[str, Any]:
    return {"name": adapter.name} | asdict(adapter)


def _key_view(key: Key) -> dict[str, Any]:
    view = asdict(key)
    del view["key_hash"]
    return view


async def _model_view(by: Operator, model: models.Model) -> dict[str, Any]:
    versions = await adapters.of_model(by.connection, by.project, model.model)
    experiment = await experiments.of_model(by.connection, by.project, model.model)
    return {
        "model": model.model,
        "base_model": model.base_model,
        "policy": model.policy.model_dump(mode="json"),
        "champion": next(one.name for one in versions if one.state == "champion"),
        "versions": [{"name": one.name, "state": one.state} for one in versions],
        "experiment": None if experiment is None else asdict(experiment),
    }
