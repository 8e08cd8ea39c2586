"""Methods in sequence on one adapter: real TRL on a real tiny model, stopped and killed in and between stages."""

import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from feedback import datasets, runs
from feedback.database import Database
from feedback.errors import HoneError
from retrain.context import Progress, TrainingContext, TrainingFailed
from retrain.plan import make_plan, queue
from retrain.recipe import PREVIOUS, Method, Recipe, read_recipe, recipe_in_stages
from retrain.stages import Material, train_in_stages
from retrain.train import run_directory
from retrain.training import TrainingResult, finished_result
from tests.builders import PROJECT
from tests.retrain.record import MODEL, small_policy, teach_and_choose
from tests.retrain.test_train_process import ended, training_process, until
from tests.retrain.test_training import rows_for, weights

pytestmark = pytest.mark.filterwarnings("ignore")

FAST = {"learning_rate": 1e-3, "epochs": 2.0, "batch_size": 4}
STAGE_STEPS = 12


def in_stages(methods: str, model: Path, **overrides: object) -> Recipe:
    return recipe_in_stages(methods, str(model), {**FAST, **overrides})


def material(*methods: Method) -> dict[Method, Material]:
    return {method: Material(rows_for(method)) for method in methods}


def trained(result: TrainingResult | None) -> TrainingResult:
    assert result is not None
    return result


def stop_at(step: int) -> Callable[[], bool]:
    steps = iter(range(1, 1000))
    return lambda: next(steps) == step


@pytest.mark.parametrize("methods", ["sft+dpo", "sft+kto"])
def test_stages_end_with_the_same_bytes_wherever_they_were_stopped(
    methods: str, tiny_model: Path, tmp_path: Path
) -> None:
    recipe = in_stages(methods, tiny_model)
    used = [stage.method for stage in recipe.stages]
    whole = trained(train_in_stages(material(*used), recipe, TrainingContext(tmp_path / "whole")))
    assert [stage["method"] for stage in whole.stages] == used
    assert whole.steps == 2 * STAGE_STEPS == sum(stage["steps"] for stage in whole.stages)

    stopping = TrainingContext(tmp_path / "stopped")
    # In the first stage, at the second's first step, and in its middle.
    for step, stages_done in ((5, 0), (STAGE_STEPS - 5 + 1, 1), (4, 1)):
        context = replace(stopping, should_stop=stop_at(step))
        assert train_in_stages(material(*used), recipe, context) is None
        assert finished_result(stopping.directory) is None
        assert len(list(stopping.directory.glob("stage-*/adapter"))) == stages_done
    between = tmp_path / "killed between the stages"
    shutil.copytree(stopping.directory / "stage-1", between / "stage-1")
    for directory in (stopping.directory, between):
        resumed = trained(train_in_stages(material(*used), recipe, TrainingContext(directory)))
        assert weights(resumed) == weights(whole)
        assert finished_result(directory) == resumed

    first_alone = trained(
        train_in_stages(material(used[0]), recipe.stages[0], TrainingContext(tmp_path / "first"))
    )
    assert weights(first_alone) != weights(whole)
    kept = (tmp_path / "whole" / "stage-1" / "adapter" / "adapter_model.safetensors").read_bytes()
    assert weights(first_alone) == kept


def test_progress_counts_on_through_the_stages_to_an_end_that_does_not_move(
    tiny_model: Path, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    context = TrainingContext(tmp_path, report=seen.append, report_interval_seconds=0.0)
    trained(train_in_stages(material("sft", "dpo"), in_stages("sft+dpo", tiny_model), context))
    assert [one.step for one in seen] == list(range(1, 2 * STAGE_STEPS + 1))
    assert {one.steps for one in seen} == {2 * STAGE_STEPS}
    assert (seen[0].stage, seen[-1].stage) == ("1 of 2 (SFT)", "2 of 2 (DPO)")
    assert seen[-1].remaining_seconds == 0.0 < seen[STAGE_STEPS - 1].remaining_seconds


def test_a_later_stage_is_held_to_the_stage_before_it_unless_the_run_continues_an_adapter() -> None:
    fresh = recipe_in_stages("sft+dpo", "base", {"rank": 4, "dpo": {"beta": 0.3}}, seed=7)
    assert [stage.start_from for stage in fresh.stages] == [None, PREVIOUS]
    assert [stage.reference for stage in fresh.stages] == ["base", "start"]
    assert [(stage.rank, stage.seed, stage.beta) for stage in fresh.stages] == [(4, 7, None), (4, 7, 0.3)]
    assert (fresh.methods, fresh.stages[1].sft_weight) == ("sft+dpo", 0.2)
    assert read_recipe(fresh.to_json()) == fresh and read_recipe(fresh.to_json()).hash == fresh.hash

    continued = recipe_in_stages("sft+kto", "base", start_from="/adapters/support--v3")
    assert [stage.reference for stage in continued.stages] == ["base", "base"]
    asked = recipe_in_stages("sft+kto", "base", {"kto": {"reference": "base"}})
    assert asked.stages[1].reference == "base"


def test_stages_that_could_not_train_one_adapter_are_refused() -> None:
    with pytest.raises(HoneError, match="rank is 8 in stage 1 and 16 in stage 2"):
        recipe_in_stages("sft+dpo", "base", {"dpo": {"rank": 16}})
    first, second = recipe_in_stages("sft+dpo", "base").stages
    with pytest.raises(HoneError, match="stage 2 must start from 'previous'"):
        read_recipe(first.to_json() | {"then": [second.to_json() | {"start_from": "/elsewhere"}]})


def test_a_stage_whose_rows_do_not_fit_fails_the_run_and_leaves_no_adapter(
    tiny_model: Path, tmp_path: Path
) -> None:
    long = [{**row, "chosen": [{"role": "assistant", "content": "word " * 300}]} for row in rows_for("dpo")]
    given = material("sft") | {"dpo": Material(long)}
    with pytest.raises(TrainingFailed, match="None of the 24 training rows fits"):
        train_in_stages(given, in_stages("sft+dpo", tiny_model, max_length=128), TrainingContext(tmp_path))
    assert finished_result(tmp_path) is None


@pytest.mark.slow
async def test_a_run_killed_inside_its_second_stage_publishes_what_it_would_have_published(
    database: Database, database_url: str, state_dir: Path, tiny_model: Path, tmp_path: Path
) -> None:
    shared = {"learning_rate": 0.003, "batch_size": 4, "rank": 4, "alpha": 8}
    recipe = {**shared, "sft": {"epochs": 2.0}, "dpo": {"epochs": 6.0}}
    async with database.begin() as connection:
        await teach_and_choose(connection, tiny_model, small_policy(dpo_pairs_min=10, recipe=recipe))
        run = await queue(connection, await make_plan(connection, PROJECT, MODEL), by="test")
        await runs.start(connection, run.run_id)
        rows = await datasets.rows(connection, run.dataset_id, split="train")
    assert run.method == "sft+dpo"
    directory = run_directory(state_dir, run.run_id)

    process = training_process(database_url, state_dir, run.run_id, checkpoint_seconds=0.1)
    await until(lambda: any(directory.glob("stage-2/checkpoints/*/complete")))
    process.kill()
    assert await ended(process) == -signal.SIGKILL
    assert finished_result(directory) is None
    assert await ended(training_process(database_url, state_dir, run.run_id)) == 0

    given = {
        stage.method: Material([row.columns for row in rows if row.method == stage.method])
        for stage in read_recipe(run.recipe).stages
    }
    context = TrainingContext(tmp_path / "uninterrupted")
    uninterrupted = trained(train_in_stages(given, read_recipe(run.recipe), context))
    published = state_dir / "adapters" / str(run.adapter_id)
    assert (published / "adapter_model.safetensors").read_bytes() == weights(uninterrupted)
    card = (published / "model_card.md").read_text()
    assert "trained with SFT, then DPO (TRL)" in card
    assert "### Stage 1: SFT" in card and "### Stage 2: DPO" in card
    async with database.begin() as connection:
        after = await runs.by_id(connection, run.run_id)
        events = await runs.events(connection, run.run_id)
    assert after.progress["step"] == after.progress["steps"]
    assert after.progress["seconds"] > 0 and after.progress["held_out_loss"] > 0
    assert any(", stage 2 of 2 (DPO), loss" in event.message for event in events)
    assert {path.name for path in directory.iterdir()} == {"lock"}
