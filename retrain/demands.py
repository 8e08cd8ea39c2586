"""What the verdict on a split demands, by the model's policy, and the sums that it is made from."""

from typing import Any

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import adapters, experiments, models
from feedback.errors import IllegalMove
from feedback.experiments import CANDIDATE_ARM, CHAMPION_ARM, Experiment
from feedback.policy import ModelPolicy, RolloutPolicy
from monitoring.guardrails import MANY
from monitoring.tally import tally
from monitoring.totals import Totals
from monitoring.verdict import ExperimentPolicy


async def sum_up(
    connection: AsyncConnection, experiment: Experiment, policy: ModelPolicy
) -> tuple[Totals, ExperimentPolicy]:
    """Everything recorded of a running split so far, and what its first candidate has to show."""
    control = await adapters.by_id(connection, experiment.arm(CHAMPION_ARM).adapter_id)
    demanded = experiment_policy(experiment, policy.rollout, against_base=control.version == 0)
    totals = await tally(
        connection,
        experiment,
        demanded.weights,
        control=demanded.control,
        votes=policy.feedback,
        maturation_seconds=policy.rollout.maturation_seconds,
    )
    return totals, demanded


async def keep(connection: AsyncConnection, experiment: Experiment, verdict: dict[str, Any]) -> None:
    """Store a verdict beside its split, which nobody else moves from here on until the transaction ends.

    Raises:
        IllegalMove: somebody has moved it since it was summed up: the verdict is about what is no more.
    """
    await models.hold(connection, experiment.project, experiment.model)
    if await experiments.get(connection, experiment.project, experiment.experiment_id) != experiment:
        raise IllegalMove(f"{experiment.experiment_id} was moved while it was judged. It is judged again.")
    found = orjson.loads(orjson.dumps(verdict))
    # A look that saw nothing new would otherwise rewrite the row every other second.
    if found != experiment.verdict:
        await experiments.store_verdict(connection, experiment, found)


def experiment_policy(
    experiment: Experiment, policy: RolloutPolicy, *, against_base: bool = False
) -> ExperimentPolicy:
    """What the verdict on this split demands, by the model's policy."""
    limits = policy.guardrails
    others = [arm for arm in experiment.arms if arm.arm != CHAMPION_ARM]
    # The bare base model carries nothing of what an adapter costs: no limit on times would be a fair one.
    slower = MANY if against_base else 1.0
    return ExperimentPolicy(
        weights={arm.arm: arm.weight for arm in (experiment.arm(CHAMPION_ARM), *others)},
        control=CHAMPION_ARM,
        candidate=CANDIDATE_ARM,
        alpha=policy.alpha,
        guardrail_alpha=policy.guardrail_alpha,
        units_min=policy.units_min,
        rated_units_min=policy.rated_units_min,
        maturation_seconds=policy.maturation_seconds,
        bad_odds_limit=limits.bad_answers_odds_max,
        odds_max={
            "units_with_errors": limits.errors_odds_max,
            "refusals": limits.refusals_odds_max,
            "client_aborts": limits.client_aborts_odds_max,
            "regenerations": limits.regenerations_odds_max,
        },
        ratios={
            "time_to_first_token": (1.0 / MANY, max(slower, limits.time_to_first_token_ratio_max)),
            "time_per_output_token": (1.0 / MANY, max(slower, limits.time_per_output_token_ratio_max)),
            "output_tokens": (limits.output_tokens_ratio_min, limits.output_tokens_ratio_max),
        },
        pausing=frozenset(limits.pausing),
    )
