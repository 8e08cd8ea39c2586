"""Move a running canary along: judge it, abort it when it is worse, pause or widen it as its policy says.

What happens on its own is little: a worse canary is aborted; one that a person should look at is paused; a step that
has been open long enough is followed by the next one of the policy that an operator approved. Only where the policy
says `approval = "automatic"` does the worker approve the newest candidate that passed its gate beside today's champion,
and promote one whose verdict is `better`. A verdict that is missing, undecided or built on too little moves nothing;
what was aborted stays out, and what a person paused stays paused, until a person says otherwise.
"""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import adapters, experiments, exposure_sums, models, rollouts, shipping
from feedback.adapters import AUTOMATIC_ACTOR, Adapter
from feedback.database import Database
from feedback.errors import IllegalMove
from feedback.experiments import CANDIDATE_ARM, Experiment
from feedback.models import Model
from feedback.policy import ModelPolicy
from monitoring import verdict as verdicts
from monitoring.verdict import Verdict
from retrain import rollout_arms
from retrain.alone import alone
from retrain.demands import keep, sum_up
from retrain.rollout_steps import causes_to_pause, next_step


async def tick(database: Database) -> list[str]:
    """Look at every model once; returns what was done, one sentence each.

    Each experiment and model is its own transaction: trouble with one does not hold up the abort of another.
    """
    async with database.begin() as connection:
        await exposure_sums.let_go_of_ended(connection)
        await exposure_sums.look_up_votes(connection)
        running = await experiments.running(connection)
        every_model = await models.every(connection)
    done: list[str] = []
    for experiment in running:
        # A person may have promoted or aborted it between our reading and now; their decision stands.
        with alone(experiment_id=experiment.experiment_id), suppress(IllegalMove):
            async with database.begin() as connection:
                done += await _advance(connection, experiment)
    for model in every_model:
        if model.policy.approval == "automatic":
            with alone(project=model.project, model=model.model):
                async with database.begin() as connection:
                    done += await _ship_candidate(connection, model)
    return done


async def judge(connection: AsyncConnection, experiment: Experiment, policy: ModelPolicy) -> Verdict:
    """The verdict on everything recorded so far, stored beside the experiment."""
    totals, demanded = await sum_up(connection, experiment, policy)
    verdict = verdicts.judge(totals, demanded)
    await keep(connection, experiment, asdict(verdict))
    return verdict


async def _advance(connection: AsyncConnection, seen: Experiment) -> list[str]:
    experiment = await experiments.get(connection, seen.project, seen.experiment_id)
    if experiment.status != "running":
        return []
    model = await models.get(connection, experiment.project, experiment.model)
    if experiment.allocation is not None:
        return await rollout_arms.advance(connection, experiment, model)
    policy, now = model.policy.rollout, datetime.now(UTC)
    verdict = await judge(connection, experiment, model.policy)
    if verdict.state == "worse":
        return await _abort(connection, experiment, verdict)
    standing = await rollouts.of(connection, experiment.experiment_id)
    if standing.paused:
        return []
    for cause in causes_to_pause(experiment, policy, verdict):
        if cause.name not in standing.accepted:
            return await _pause(connection, experiment, cause.name, cause.sentence)
    automatic = model.policy.approval == "automatic"
    if verdict.state == "better" and automatic and policy.may_widen(now):
        return await _promote(connection, experiment, model, verdict)
    step = next_step(experiment, policy, verdict, now=now)
    if standing.waiting_for != (step.waiting_for or None):
        await rollouts.note_waiting(connection, experiment, step.waiting_for or None)
    if step.index is None:
        return []
    await experiments.widen(connection, experiment, step=step.index, share=step.share, by=AUTOMATIC_ACTOR)
    return [f"{experiment.model}: the canary now answers {step.share:.0%} of raters. {verdict.sentence}"]


async def _pause(connection: AsyncConnection, experiment: Experiment, cause: str, why: str) -> list[str]:
    await rollouts.pause(connection, experiment, cause=cause, by=AUTOMATIC_ACTOR, reason=why)
    return [f"{experiment.model}: the rollout is paused until a person resumes it. {why}"]


async def _promote(
    connection: AsyncConnection, experiment: Experiment, model: Model, verdict: Verdict
) -> list[str]:
    candidate = experiment.arm(CANDIDATE_ARM).version
    await shipping.promote(
        connection, model.project, candidate, by=AUTOMATIC_ACTOR, reason="the verdict is better"
    )
    return [f"{candidate} is the champion. {verdict.sentence}"]


async def _abort(connection: AsyncConnection, experiment: Experiment, verdict: Verdict) -> list[str]:
    aborted = await shipping.abort(
        connection, experiment.project, experiment.model, by=AUTOMATIC_ACTOR, reason=verdict.sentence
    )
    return [f"{aborted.name} was aborted: {verdict.sentence}"]


async def _ship_candidate(connection: AsyncConnection, seen: Model) -> list[str]:
    model = await models.hold(connection, seen.project, seen.model)
    if model.policy.approval != "automatic":
        return []
    champion = await adapters.champion(connection, model.project, model.model)
    candidate = to_ship(await adapters.of_model(connection, model.project, model.model), champion)
    if candidate is None or await experiments.of_model(connection, model.project, model.model) is not None:
        return []
    reason = f"it passed the gate beside {champion.name}, and the policy approves by itself"
    await shipping.approve(connection, model.project, candidate.name, by=AUTOMATIC_ACTOR, reason=reason)
    await shipping.start_canary(connection, model.project, candidate.name, by=AUTOMATIC_ACTOR)
    return [f"{candidate.name} meets its first traffic: {reason}."]


def to_ship(versions: Sequence[Adapter], champion: Adapter) -> Adapter | None:
    """The newest version that passed its gate, if it waits and was compared with this champion.

    An older one knows less than what came after it, and what was found beside a champion that has left says nothing of
    this one: such a version is for a person to approve. `versions` are newest first.
    """
    newest = next(one for one in versions if one.state not in ("trained", "rejected"))
    evidence = (newest.gate or {}).get("evidence") or {}
    waits = newest.state == "candidate" and newest.aborted_at is None
    return newest if waits and evidence.get("champion") == champion.engine_name else None
