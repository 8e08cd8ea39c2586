"""Decide: everything a person needs to say yes or no, and the buttons that do it.

Each action shows first what will happen, then happens once, with the operator's reason in the audit trail. What may be
done is what the state allows; a button that somebody else made pointless meanwhile says so.
"""

from collections.abc import Awaitable, Callable
from typing import Any, cast

from fastapi import APIRouter, Response

from feedback import (
    adapters,
    audit,
    evaluations,
    evidence_page,
    experiments,
    rollouts,
    runs,
    shipping,
)
from feedback.adapters import Adapter
from feedback.allocations import Rule
from feedback.errors import HoneError, IllegalMove, NotFound
from feedback.models import Model
from monitoring.console import comparison, gate_plots, standing
from monitoring.console.differences import marked
from monitoring.console.model_pages import made_from
from monitoring.console.page import Changed, Page, Seen

router = APIRouter(prefix="/decide")

FLIPS_SHOWN = 12
DECISIONS_SHOWN = 12
CHOSEN = "version:"
ACTIONS: dict[str, Callable[[Page, str, str], Awaitable[Any]]] = {
    "approve": lambda page, what, why: shipping.approve(
        page.connection, page.project, what, by=page.visitor.actor, reason=why
    ),
    "reject": lambda page, what, why: shipping.reject(
        page.connection, page.project, what, by=page.visitor.actor, reason=why
    ),
    "canary": lambda page, what, why: shipping.start_canary(
        page.connection, page.project, what, by=page.visitor.actor
    ),
    "promote": lambda page, what, why: shipping.promote(
        page.connection, page.project, what, by=page.visitor.actor, reason=why
    ),
    "abort": lambda page, what, why: shipping.abort(
        page.connection,
        page.project,
        what.partition("@")[0],
        only=what if "@" in what else None,
        by=page.visitor.actor,
        reason=why or "an operator ended it",
    ),
    "pause": lambda page, what, why: shipping.pause(
        page.connection, page.project, what, by=page.visitor.actor, reason=why or "an operator paused it"
    ),
    "resume": lambda page, what, why: shipping.resume(
        page.connection, page.project, what, by=page.visitor.actor, reason=why
    ),
    "rollback": lambda page, what, why: shipping.roll_back(
        page.connection,
        page.project,
        adapters.parse_reference(what)[0],
        to=what,
        by=page.visitor.actor,
        reason=why,
    ),
}
OF_MODEL = ("abort", "pause", "resume")
"""Actions on the model's running split; the others name a version, and `abort` may."""


NEEDS = {
    "approve": ("candidate",),
    "reject": ("candidate", "approved"),
    "canary": ("approved",),
    "abort": ("canary",),
    "promote": ("approved", "canary"),
    "rollback": ("retired",),
}
"""States in which a version can be acted on; asked about before a person writes a reason for nothing."""


@router.get("")
async def show(page: Seen) -> Response:
    """The page."""
    model, connection = page.model, page.connection
    if model is None:
        return page.show("start.html")
    versions = await standing.versions_of(connection, model)
    champion = next(one for one in versions if one.state == "champion")
    experiment = await experiments.of_model(connection, page.project, model.model)
    waiting = [
        await _evidence(page, one, detail=number == 0)
        for number, one in enumerate(standing.waiting(versions))
    ]
    return page.show(
        "decide.html",
        champion=champion,
        waiting=waiting,
        several=experiment is None and sum(one["version"].state == "approved" for one in waiting) > 1,
        canary=None if experiment is None else await _canary(page, experiment, versions),
        back=_restored(champion, versions),
        decisions=await audit.decisions(connection, page.project, model.model, limit=DECISIONS_SHOWN),
    )


@router.get("/canaries")
async def choose_canaries(page: Seen) -> Response:
    """Ask which approved versions shall share the first step's traffic, and how."""
    return await _canaries(page, page.required_model())


@router.post("/canaries")
async def start_canaries(page: Changed) -> Response:
    """Start them."""
    model = page.required_model()
    chosen = [name.removeprefix(CHOSEN) for name in page.form if name.startswith(CHOSEN)]
    rule = cast(Rule, page.form.get("allocation", "equal"))
    try:
        async with page.connection.begin_nested():
            await shipping.start_canaries(
                page.connection, page.project, chosen, rule=rule, by=page.visitor.actor
            )
    except HoneError as error:
        return await _canaries(page, model, trouble=str(error))
    return page.go("/decide", done="canaries")


async def _canaries(page: Page, model: Model, *, trouble: str = "") -> Response:
    versions = await adapters.of_model(page.connection, page.project, model.model)
    return page.show(
        "canaries.html",
        status=400 if trouble else 200,
        trouble=trouble,
        approved=[one for one in reversed(versions) if one.state == "approved"],
        champion=await adapters.champion(page.connection, page.project, model.model),
        first_share=model.policy.rollout.steps[0],
        uniform_share=model.policy.rollout.uniform_share,
    )


@router.get("/{action}/{what}")
async def confirm(action: str, what: str, page: Seen) -> Response:
    """Say what an action will do, and ask."""
    model = page.required_model()
    if action not in ACTIONS:
        raise NotFound(f"There is no action '{action}'; expected one of {', '.join(ACTIONS)}.")
    connection = page.connection
    if action in OF_MODEL and "@" not in what:
        split = await rollouts.running_split(connection, page.project, what)
        version = await adapters.by_id(connection, split.candidates[0].adapter_id)
    else:
        version = await adapters.get(connection, page.project, what)
        if version.state not in NEEDS[action]:
            raise IllegalMove(
                f"{version.name} is '{version.state}'; '{action}' needs it to be '{' or '.join(NEEDS[action])}'."
            )
    champion = await adapters.champion(connection, page.project, version.model)
    running = await experiments.of_model(connection, page.project, version.model)
    canaries = (
        [await adapters.by_id(connection, arm.adapter_id) for arm in running.candidates] if running else []
    )
    steps = next(one for one in page.every_model if one.model == version.model).policy.rollout.steps
    return page.show(
        "confirm.html",
        action=action,
        what=what,
        version=version,
        champion=champion,
        running=running,
        meant=[version.name] if "@" in what else [one.name for one in canaries],
        others=[one.name for one in canaries if one.adapter_id != version.adapter_id],
        first_share=steps[0],
        back_to=model.model,
    )


@router.post("/{action}/{what}")
async def act(action: str, what: str, page: Changed) -> Response:
    """Do it."""
    if action not in ACTIONS:
        raise NotFound(f"There is no action '{action}'; expected one of {', '.join(ACTIONS)}.")
    why = page.form.get("reason", "").strip()
    if action == "reject" and not why:
        raise IllegalMove(
            f"Say why {what} is rejected: it cannot be undone, and others will ask. Go back and write it."
        )
    await ACTIONS[action](page, what, why)
    return page.go("/decide", done=action)


async def _evidence(page: Page, version: Adapter, *, detail: bool) -> dict[str, Any]:
    """One version that waits, with what speaks for and against it; `detail`: also the answers to read."""
    run = await runs.by_id(page.connection, version.run_id) if version.run_id else None
    compared = await evaluations.of_run(page.connection, run.run_id) if detail and run else []
    told = await evidence_page.of_version(page.connection, version)
    return {
        "version": version,
        "run": run,
        "made_from": await made_from(page, run),
        "weaknesses": told["known_weaknesses"],
        "licence": told["base_licence"],
        "plots": gate_plots.plots(version.gate or {}),
        "data": composition(told["data"]),
        "costs": told["costs"],
        "reward": told[evidence_page.REWARD_MODEL],
        "flips": {kind: sum(one.flip == kind for one in compared) for kind in ("fixed", "broken")},
        "compared": [
            (one, marked(one.answered.champion_answer, one.answered.candidate_answer))
            for one in compared[:FLIPS_SHOWN]
        ],
        "compared_all": len(compared),
    }


def composition(data: dict[str, Any] | None) -> list[tuple[str, list[gate_plots.Share]]]:
    """What a dataset is made of and what was left out of it, in parts to draw."""
    if data is None:
        return []
    counts, balance = data["counts"], data["balance"]
    parts = [
        ("What people said", counts.get("train_sources")),
        ("Topics", gate_plots.votes(balance, "topics")),
        ("Left out", counts.get("excluded")),
    ]
    drawn = [(title, gate_plots.shares(found)) for title, found in parts]
    return [(title, found) for title, found in drawn if found]


async def _canary(page: Page, experiment: experiments.Experiment, versions: list[Adapter]) -> dict[str, Any]:
    model, names = page.required_model(), {one.adapter_id: one.name for one in versions}
    champion = next(one.name for one in versions if one.state == "champion")
    return {
        "experiment": experiment,
        "share": sum(arm.weight for arm in experiment.candidates),
        "rollout": await rollouts.of(page.connection, experiment.experiment_id),
        "verdict": experiment.verdict or {},
        "steps": model.policy.rollout.steps,
        "sides": await comparison.sides(page.connection, experiment, names, champion=champion),
        "exposure": {one.step: one for one in await comparison.exposure(page.connection, experiment)},
    }


def _restored(champion: Adapter, versions: list[Adapter]) -> Adapter | None:
    """The version that a rollback would put back."""
    return next((one for one in versions if one.adapter_id == champion.replaces), None)
