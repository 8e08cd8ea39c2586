"""Adapter versions: legal moves, exactly one champion, numbers never used twice."""

import asyncio

import pytest

from feedback import adapters, audit, experiments, models
from feedback.adapters import CONTROL, MOVES
from feedback.database import Database
from feedback.errors import HoneError, IllegalMove, NotFound
from feedback.tables import ADAPTER_STATES
from tests.builders import PROJECT, a_model, an_adapter


async def test_a_new_model_answers_with_its_base(database: Database) -> None:
    async with database.begin() as connection:
        await a_model(connection)
        champion = await adapters.champion(connection, PROJECT, "support")
    assert (champion.name, champion.engine_name, champion.path) == ("support@0", "base", None)


async def test_a_rejected_candidate_leaves_the_champion_alone(database: Database) -> None:
    async with database.begin() as connection:
        rejected = await an_adapter(connection, state="rejected")
        with pytest.raises(IllegalMove, match=rejected.adapter_id):
            await adapters.promote(connection, rejected, by="ada", reason="it looks nice")
        assert (await adapters.champion(connection, PROJECT, "support")).version == 0


async def test_promotion_names_who_on_which_evidence_and_what_it_replaced(database: Database) -> None:
    async with database.begin() as connection:
        champion = await an_adapter(connection, state="champion")
        entry = (await audit.entries(connection, PROJECT, subject=champion.name))[0]
    assert (entry.actor, entry.action) == ("ada", "adapter.promote_directly")
    assert entry.detail["evidence_hash"] == "e" * 64
    assert entry.detail["replaces"] == "support@0"


async def test_rolling_back_twice_goes_two_versions_back(database: Database) -> None:
    async with database.begin() as connection:
        for _ in range(2):
            await an_adapter(connection, state="champion")
        for expected in (1, 0):
            restored = await adapters.roll_back(connection, PROJECT, "support", by="ada", reason="worse")
            assert restored.version == expected
        with pytest.raises(IllegalMove, match="first champion"):
            await adapters.roll_back(connection, PROJECT, "support", by="ada", reason="worse")


async def test_a_rollback_can_be_taken_back(database: Database) -> None:
    async with database.begin() as connection:
        await an_adapter(connection, state="champion")
        await adapters.roll_back(connection, PROJECT, "support", by="ada", reason="worse")
        wanted = {adapter.name for adapter in await adapters.wanted_on_engines(connection)}
        assert wanted == {"support@0", "support@1"}
        restored = await adapters.roll_back(
            connection, PROJECT, "support", to="support@1", by="ada", reason="it was not"
        )
    assert restored.name == "support@1"


async def test_the_base_model_can_be_asked_however_many_champions_came_after_it(database: Database) -> None:
    async with database.begin() as connection:
        for _ in range(3):
            await an_adapter(connection, state="champion")
        wanted = {adapter.name for adapter in await adapters.wanted_on_engines(connection)}
    assert wanted == {"support@0", "support@2", "support@3"}


async def test_of_two_promotions_at_once_one_is_refused(database: Database) -> None:
    async with database.begin() as connection:
        candidate = await an_adapter(connection, state="approved")

    async def promote() -> bool:
        async with database.begin() as connection:
            await adapters.promote(connection, candidate, by="ada", reason="race")
        return True

    outcomes = await asyncio.gather(promote(), promote(), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes if outcome is not True] == [IllegalMove]


async def test_versions_reserved_at_once_differ(database: Database) -> None:
    async with database.begin() as connection:
        await a_model(connection)
        first = await an_adapter(connection, state="trained")
        second = await an_adapter(connection, state="rejected")
    assert (first.version, second.version) == (1, 2)


def test_every_move_is_between_known_states_and_reaches_all_but_the_first_and_a_controls() -> None:
    assert {state for move in MOVES.values() for state in move} <= set(ADAPTER_STATES)
    assert {after for _, after in MOVES.values()} == set(ADAPTER_STATES) - {"trained", CONTROL}


@pytest.mark.parametrize("verb", ["approve", "start_canary", "promote", "abort", "roll_back"])
async def test_a_move_from_the_wrong_state_says_what_the_right_one_is(database: Database, verb: str) -> None:
    async with database.begin() as connection:
        trained = await an_adapter(connection, state="trained")
        with pytest.raises(IllegalMove, match=f"needs it to be '.*{MOVES[verb][0]}"):
            await adapters.move(connection, trained, verb, by="ada")


async def test_a_canary_takes_the_first_steps_share_and_a_second_is_refused(database: Database) -> None:
    async with database.begin() as connection:
        first = await an_adapter(connection, state="approved")
        second = await an_adapter(connection, state="approved")
        experiment = await experiments.start_canary(connection, first, by="ada")
        assert experiment.arm("candidate").weight == pytest.approx(0.01)
        with pytest.raises(HoneError, match="Promote or abort"):
            await experiments.start_canary(connection, second, by="ada")


async def test_a_changed_policy_holds_at_once_and_a_wrong_one_is_refused_by_name(database: Database) -> None:
    async with database.begin() as connection:
        await a_model(connection)
        model = await models.change_policy(
            connection, PROJECT, "support", {"rollout": {"steps": [0.1, 0.5]}}, by="ada"
        )
        assert model.policy.rollout.steps == (0.1, 0.5)
        with pytest.raises(HoneError, match=r"rollout\.stepz"):
            await models.change_policy(connection, PROJECT, "support", {"rollout": {"stepz": [1]}}, by="ada")


async def test_an_unknown_model_is_answered_with_those_there_are(database: Database) -> None:
    async with database.begin() as connection:
        await a_model(connection)
        with pytest.raises(NotFound, match="it has: support"):
            await models.get(connection, PROJECT, "suport")
