"""A running canary: worse is aborted, a finished step is followed by the next, and people have the last word."""

from typing import Any

import pytest
from sqlalchemy import text

from feedback import adapters, audit, experiments, shipping
from feedback.adapters import AUTOMATIC_ACTOR
from feedback.completions import insert_many
from feedback.database import Database
from feedback.experiments import Experiment
from feedback.policy import ModelPolicy, RolloutPolicy
from retrain import rollout
from tests.builders import PROJECT, a_completion, a_model, a_rated_completion, an_adapter

QUICK = RolloutPolicy(steps=(0.1, 0.5), step_seconds_min=0, step_units_min=10, units_min=50)


async def a_canary(connection: Any, policy: ModelPolicy | None = None) -> Experiment:
    await a_model(connection, policy=policy or ModelPolicy(rollout=QUICK))
    return await experiments.start_canary(
        connection, await an_adapter(connection, state="approved"), by="ada"
    )


async def traffic(
    connection: Any, experiment: Experiment, arm: str, units: int, *, up: bool | None, propensity: float = 0.5
) -> None:
    for number in range(units):
        where: dict[str, Any] = {
            "experiment_id": experiment.experiment_id,
            "arm": arm,
            "propensity": propensity,
        }
        rater = f"{arm}-{number}"
        if up is None:
            await insert_many(connection, [a_completion(unit=rater, rater=rater, **where)])
        else:
            await a_rated_completion(connection, value=up, rater=rater, **where)


async def test_a_worse_canary_is_aborted_and_the_audit_says_why(database: Database) -> None:
    async with database.begin() as connection:
        experiment = await a_canary(connection)
        await traffic(connection, experiment, "champion", 60, up=True)
        await traffic(connection, experiment, "candidate", 60, up=False)
    [said] = await rollout.tick(database)
    async with database.begin() as connection:
        ended = await experiments.get(connection, PROJECT, experiment.experiment_id)
        entry = (await audit.entries(connection, PROJECT, subject="support@1"))[0]
        champion = await adapters.champion(connection, PROJECT, "support")
    assert (ended.outcome, champion.version, entry.actor, entry.action) == (
        "aborted",
        0,
        "hone",
        "adapter.abort",
    )
    assert entry.detail["reason"] == ended.reason and said.endswith(str(ended.reason))


async def test_a_canary_nobody_has_met_stays_where_it_is(database: Database) -> None:
    async with database.begin() as connection:
        experiment = await a_canary(connection)
    assert await rollout.tick(database) == []
    async with database.begin() as connection:
        found = await experiments.get(connection, PROJECT, experiment.experiment_id)
    assert (found.step, found.verdict and found.verdict["state"]) == (0, "insufficient_data")


async def test_a_step_that_enough_units_have_met_is_followed_by_the_next(database: Database) -> None:
    async with database.begin() as connection:
        experiment = await a_canary(connection)
        await traffic(connection, experiment, "champion", 12, up=None)
        await traffic(connection, experiment, "candidate", 12, up=None)
    assert len(await rollout.tick(database)) == 1
    assert await rollout.tick(database) == []
    async with database.begin() as connection:
        found = await experiments.get(connection, PROJECT, experiment.experiment_id)
    assert (found.step, found.arm("candidate").weight, found.arm("champion").weight) == (1, 0.5, 0.5)


async def test_a_split_that_does_not_hold_is_not_widened(database: Database) -> None:
    async with database.begin() as connection:
        experiment = await a_canary(connection)
        await traffic(connection, experiment, "candidate", 60, up=None, propensity=0.1)
    assert await rollout.tick(database) == []
    async with database.begin() as connection:
        found = await experiments.get(connection, PROJECT, experiment.experiment_id)
    assert found.verdict is not None and found.verdict["sample_ratio"]["broken"]


@pytest.mark.parametrize(("approval", "champion"), [("operator", 0), ("automatic", 1)])
async def test_a_better_canary_is_promoted_by_the_worker_only_where_the_policy_says_so(
    database: Database, approval: Any, champion: int
) -> None:
    policy = ModelPolicy(approval=approval, rollout=RolloutPolicy(steps=(0.5,), step_seconds_min=0))
    async with database.begin() as connection:
        experiment = await a_canary(connection, policy)
        await traffic(connection, experiment, "champion", 80, up=False)
        await traffic(connection, experiment, "candidate", 80, up=True)
    await rollout.tick(database)
    async with database.begin() as connection:
        found = await experiments.get(connection, PROJECT, experiment.experiment_id)
        now = await adapters.champion(connection, PROJECT, "support")
    assert found.verdict is not None and found.verdict["state"] == "better"
    assert now.version == champion


async def test_an_automatic_policy_ships_a_candidate_but_not_one_that_was_aborted(database: Database) -> None:
    policy = ModelPolicy(approval="automatic", rollout=QUICK)
    async with database.begin() as connection:
        await a_model(connection, policy=policy)
        await an_adapter(connection, state="candidate")
    assert len(await rollout.tick(database)) == 1
    async with database.begin() as connection:
        await shipping.abort(connection, PROJECT, "support", by=AUTOMATIC_ACTOR, reason="worse")
    assert await rollout.tick(database) == []


async def test_a_decision_a_person_made_meanwhile_stands(database: Database) -> None:
    async with database.begin() as connection:
        experiment = await a_canary(connection)
        await traffic(connection, experiment, "champion", 60, up=True)
        await traffic(connection, experiment, "candidate", 60, up=False)
    async with database.begin() as connection:
        await shipping.promote(connection, PROJECT, "support@1", by="ada", reason="I know better")
        assert await rollout._advance(connection, experiment) == []
        assert (await adapters.champion(connection, PROJECT, "support")).version == 1
        states = (await connection.execute(text("SELECT DISTINCT outcome FROM experiments"))).scalars().all()
    assert states == ["promoted"]
