"""A promoted version goes on being watched; the policy says whether it comes back by itself."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from feedback import adapters, champion_reports, models, shipping
from feedback.completions import insert_many
from feedback.database import Database
from feedback.errors import IllegalMove
from feedback.policy import ModelPolicy, RolloutPolicy
from retrain import champion_watch, version_retention
from tests.builders import PROJECT, a_completion, a_model, a_rated_completion, an_adapter


def policy(action: str) -> ModelPolicy:
    return ModelPolicy(rollout=RolloutPolicy.model_validate({"champion_watch": {"action": action}}))


async def a_promotion(connection: Any, action: str) -> None:
    """Version 1 replaces the base; sixty raters were content before, and none of them with version 1."""
    model = await a_model(connection, policy=policy(action))
    base = await adapters.champion(connection, PROJECT, model.model)
    earlier = datetime.now(UTC) - timedelta(hours=5)
    for number in range(60):
        await a_rated_completion(
            connection,
            value=True,
            rater=f"before-{number}",
            adapter_id=base.adapter_id,
            created_at=earlier,
        )
    await an_adapter(connection, state="champion")


async def say_no(connection: Any) -> None:
    champion = await adapters.champion(connection, PROJECT, "support")
    for number in range(60):
        await a_rated_completion(
            connection,
            value=False,
            rater=f"after-{number}",
            adapter_id=champion.adapter_id,
            version=champion.version,
        )


async def champion_of(database: Database) -> adapters.Adapter:
    async with database.begin() as connection:
        return await adapters.champion(connection, PROJECT, "support")


async def test_a_champion_that_does_worse_is_rolled_back_where_the_policy_says_so(database: Database) -> None:
    async with database.begin() as connection:
        await a_promotion(connection, "roll_back")
    async with database.begin() as connection:
        await say_no(connection)
    [said] = await champion_watch.tick(database)
    assert said.startswith(
        "support@0 is the champion again. support@1 does worse than before: 100.0% of requests"
    )
    assert (await champion_of(database)).version == 0


async def test_otherwise_it_stays_and_the_report_says_that_it_does_worse(database: Database) -> None:
    async with database.begin() as connection:
        await a_promotion(connection, "alert")
    async with database.begin() as connection:
        await say_no(connection)
    assert await champion_watch.tick(database) == []
    champion = await champion_of(database)
    async with database.begin() as connection:
        found = await champion_reports.of_champion(connection, champion.adapter_id)
    assert champion.version == 1
    assert found is not None and found["report"]["state"] == "worse" and found["rolled_back_at"] is None


async def test_a_champion_that_does_as_before_stays(database: Database) -> None:
    async with database.begin() as connection:
        await a_promotion(connection, "roll_back")
    async with database.begin() as connection:
        champion = await adapters.champion(connection, PROJECT, "support")
        for number in range(60):
            await a_rated_completion(
                connection, value=True, rater=f"after-{number}", adapter_id=champion.adapter_id
            )
    assert await champion_watch.tick(database) == []
    champion = await champion_of(database)
    async with database.begin() as connection:
        found = await champion_reports.of_champion(connection, champion.adapter_id)
    assert champion.version == 1 and found is not None and found["report"]["state"] == "well"


async def test_what_a_person_put_back_is_not_rolled_back_again(database: Database) -> None:
    async with database.begin() as connection:
        await a_promotion(connection, "roll_back")
    async with database.begin() as connection:
        await say_no(connection)
    await champion_watch.tick(database)
    async with database.begin() as connection:
        await shipping.roll_back(connection, PROJECT, "support", to="support@1", by="ada")
    async with database.begin() as connection:
        await say_no(connection)
    assert await champion_watch.tick(database) == []
    assert (await champion_of(database)).version == 1


async def test_a_champion_that_a_person_chose_while_the_one_before_it_was_watched_stays(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with database.begin() as connection:
        await a_promotion(connection, "roll_back")
        await an_adapter(connection, state="approved")
    async with database.begin() as connection:
        await say_no(connection)
    store = champion_reports.store

    async def stored(*report: Any, **options: Any) -> None:
        async with database.begin() as connection:
            await shipping.promote(connection, PROJECT, "support@2", by="ada")
        await store(*report, **options)

    monkeypatch.setattr(champion_reports, "store", stored)
    assert await champion_watch.tick(database) == []
    assert (await champion_of(database)).version == 2


async def test_too_few_raters_move_nothing(database: Database) -> None:
    async with database.begin() as connection:
        await a_promotion(connection, "roll_back")
    async with database.begin() as connection:
        champion = await adapters.champion(connection, PROJECT, "support")
        failed = a_completion(adapter_id=champion.adapter_id, status="error")
        await insert_many(connection, [failed])
    assert await champion_watch.tick(database) == []
    assert (await champion_of(database)).version == 1


async def test_files_beyond_the_versions_kept_go_and_a_rollback_to_them_is_refused(
    database: Database, tmp_path: Path
) -> None:
    async with database.begin() as connection:
        await a_model(connection)
        for number in range(1, 6):
            path = tmp_path / f"v{number}"
            path.mkdir()
            await an_adapter(connection, state="champion", path=str(path))
        await models.change_policy(
            connection, PROJECT, "support", {"rollout": {"versions_kept": 2}}, by="ada"
        )
    said = await version_retention.tick(database, tmp_path)
    assert sorted(said) == [
        f"support@{number}: its files are removed; newer versions are kept." for number in (1, 2)
    ]
    assert sorted(os.listdir(tmp_path)) == ["v3", "v4", "v5"]
    with pytest.raises(IllegalMove, match="its files were removed"):
        async with database.begin() as connection:
            await shipping.roll_back(connection, PROJECT, "support", to="support@1", by="ada")
    async with database.begin() as connection:
        back = await shipping.roll_back(connection, PROJECT, "support", to="support@3", by="ada")
    assert back.name == "support@3"


async def test_files_outside_the_published_versions_are_never_removed(
    database: Database, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere" / "v1"
    elsewhere.mkdir(parents=True)
    async with database.begin() as connection:
        await a_model(connection)
        for _ in range(4):
            await an_adapter(connection, state="champion", path=str(elsewhere))
        await models.change_policy(
            connection, PROJECT, "support", {"rollout": {"versions_kept": 1}}, by="ada"
        )
    assert await version_retention.tick(database, tmp_path / "adapters") == []
    assert elsewhere.exists()
