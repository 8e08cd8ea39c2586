"""Real TRL on a real tiny model: what is promised of a training, whatever the method."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import orjson
import pytest

from retrain.checkpoints import last_checkpoint
from retrain.context import Progress, TrainingContext, TrainingFailed
from retrain.dpo import train_dpo
from retrain.exact import put_right, tokens_of
from retrain.kto import balance, train_kto, whole_batches
from retrain.recipe import METHODS, Method, Recipe, default_recipe
from retrain.sft import train_sft
from retrain.step_metrics import to_csv, trained_tokens
from retrain.training import Row, TrainingResult, finished_result

# Third-party deprecations are theirs to mend; ours would show in the other tests.
pytestmark = pytest.mark.filterwarnings("ignore")

TRAIN: dict[Method, Callable[..., TrainingResult | None]] = {
    "sft": train_sft,
    "dpo": train_dpo,
    "kto": train_kto,
}


def rows_for(method: Method, number: int = 24) -> list[Row]:
    def said(role: str, content: str) -> list[dict[str, str]]:
        return [{"role": role, "content": content}]

    rows: list[Row] = []
    for n in range(number):
        prompt, right = said("user", f"Question {n}?"), said("assistant", f"Answer {n}, thank you.")
        if method == "sft":
            rows.append({"prompt": prompt, "completion": right})
        elif method == "dpo":
            rows.append({"prompt": prompt, "chosen": right, "rejected": said("assistant", "Go away.")})
        else:
            rows.append({"prompt": prompt, "completion": right, "label": n % 3 > 0})
    return rows


def recipe_for(method: Method, model: Path, **fields: Any) -> Recipe:
    return default_recipe(
        method, str(model), **{"learning_rate": 1e-3, "epochs": 2.0, "batch_size": 4, **fields}
    )


def stops_at(step: int) -> Callable[[], bool]:
    """Says after this step, counted from 1, that it is time to stop."""
    steps = count(1)
    return lambda: next(steps) == step


def weights(result: TrainingResult | None) -> bytes:
    assert result is not None
    return (result.adapter / "adapter_model.safetensors").read_bytes()


@pytest.mark.parametrize("method", METHODS)
def test_equal_seeds_give_equal_adapters_and_a_stopped_training_ends_with_the_same(
    method: Method, tiny_model: Path, tmp_path: Path
) -> None:
    recipe, rows = recipe_for(method, tiny_model), rows_for(method)
    whole = TRAIN[method](rows, recipe, TrainingContext(tmp_path / "whole"))

    stopping = TrainingContext(tmp_path / "stopped", should_stop=stops_at(5))
    assert TRAIN[method](rows, recipe, stopping) is None
    assert finished_result(stopping.directory) is None
    resumed = TRAIN[method](rows, recipe, replace(stopping, should_stop=lambda: False))

    assert whole is not None and resumed is not None
    assert (whole.resumed_from_step, resumed.resumed_from_step) == (0, 5)
    assert weights(resumed) == weights(whole)
    assert finished_result(stopping.directory) == resumed
    assert resumed.loss == whole.loss
    assert to_csv(resumed.history) == to_csv(whole.history)
    assert trained_tokens(resumed.history) == trained_tokens(whole.history)

    other = TRAIN[method](rows, recipe_for(method, tiny_model, seed=1), TrainingContext(tmp_path / "other"))
    assert weights(other) != weights(whole)


def test_a_training_that_learns_no_more_ends_early_with_its_best_weights(
    tiny_model: Path, tmp_path: Path
) -> None:
    recipe = recipe_for("sft", tiny_model, learning_rate=0.02, epochs=30.0, patience=2, validation_share=0.3)
    # Answers that do not follow from their questions: they can be learned by heart only.
    rows: list[Row] = [{"prompt": f"Question {n}?", "completion": f" {n * 7919 % 1009}."} for n in range(40)]
    context = TrainingContext(tmp_path / "whole", held_out=rows[:4])
    whole = train_sft(rows, recipe, context)
    assert whole is not None
    assert whole.rows_left_out == 0 and whole.rows < 40
    assert whole.steps < 30 * math.ceil(whole.rows / recipe.batch_size)
    losses = orjson.loads((context.directory / "best" / "losses.json").read_bytes())
    assert whole.notes["validation_loss"] == min(loss for _, loss in losses) < losses[-1][1]
    assert whole.notes["best_step"] < whole.steps
    assert whole.notes["held_out_loss"] > 0

    # Between two looks, at the look with the best weights, and at the one that ends the training.
    best, last = int(whole.notes["best_step"]), losses[-1][0]
    for name, stop_at in (("between", best + 3), ("at the best", best), ("at the last", last)):
        stopping = TrainingContext(tmp_path / name, should_stop=stops_at(stop_at), held_out=rows[:4])
        result = train_sft(rows, recipe, stopping)
        assert (result is None) == (stop_at != last)
        result = result or train_sft(rows, recipe, replace(stopping, should_stop=lambda: False))
        assert result is not None and weights(result) == weights(whole)
        assert (result.steps, result.loss, result.notes) == (whole.steps, whole.loss, whole.notes)


def test_served_tokens_are_learned_as_they_were_served(tiny_model: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    recipe, rows = recipe_for("sft", tiny_model, epochs=1.0), rows_for("sft", 12)

    def served(row: Row, *, more: tuple[int, ...] = ()) -> Row:
        ids, start = tokens_of(row, tokenizer, recipe.max_length)
        end = next(n for n, token in reversed(list(enumerate(ids))) if token == tokenizer.eos_token_id) + 1
        return {**row, "prompt_token_ids": ids[:start], "output_token_ids": [*ids[start:end], *more]}

    def trained(name: str, rows: list[Row]) -> TrainingResult:
        result = train_sft(rows, recipe, TrainingContext(tmp_path / name))
        assert result is not None
        return result

    first = served(rows[0])
    other = {**first, "output_token_ids": [tokenizer.eos_token_id]}
    exact, changed = trained("exact", [first, *rows[1:]]), trained("changed", [other, *rows[1:]])
    assert (exact.notes["rows_as_served"], exact.rows) == (1, 12)
    assert weights(changed) != weights(exact)
    cut_off = trained("cut off", [served(rows[0], more=(5,)), *rows[1:]])
    assert "rows_as_served" not in cut_off.notes
    too_long = trained("too long", [{**first, "prompt_token_ids": [5] * recipe.max_length}, *rows[1:]])
    assert ("rows_as_served" in too_long.notes, too_long.rows) == (False, 12)
    assert weights(cut_off) == weights(too_long) == weights(trained("text", rows))


@pytest.mark.parametrize(("method", "answer"), [("kto", "output_token_ids"), ("dpo", "rejected_token_ids")])
def test_served_tokens_take_the_place_of_those_that_a_preference_trainer_made(
    method: Method, answer: str, tiny_model: Path, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    recipe, rows = recipe_for(method, tiny_model, epochs=1.0), rows_for(method, 12)
    prompt = tokenizer.apply_chat_template(rows[0]["prompt"], add_generation_prompt=True, return_dict=False)

    def trained(name: str, output: list[int]) -> TrainingResult:
        first = {**rows[0], "prompt_token_ids": list(prompt), answer: output}
        result = TRAIN[method]([first, *rows[1:]], recipe, TrainingContext(tmp_path / name))
        assert result is not None
        return result

    whole, cut_off = trained("whole", [7, 8, tokenizer.eos_token_id]), trained("cut off", [7, 8])
    assert whole.notes["rows_as_served"] == 1
    assert "rows_as_served" not in cut_off.notes
    assert weights(cut_off) == weights(TRAIN[method](rows, recipe, TrainingContext(tmp_path / "text")))
    assert weights(whole) != weights(cut_off)


def prepared(trainer: Any) -> list[Row]:
    rows: list[Row] = trainer.train_dataset.to_list()
    return rows


def test_recorded_tokens_that_trl_would_have_made_change_nothing(tiny_model: Path, tmp_path: Path) -> None:
    from datasets import Dataset
    from transformers import AutoTokenizer
    from trl import KTOConfig, KTOTrainer

    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    text = [{"prompt": f"{n}?", "completion": f" {n * n}.", "label": n % 2 == 0} for n in range(9)]
    arguments = KTOConfig(
        output_dir=str(tmp_path), per_device_train_batch_size=4, use_cpu=True, bf16=False, report_to=[]
    )
    trainer = KTOTrainer(
        model=str(tiny_model),
        args=arguments,
        train_dataset=Dataset.from_list(text),
        processing_class=tokenizer,
    )
    before = prepared(trainer)
    served = [
        {**row, "prompt_token_ids": made["prompt_ids"], "output_token_ids": made["completion_ids"]}
        for row, made in zip(text, before, strict=True)
    ]
    assert put_right(trainer, served, tokenizer, 64) == len(served)
    assert prepared(trainer) == before


def test_an_adapter_is_safetensors_and_configuration_only(tiny_model: Path, tmp_path: Path) -> None:
    result = train_sft(rows_for("sft"), recipe_for("sft", tiny_model), TrainingContext(tmp_path))
    assert result is not None
    files = {path.name for path in result.adapter.iterdir()}
    assert {"adapter_model.safetensors", "adapter_config.json"} <= files
    assert not [name for name in files if name.endswith((".bin", ".pt", ".pkl", ".pth"))]
    configuration = json.loads((result.adapter / "adapter_config.json").read_text())
    assert (configuration["r"], configuration["peft_type"]) == (8, "LORA")


def test_progress_counts_steps_with_finite_losses_and_an_end_in_sight(
    tiny_model: Path, tmp_path: Path
) -> None:
    seen: list[Progress] = []
    context = TrainingContext(tmp_path, report=seen.append, report_interval_seconds=0.0)
    result = train_sft(rows_for("sft"), recipe_for("sft", tiny_model), context)
    assert result is not None
    assert [progress.step for progress in seen] == list(range(1, result.steps + 1))
    assert all(math.isfinite(progress.loss) and progress.memory_bytes > 0 for progress in seen)
    assert seen[-1].remaining_seconds == 0.0
    assert seen[0].loss > seen[-1].loss


def test_rows_that_do_not_fit_are_left_out_and_counted(tiny_model: Path, tmp_path: Path) -> None:
    rows = rows_for("sft")
    long = {"prompt": rows[0]["prompt"], "completion": [{"role": "assistant", "content": "word " * 300}]}
    recipe = recipe_for("sft", tiny_model, max_length=128)
    result = train_sft([*rows, long], recipe, TrainingContext(tmp_path))
    assert result is not None
    assert (result.rows, result.rows_left_out) == (len(rows), 1)
    with pytest.raises(TrainingFailed, match="None of the 1 training rows fits max_length = 128"):
        train_sft([long], recipe, TrainingContext(tmp_path / "none"))


def test_text_prompts_train_as_well_as_conversations(tiny_model: Path, tmp_path: Path) -> None:
    rows: list[Row] = [{"prompt": f"Number {n} is", "completion": f" {n * n}."} for n in range(12)]
    result = train_sft(rows, recipe_for("sft", tiny_model), TrainingContext(tmp_path))
    assert result is not None and result.rows == 12


def test_a_loss_that_is_not_finite_ends_the_training_with_advice(tiny_model: Path, tmp_path: Path) -> None:
    broken = recipe_for("sft", tiny_model).model_copy(update={"learning_rate": 1e30})
    with pytest.raises(TrainingFailed, match=r"Lower training\.recipe\.learning_rate"):
        train_sft(rows_for("sft"), broken, TrainingContext(tmp_path))
    assert finished_result(tmp_path) is None


def test_a_replaced_chat_template_is_refused(tiny_model: Path, tmp_path: Path) -> None:
    recipe = recipe_for("sft", tiny_model, template_hash="0" * 64)
    with pytest.raises(TrainingFailed, match="the model was replaced in between"):
        train_sft(rows_for("sft"), recipe, TrainingContext(tmp_path))


@pytest.mark.parametrize("reference", ["base", "start"])
def test_a_training_may_continue_an_adapter_without_taking_its_parent_along(
    reference: str, tiny_model: Path, tmp_path: Path
) -> None:
    first = train_sft(rows_for("sft"), recipe_for("sft", tiny_model), TrainingContext(tmp_path / "first"))
    assert first is not None
    recipe = recipe_for("dpo", tiny_model, start_from=str(first.adapter), reference=reference)
    second = train_dpo(rows_for("dpo"), recipe, TrainingContext(tmp_path / "second"))
    assert second is not None
    assert weights(second) != weights(first)
    assert not [path for path in second.adapter.rglob("*") if path.is_dir()]


def test_a_checkpoint_without_its_marker_is_not_resumed_from(tmp_path: Path) -> None:
    for step, complete in ((5, True), (10, True), (15, False)):
        directory = tmp_path / f"checkpoint-{step}"
        directory.mkdir()
        if complete:
            (directory / "complete").touch()
    found = last_checkpoint(tmp_path)
    assert found is not None and found.name == "checkpoint-10"
    assert last_checkpoint(tmp_path / "nothing") is None


def test_kto_shuffles_by_seed_and_never_leaves_a_row_alone_in_its_batch() -> None:
    rows = rows_for("kto", 33)
    ordered = whole_batches(rows, 8, seed=0)
    assert len(ordered) == 32
    assert ordered == whole_batches(rows, 8, seed=0) != whole_batches(rows, 8, seed=1)
    with pytest.raises(TrainingFailed, match="it needs both"):
        whole_batches([row for row in rows if row["label"]], 8, seed=0)


def test_rows_that_only_repeat_what_is_known_do_not_tip_the_balance() -> None:
    rated: list[Row] = [*[{"label": True}] * 40, *[{"label": False}] * 20]
    replayed: list[Row] = [{"label": True, "replay": True}] * 30
    recipe = default_recipe("kto", "base")
    assert balance([*rated, *replayed], recipe) == balance(rated, recipe)


@pytest.mark.parametrize(("up", "down"), [(48, 16), (16, 48), (30, 30), (31, 30), (400, 12)])
def test_kto_weights_keep_the_papers_ratio(up: int, down: int) -> None:
    rows: list[Row] = [*[{"label": True}] * up, *[{"label": False}] * down]
    desirable, undesirable = balance(rows, default_recipe("kto", "base"))
    assert 1.0 <= (desirable * up) / (undesirable * down) <= 4 / 3 + 1e-9
    assert max(desirable, undesirable) == 1.0
