"""A running canary: worse is aborted, a finished step is followed by the next, and people have the last word."""

from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import adapters, audit, experiments, models, rollouts, shipping
from feedback.adapters import AUTOMATIC_ACTOR
from feedback.completions import insert_many
from feedback.database import Database
from feedback.experiments import Experiment
from feedback.models import Model
from feedback.policy import ModelPolicy, RolloutPolicy
from retrain import rollout
from retrain.demands import sum_up
from tests.builders import PROJECT, a_completion, a_model, a_rated_completion, an_adapter
from tests.interleaved import meanwhile

QUICK = RolloutPolicy(
    steps=(0.1, 0.5), step_seconds_min=0, step_units_min=10, step_requests_min=10, units_min=50
)


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


async def standing_of(database: Database, experiment: Experiment) -> tuple[Experiment, rollouts.Rollout]:
    async with database.begin() as connection:
        return (
            await experiments.get(connection, PROJECT, experiment.experiment_id),
            await rollouts.of(connection, experiment.experiment_id),
        )


async def test_a_split_that_does_not_hold_pauses_the_rollout_and_says_why(database: Database) -> None:
    async with database.begin() as connection:
        experiment = await a_canary(connection)
        await traffic(connection, experiment, "candidate", 60, up=None, propensity=0.1)
    assert len(await rollout.tick(database)) == 1
    found, standing = await standing_of(database, experiment)
    assert found.verdict is not None and found.verdict["sample_ratio"]["broken"]
    assert found.step == 0 and standing.paused_by == AUTOMATIC_ACTOR
    assert standing.pause_reason == found.verdict["sample_ratio"]["sentence"]


async def test_what_a_person_resumed_over_does_not_pause_again_and_is_still_not_widened(
    database: Database,
) -> None:
    async with database.begin() as connection:
        experiment = await a_canary(connection)
        await traffic(connection, experiment, "candidate", 60, up=None, propensity=0.1)
    await rollout.tick(database)
    async with database.begin() as connection:
        await shipping.resume(connection, PROJECT, "support", by="ada")
    assert await rollout.tick(database) == []
    found, standing = await standing_of(database, experiment)
    assert not standing.paused and found.step == 0
    assert standing.waiting_for == "The next step, 50%, waits for a split that holds."


async def test_a_paused_rollout_is_not_widened_until_a_person_resumes_it(database: Database) -> None:
    async with database.begin() as connection:
        experiment = await a_canary(connection)
        for arm in ("champion", "candidate"):
            await traffic(connection, experiment, arm, 12, up=None)
        await shipping.pause(connection, PROJECT, "support", by="ada", reason="the shop moves")
    assert await rollout.tick(database) == []
    assert (await standing_of(database, experiment))[0].step == 0
    async with database.begin() as connection:
        await shipping.resume(connection, PROJECT, "support", by="ada")
    assert len(await rollout.tick(database)) == 1
    assert (await standing_of(database, experiment))[0].step == 1


async def test_a_pause_waits_for_the_look_that_goes_on_so_that_nothing_is_widened_after_it(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with database.begin() as connection:
        experiment = await a_canary(connection)
        for arm in ("champion", "candidate"):
            await traffic(connection, experiment, arm, 12, up=None)
    widen, pauses = experiments.widen, []

    async def about_to_widen(*asked: Any, **options: Any) -> Experiment:
        pauses.append(
            await meanwhile(
                database,
                lambda other: shipping.pause(other, PROJECT, "support", by="ada", reason="the shop moves"),
            )
        )
        return await widen(*asked, **options)

    monkeypatch.setattr(experiments, "widen", about_to_widen)
    await rollout.tick(database)
    await pauses[0]
    async with database.begin() as connection:
        told = [one.action for one in await audit.entries(connection, PROJECT)]
    assert told[:2] == ["rollout.pause", "experiment.widen"]


async def test_a_canary_that_began_while_the_one_before_it_was_judged_is_left_alone(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with database.begin() as connection:
        experiment = await a_canary(connection)
        await an_adapter(connection, state="approved")
        await traffic(connection, experiment, "champion", 60, up=True)
        await traffic(connection, experiment, "candidate", 60, up=False)

    async def while_it_is_summed_up(*asked: Any) -> Any:
        async with database.begin() as connection:
            await shipping.abort(connection, PROJECT, "support", by="ada", reason="enough")
            await shipping.start_canary(connection, PROJECT, "support@2", by="ada")
        return await sum_up(*asked)

    monkeypatch.setattr(rollout, "sum_up", while_it_is_summed_up)
    assert await rollout.tick(database) == []
    async with database.begin() as connection:
        running = await experiments.of_model(connection, PROJECT, "support")
    assert running is not None and [arm.version for arm in running.candidates] == ["support@2"]


async def test_a_policy_that_wants_a_person_from_this_moment_on_ships_nothing_by_itself(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with database.begin() as connection:
        await a_model(connection, policy=ModelPolicy(approval="automatic"))
        base = await adapters.champion(connection, PROJECT, "support")
        candidate = await an_adapter(connection, beside=base)
    every = models.every

    async def as_it_was(connection: AsyncConnection) -> list[Model]:
        seen = await every(connection)
        async with database.begin() as other:
            await models.change_policy(other, PROJECT, "support", {"approval": "operator"}, by="ada")
        return seen

    monkeypatch.setattr(models, "every", as_it_was)
    assert await rollout.tick(database) == []
    async with database.begin() as connection:
        assert (await adapters.by_id(connection, candidate.adapter_id)).state == "candidate"


async def test_a_paused_rollout_is_aborted_all_the_same_when_it_does_harm(database: Database) -> None:
    async with database.begin() as connection:
        experiment = await a_canary(connection)
        await shipping.pause(connection, PROJECT, "support", by="ada", reason="the shop moves")
        await traffic(connection, experiment, "champion", 60, up=True)
        await traffic(connection, experiment, "candidate", 60, up=False)
    await rollout.tick(database)
    assert (await standing_of(database, experiment))[0].outcome == "aborted"


async def test_the_policy_may_pause_at_a_step_for_every_candidate(database: Database) -> None:
    policy = QUICK.model_copy(update={"pause_at": (0.1,)})
    async with database.begin() as connection:
        experiment = await a_canary(connection, ModelPolicy(rollout=policy))
        for arm in ("champion", "candidate"):
            await traffic(connection, experiment, arm, 12, up=None)
    [said] = await rollout.tick(database)
    assert said.endswith("The policy pauses every rollout at 10%.")
    async with database.begin() as connection:
        await shipping.resume(connection, PROJECT, "support", by="ada", reason="looks fine")
        entry = (await audit.entries(connection, PROJECT, subject="support"))[0]
    assert (entry.actor, entry.action, entry.detail["reason"]) == ("ada", "rollout.resume", "looks fine")
    await rollout.tick(database)
    assert (await standing_of(database, experiment))[0].step == 1


async def test_answers_that_grew_pause_a_rollout_and_answers_that_slowed_down_abort_it(
    database: Database,
) -> None:
    async with database.begin() as connection:
        await an_adapter(connection, state="champion")
        experiment = await a_canary(connection)
        await measured(connection, experiment, output_tokens=(10, 45), seconds=(0.1, 0.1))
    [said] = await rollout.tick(database)
    assert "paused" in said and "an answer typically has 46 tokens, 11 tokens in champion" in said
    async with database.begin() as connection:
        await measured(connection, experiment, output_tokens=(10, 10), seconds=(0.1, 9.0))
    [said] = await rollout.tick(database)
    assert "was aborted" in said and "the time to the first token is typically" in said


async def test_times_are_not_compared_with_a_base_model_that_carries_no_adapter(database: Database) -> None:
    async with database.begin() as connection:
        experiment = await a_canary(connection)
        await measured(connection, experiment, output_tokens=(10, 10), seconds=(0.1, 0.9))
    await rollout.tick(database)
    assert (await standing_of(database, experiment))[0].status == "running"


async def measured(
    connection: Any,
    experiment: Experiment,
    *,
    output_tokens: tuple[int, int],
    seconds: tuple[float, float],
    units: int = 60,
) -> None:
    """Requests of both arms that differ in length or speed; pairs are (champion, candidate)."""
    for arm, tokens, first in zip(("champion", "candidate"), output_tokens, seconds, strict=True):
        rows = [
            a_completion(
                experiment_id=experiment.experiment_id,
                arm=arm,
                propensity=0.5,
                unit=f"{arm}-{number}",
                output_tokens=tokens + number % 3,
                time_to_first_token_seconds=first * (1 + number % 5 / 10),
            )
            for number in range(units)
        ]
        await insert_many(connection, rows)


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
        base = await adapters.champion(connection, PROJECT, "support")
        await an_adapter(connection, state="candidate", beside=base)
    assert len(await rollout.tick(database)) == 1
    async with database.begin() as connection:
        await shipping.abort(connection, PROJECT, "support", by=AUTOMATIC_ACTOR, reason="worse")
    assert await rollout.tick(database) == []


async def test_an_automatic_policy_ships_only_the_newest_that_passed_beside_the_champion_there_is(
    database: Database,
) -> None:
    async with database.begin() as connection:
        await a_model(connection, policy=ModelPolicy(approval="automatic", rollout=QUICK))
        base = await adapters.champion(connection, PROJECT, "support")
        await an_adapter(connection, beside=base)
        second = await an_adapter(connection, state="champion", beside=base)
    assert await rollout.tick(database) == []
    async with database.begin() as connection:
        await an_adapter(connection, beside=base)
    assert await rollout.tick(database) == []
    async with database.begin() as connection:
        await an_adapter(connection, beside=second)
        await an_adapter(connection, state="rejected", beside=second)
    [said] = await rollout.tick(database)
    assert said.startswith("support@4 meets its first traffic: it passed the gate beside support@2")


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
