"""Move a running canary along: judge it, abort it when it is worse, widen it when its step is done.

What happens on its own is little: a worse canary is aborted, a step that has been open long enough is followed by the
next one of the policy that an operator approved. Only where the policy says `approval = "automatic"` does the worker
approve a candidate that passed its gate, and promote one whose verdict is `better`. A verdict that is missing,
undecided or built on too little moves nothing; what was aborted stays out until a person says otherwise.
"""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import adapters, experiments, models, shipping
from feedback.adapters import AUTOMATIC_ACTOR
from feedback.database import Database
from feedback.errors import IllegalMove
from feedback.experiments import CANDIDATE_ARM, CHAMPION_ARM, Experiment
from feedback.models import Model
from feedback.policy import RolloutPolicy
from monitoring.outcomes import UnitOutcome
from monitoring.verdict import ExperimentPolicy, Verdict, decide


async def tick(database: Database) -> list[str]:
    """Look at every model once; returns what was done, one sentence each.

    Each experiment is its own transaction: trouble with one does not hold up the abort of another.
    """
    async with database.begin() as connection:
        running = await experiments.running(connection)
        every_model = await models.every(connection)
    done: list[str] = []
    for experiment in running:
        async with database.begin() as connection:
            done += await _advance(connection, experiment)
    for model in every_model:
        if model.policy.approval == "automatic":
            async with database.begin() as connection:
                done += await _ship_candidate(connection, model)
    return done


async def judge(connection: AsyncConnection, experiment: Experiment, policy: RolloutPolicy) -> Verdict:
    """The verdict on everything recorded so far, stored beside the experiment."""
    counts = await experiments.unit_counts(
        connection, experiment, maturation_seconds=policy.maturation_seconds
    )
    verdict = decide([UnitOutcome(**asdict(one)) for one in counts], _experiment_policy(experiment, policy))
    await experiments.store_verdict(connection, experiment, asdict(verdict))
    return verdict


async def _advance(connection: AsyncConnection, experiment: Experiment) -> list[str]:
    model = await models.get(connection, experiment.project, experiment.model)
    policy = model.policy.rollout
    verdict = await judge(connection, experiment, policy)
    if verdict.state == "worse":
        return await _abort(connection, experiment, verdict)
    share = next_share(experiment, policy, verdict, now=datetime.now(UTC))
    if share is not None:
        await experiments.widen(connection, experiment, step=share[0], share=share[1], by=AUTOMATIC_ACTOR)
        return [f"{experiment.model}: the canary now answers {share[1]:.0%} of raters. {verdict.sentence}"]
    if verdict.state == "better" and model.policy.approval == "automatic":
        candidate = await adapters.by_id(connection, experiment.arm(CANDIDATE_ARM).adapter_id)
        await shipping.promote(
            connection, model.project, candidate.name, by=AUTOMATIC_ACTOR, reason="the verdict is better"
        )
        return [f"{candidate.name} is the champion. {verdict.sentence}"]
    return []


async def _abort(connection: AsyncConnection, experiment: Experiment, verdict: Verdict) -> list[str]:
    try:
        aborted = await shipping.abort(
            connection, experiment.project, experiment.model, by=AUTOMATIC_ACTOR, reason=verdict.sentence
        )
    except IllegalMove:
        # A person promoted or aborted it between our reading and now; their decision stands.
        return []
    return [f"{aborted.name} was aborted: {verdict.sentence}"]


async def _ship_candidate(connection: AsyncConnection, model: Model) -> list[str]:
    versions = await adapters.of_model(connection, model.project, model.model)
    waiting = [one for one in versions if one.state == "candidate" and one.aborted_at is None]
    if not waiting or await experiments.of_model(connection, model.project, model.model) is not None:
        return []
    reason = "it passed the gate, and the policy approves by itself"
    newest = await shipping.approve(
        connection, model.project, waiting[0].name, by=AUTOMATIC_ACTOR, reason=reason
    )
    await shipping.start_canary(connection, model.project, newest.name, by=AUTOMATIC_ACTOR)
    return [f"{newest.name} meets its first traffic: {reason}."]


def next_share(
    experiment: Experiment, policy: RolloutPolicy, verdict: Verdict, *, now: datetime
) -> tuple[int, float] | None:
    """The step to go to and its share of units, or None while the canary stays where it is.

    A step is done when it has been open for `step_seconds_min` and `step_units_min` units have met the candidate for
    each step so far. On a split that does not hold what was logged, nothing is widened.
    """
    following = experiment.step + 1
    if following >= len(policy.steps) or verdict.sample_ratio.broken:
        return None
    open_seconds = (now - experiment.step_started_at).total_seconds()
    met = next(arm.units for arm in verdict.arms if arm.arm == CANDIDATE_ARM)
    if open_seconds < policy.step_seconds_min or met < policy.step_units_min * following:
        return None
    return following, policy.steps[following]


def _experiment_policy(experiment: Experiment, policy: RolloutPolicy) -> ExperimentPolicy:
    return ExperimentPolicy(
        weights={arm.arm: arm.weight for arm in _control_first(experiment)},
        control=CHAMPION_ARM,
        candidate=CANDIDATE_ARM,
        alpha=policy.alpha,
        guardrail_alpha=policy.guardrail_alpha,
        units_min=policy.units_min,
        rated_units_min=policy.rated_units_min,
        maturation_seconds=policy.maturation_seconds,
    )


def _control_first(experiment: Experiment) -> Sequence[experiments.Arm]:
    return (experiment.arm(CHAMPION_ARM), experiment.arm(CANDIDATE_ARM))
