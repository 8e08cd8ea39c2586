"""The operator's verbs: what each changes, and what the automatic actor may not do."""

import pytest

from feedback import adapters, experiments, shipping
from feedback.adapters import AUTOMATIC_ACTOR
from feedback.database import Database
from feedback.errors import HoneError, IllegalMove
from feedback.policy import ModelPolicy
from tests.builders import PROJECT, a_model, an_adapter


async def test_promoting_a_canary_ends_its_experiment_and_cites_the_verdict(database: Database) -> None:
    async with database.begin() as connection:
        candidate = await an_adapter(connection, state="approved")
        experiment = await shipping.start_canary(connection, PROJECT, candidate.name, by="ada")
        await experiments.store_verdict(
            connection, experiment, {"state": "better", "sentence": "It is better."}
        )
        await shipping.promote(connection, PROJECT, candidate.name, by="ada", reason="go")
        ended = await experiments.get(connection, PROJECT, experiment.experiment_id)
        champion = await adapters.champion(connection, PROJECT, "support")
    assert champion.name == candidate.name
    assert (ended.status, ended.outcome, ended.reason) == ("ended", "promoted", "go [It is better.]")


async def test_an_aborted_canary_stays_out_until_a_person_approves_it_again(database: Database) -> None:
    async with database.begin() as connection:
        candidate = await an_adapter(connection, state="approved")
        await shipping.start_canary(connection, PROJECT, candidate.name, by="ada")
        aborted = await shipping.abort(connection, PROJECT, "support", by=AUTOMATIC_ACTOR, reason="worse")
        assert (aborted.state, aborted.aborted_at is not None) == ("candidate", True)
        with pytest.raises(IllegalMove, match="until a person approves"):
            await shipping.approve(connection, PROJECT, candidate.name, by=AUTOMATIC_ACTOR)
        assert (await shipping.approve(connection, PROJECT, candidate.name, by="ada")).state == "approved"


async def test_the_worker_may_not_promote_unless_the_policy_says_so(database: Database) -> None:
    async with database.begin() as connection:
        await a_model(connection, "careful")
        await a_model(connection, "bold", policy=ModelPolicy(approval="automatic"))
        careful = await an_adapter(connection, state="approved", model="careful")
        bold = await an_adapter(connection, state="approved", model="bold")
        with pytest.raises(IllegalMove, match="a person promotes"):
            await shipping.promote(connection, PROJECT, careful.name, by=AUTOMATIC_ACTOR)
        assert (
            await shipping.promote(connection, PROJECT, bold.name, by=AUTOMATIC_ACTOR)
        ).state == "champion"


async def test_a_rollback_ends_the_canary_that_was_compared_with_the_leaving_champion(
    database: Database,
) -> None:
    async with database.begin() as connection:
        await an_adapter(connection, state="champion")
        candidate = await an_adapter(connection, state="approved")
        await shipping.start_canary(connection, PROJECT, candidate.name, by="ada")
        restored = await shipping.roll_back(connection, PROJECT, "support", by="ada")
        assert restored.version == 0
        assert await experiments.of_model(connection, PROJECT, "support") is None
        assert (await adapters.get(connection, PROJECT, candidate.name)).state == "candidate"


async def test_a_rollback_to_a_version_of_another_model_is_refused_by_name(database: Database) -> None:
    async with database.begin() as connection:
        await an_adapter(connection, state="champion")
        await an_adapter(connection, state="champion", model="sales")
        await an_adapter(connection, state="champion", model="sales")
        with pytest.raises(HoneError, match="'sales@1' is a version of 'sales', and the model to roll back"):
            await shipping.roll_back(connection, PROJECT, "support", to="sales@1", by="ada")
        assert (await adapters.champion(connection, PROJECT, "support")).name == "support@1"


async def test_a_second_abort_says_that_there_is_no_canary(database: Database) -> None:
    async with database.begin() as connection:
        await a_model(connection)
        with pytest.raises(HoneError, match="no canary"):
            await shipping.abort(connection, PROJECT, "support", by="ada", reason="again")
