"""Move a split with several candidates along: each is judged against the champion, on the uniform slice.

As with one candidate, little happens on its own. A candidate that is worse is taken back while the others go on;
what a person should look at pauses them all; steps open the same share of people as they would for one. What is new is
that the adaptive slice is opened a piece at a time, each piece shared out by what is known by then.

The error rates of the policy hold for all candidates together: each gets an even part, whatever becomes of the others.
"""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import allocations, experiments, rollouts, several_arms, shipping
from feedback.adapters import AUTOMATIC_ACTOR
from feedback.allocations import open_evenly
from feedback.experiments import CHAMPION_ARM, Arm, Experiment
from feedback.models import Model
from feedback.policy import RolloutPolicy
from monitoring import verdict as verdicts
from monitoring.allocation import open_by_merit
from monitoring.totals import Totals
from monitoring.verdict import ExperimentPolicy, Verdict
from retrain.demands import keep, sum_up
from retrain.rollout_steps import Cause, NextStep, causes_to_pause, next_step

PARTS = 4
"""Pieces in which the adaptive slice opens what a step allows it."""
RANKS = {"better": 0, "inconclusive": 1, "insufficient_data": 2, "worse": 3}


async def advance(connection: AsyncConnection, experiment: Experiment, model: Model) -> list[str]:
    """Look at one running split; returns what was done, one sentence each."""
    policy, now = model.policy.rollout, datetime.now(UTC)
    totals, demanded = await sum_up(connection, experiment, model.policy)
    found = judge_each(totals, demanded, experiment)
    await keep(connection, experiment, summary(found))
    if harmful := [(arm, one) for arm, one in found.items() if one.state == "worse"]:
        return [await _take_back(connection, experiment, arm, one) for arm, one in harmful[:1]]
    standing = await rollouts.of(connection, experiment.experiment_id)
    if standing.paused:
        return []
    for cause in _causes(experiment, policy, found):
        if cause.name not in standing.accepted:
            await rollouts.pause(
                connection, experiment, cause=cause.name, by=AUTOMATIC_ACTOR, reason=cause.sentence
            )
            return [f"{experiment.model}: the rollout is paused until a person resumes it. {cause.sentence}"]
    arm, leader = leading(found)
    if leader.state == "better" and model.policy.approval == "automatic" and policy.may_widen(now):
        return [await _promote(connection, experiment, arm, leader)]
    step = _next_step(experiment, policy, found, now)
    if standing.waiting_for != (step.waiting_for or None):
        await rollouts.note_waiting(connection, experiment, step.waiting_for or None)
    if step.index is not None:
        return [await _widen(connection, experiment, totals, step)]
    return await _open_more(connection, experiment, policy, totals, now)


def judge_each(totals: Totals, demanded: ExperimentPolicy, experiment: Experiment) -> dict[Arm, Verdict]:
    """The verdict on every candidate that is left. All that ever were share the error rates."""
    many = len(experiment.arms) - 1
    return {
        arm: verdicts.judge(
            totals,
            replace(
                demanded,
                candidate=arm.arm,
                called=arm.version,
                alpha=demanded.alpha / many,
                guardrail_alpha=demanded.guardrail_alpha / many,
            ),
        )
        for arm in experiment.candidates
    }


def leading(found: Mapping[Arm, Verdict]) -> tuple[Arm, Verdict]:
    """The candidate that does best: by its verdict, then by how far it surely is ahead."""
    return min(found.items(), key=lambda one: (RANKS[one[1].state], -(one[1].low or -1.0), one[0].arm))


def summary(found: Mapping[Arm, Verdict]) -> dict[str, object]:
    """For people: the verdict on the leading candidate, and under `candidates` that on each."""
    arm, verdict = leading(found)
    return asdict(verdict) | {
        "arm": arm.arm,
        "candidates": {one.arm: asdict(of_one) for one, of_one in found.items()},
    }


def _causes(experiment: Experiment, policy: RolloutPolicy, found: Mapping[Arm, Verdict]) -> Iterator[Cause]:
    """What asks for a person's look; whoever has looked at one candidate's guardrail has not at another's."""
    for arm, verdict in found.items():
        guardrails = {one.name for one in verdict.guardrails}
        for cause in causes_to_pause(experiment, policy, verdict):
            own = cause.name in guardrails
            yield replace(cause, name=f"{cause.name} of {arm.version}") if own else cause


async def _take_back(connection: AsyncConnection, experiment: Experiment, arm: Arm, verdict: Verdict) -> str:
    aborted = await several_arms.take_back(
        connection, experiment, arm, by=AUTOMATIC_ACTOR, reason=verdict.sentence
    )
    return f"{aborted.name} was aborted: {verdict.sentence}"


async def _promote(connection: AsyncConnection, experiment: Experiment, arm: Arm, verdict: Verdict) -> str:
    await shipping.promote(
        connection,
        experiment.project,
        arm.version,
        by=AUTOMATIC_ACTOR,
        reason="the verdict is better, and no other candidate is further ahead",
    )
    return f"{arm.version} is the champion. {verdict.sentence}"


def _next_step(
    experiment: Experiment, policy: RolloutPolicy, found: Mapping[Arm, Verdict], now: datetime
) -> NextStep:
    """The step that is due, when it waits for none of the candidates."""
    steps = {arm: next_step(experiment, policy, one, now=now, arm=arm.arm) for arm, one in found.items()}
    waiting = {arm.version: one for arm, one in steps.items() if one.index is None}
    if not waiting:
        return next(iter(steps.values()))
    one, *others = waiting.values()
    if len(waiting) == len(steps) and all(other.waiting_for == one.waiting_for for other in others):
        return one
    says = " ".join(f"{version}: {step.waiting_for}" for version, step in waiting.items())
    return replace(one, waiting_for=says)


async def _widen(connection: AsyncConnection, experiment: Experiment, totals: Totals, step: NextStep) -> str:
    assert step.index is not None
    await experiments.go_to_step(connection, experiment, step.index)
    newest = (await allocations.newest(connection, [experiment.experiment_id]))[experiment.experiment_id]
    uniform = newest["uniform"]
    names = [arm.arm for arm in experiment.candidates]
    width = max(0.0, step.share - uniform.opened)
    says = f"Step {step.index + 1}, evenly."
    await several_arms.share_out(
        connection, experiment, "uniform", open_evenly(uniform.pieces, names, width), reason=says
    )
    if "adaptive" in newest and width > 0:
        await _open(connection, experiment, totals, newest["adaptive"], width / PARTS)
    every = " and ".join(arm.version for arm in experiment.candidates)
    return f"{experiment.model}: {every} together now answer {step.share:.0%} of raters at most."


async def _open_more(
    connection: AsyncConnection,
    experiment: Experiment,
    policy: RolloutPolicy,
    totals: Totals,
    now: datetime,
) -> list[str]:
    """The next piece of what the step allows the adaptive slice, when the last one is old enough."""
    newest = (await allocations.newest(connection, [experiment.experiment_id]))[experiment.experiment_id]
    adaptive = newest.get("adaptive")
    if adaptive is None or experiment.step == 0 or not policy.may_widen(now):
        return []
    step = min(experiment.step, len(policy.steps) - 1)
    width, left = policy.steps[step] - policy.steps[step - 1], policy.steps[step] - adaptive.opened
    if left < 1e-9 or now - adaptive.at < timedelta(seconds=policy.allocation_seconds_min):
        return []
    shares = await _open(connection, experiment, totals, adaptive, min(left, width / PARTS))
    return [f"{experiment.model}: {shares}"]


async def _open(
    connection: AsyncConnection,
    experiment: Experiment,
    totals: Totals,
    adaptive: allocations.Allocation,
    width: float,
) -> str:
    assert experiment.allocation is not None
    left = [CHAMPION_ARM, *(arm.arm for arm in experiment.candidates)]
    sums = {name: totals.everybody(name) for name in left}
    digest = hashlib.sha256(f"{experiment.salt}/{adaptive.allocation}".encode()).digest()
    pieces = open_by_merit(
        adaptive.pieces, sums, experiment.allocation, width, seed=int.from_bytes(digest[:8])
    )
    called = {arm.arm: arm.version for arm in experiment.candidates}
    new = pieces[len(adaptive.pieces) :]
    parts = ", ".join(f"{called.get(name, name)} {part / width:.0%}" for name, part in new)
    says = f"{width:.1%} more of the adaptive slice is shared out: {parts}."
    await several_arms.share_out(connection, experiment, "adaptive", pieces, reason=says)
    return says
