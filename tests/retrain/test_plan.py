from pathlib import Path

import pytest

from feedback import datasets, runs, submissions
from feedback.database import Database
from feedback.errors import Conflict, HoneError
from retrain.plan import freeze, make_plan, queue, served_template_hash
from retrain.recipe import read_recipe
from tests.builders import PROJECT, a_rated_completion
from tests.retrain.record import MODEL, NEW, small_policy, teach


async def test_a_plan_writes_nothing_and_planning_twice_gives_the_same(database: Database) -> None:
    async with database.begin() as connection:
        await teach(connection, "tiny")
        first = await make_plan(connection, PROJECT, MODEL)
        assert await make_plan(connection, PROJECT, MODEL) == first
        assert await datasets.in_project(connection, PROJECT) == []
        assert await runs.in_project(connection, PROJECT) == []
    assert first.choice.method == "sft"


async def test_a_queued_run_keeps_the_planned_rows_and_recipe(database: Database) -> None:
    async with database.begin() as connection:
        await teach(connection, "tiny")
        plan = await make_plan(connection, PROJECT, MODEL)
        run = await queue(connection, plan, by="ada")
        rows = await datasets.rows(connection, run.dataset_id)
    assert len([row for row in rows if row.split == "train"]) == plan.counts["train"]
    assert len([row for row in rows if row.split == "held_out"]) == plan.counts["held_out"]
    assert read_recipe(run.recipe) == plan.recipe
    assert (run.status, run.phase, run.method) == ("queued", "training", "sft")
    assert {row.split for row in rows} == {"train", "held_out"}
    assert any(row.columns["completion"][0]["content"] == NEW for row in rows if row.split == "train")


async def test_what_is_asked_of_a_run_wins_over_the_policy_field_by_field(database: Database) -> None:
    policy = small_policy(recipe={"rank": 4, "alpha": 8, "sft": {"learning_rate": 0.003, "batch_size": 2}})
    async with database.begin() as connection:
        await teach(connection, "tiny", policy=policy)
        for asked in ({"learning_rate": 0.5}, {"sft": {"learning_rate": 0.5}}):
            recipe = (await make_plan(connection, PROJECT, MODEL, overrides=asked)).recipe
            assert recipe is not None
            assert (recipe.learning_rate, recipe.batch_size, recipe.rank) == (0.5, 2, 4)


async def test_a_second_run_of_a_model_must_wait_for_the_first(database: Database) -> None:
    async with database.begin() as connection:
        await teach(connection, "tiny")
        plan = await make_plan(connection, PROJECT, MODEL)
        await queue(connection, plan, by="ada")
        with pytest.raises(Conflict, match="already being trained"):
            await queue(connection, plan, by="ada")


async def test_what_was_taken_back_or_has_no_consent_is_not_planned_with(database: Database) -> None:
    async with database.begin() as connection:
        await teach(connection, "tiny")
        before = await make_plan(connection, PROJECT, MODEL)
        unwilling = await a_rated_completion(connection, consent=False, rater="rater-x")
        hasty = await a_rated_completion(connection, rater="rater-y")
        said = await submissions.of_completion(connection, PROJECT, hasty.completion_id)
        await submissions.retract(connection, PROJECT, said[0]["feedback_id"])
        after = await make_plan(connection, PROJECT, MODEL)
        frozen = await freeze(connection, after)
        rows = await datasets.rows(connection, frozen.dataset_id)
        left_out = await datasets.exclusions(
            connection, frozen.dataset_id, reason="completion has no consent"
        )
    assert [after.counts[split] for split in ("train", "held_out")] == [
        before.counts[split] for split in ("train", "held_out")
    ]
    assert after.counts["excluded"]["completion has no consent to training"] == 1
    assert [one.completion_id for one in left_out] == [unwilling.completion_id]
    assert unwilling.completion_id not in {c for row in rows for c in row.completion_ids}


async def test_too_little_data_is_refused_with_what_is_missing(database: Database) -> None:
    async with database.begin() as connection:
        await teach(connection, "tiny", people=1)
        plan = await make_plan(connection, PROJECT, MODEL)
        with pytest.raises(HoneError, match="1 of 3 raters, not enough"):
            await queue(connection, plan, by="ada")


async def test_people_who_cannot_be_split_are_too_few_even_when_the_policy_allows_them(
    database: Database,
) -> None:
    async with database.begin() as connection:
        await teach(
            connection, "tiny", people=1, policy=small_policy(raters_min=1, sft_rows_min=1, rater_share_max=1)
        )
        plan = await make_plan(connection, PROJECT, MODEL)
    assert plan.recipe is None
    assert "no rows are left to train on" in plan.choice.sentences[-1]


@pytest.mark.filterwarnings("ignore")
def test_the_template_hash_read_from_files_is_the_tokenizers(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from retrain.training import template_hash

    assert served_template_hash(str(tiny_model)) == template_hash(AutoTokenizer.from_pretrained(tiny_model))
    assert served_template_hash("acme/on-the-hub") is None
