import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from retrain.context import TrainingContext
from retrain.memory import estimate, free_bytes
from retrain.recipe import Recipe, default_recipe
from retrain.sft import train_sft
from retrain.training import Row
from tests.retrain.test_training import pytestmark as pytestmark
from tests.retrain.test_training import rows_for

MIB = 2**20


def memory_taken(rows: list[Row], recipe: Recipe, directory: Path) -> int:
    result = train_sft(rows, recipe, TrainingContext(directory))
    assert result is not None
    return result.memory_bytes


def test_the_estimate_is_near_what_a_training_really_takes(tiny_model: Path, tmp_path: Path) -> None:
    recipe, rows = default_recipe("sft", str(tiny_model), epochs=1.0), rows_for("sft")
    needed = estimate(recipe, rows, "cpu")
    assert needed is not None
    held = b"x" * (2 * needed.total)  # What the process that starts a training holds is not the training's.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as own:
        taken = own.submit(memory_taken, rows, recipe, tmp_path).result()
    del held
    assert 0.5 < taken / needed.total < 2


def test_what_the_recipe_costs_grows_with_what_the_recipe_asks_for(tiny_model: Path) -> None:
    rows = [{"prompt": "x" * 8000, "completion": "y", "chosen": "y", "rejected": "z", "label": True}]

    def of(method: str, **fields: object) -> int:
        needed = estimate(default_recipe(method, str(tiny_model), **fields), rows, "cpu")  # type: ignore[arg-type]
        assert needed is not None
        return needed.total

    assert of("sft", max_length=512) < of("sft") < of("sft", batch_size=16)
    assert of("sft") < of("sft", rank=64)
    assert of("dpo") < of("dpo", start_from="/somewhere")
    assert of("sft", quantised=True) < of("sft")


def test_a_base_that_is_not_on_this_disk_is_not_guessed_at() -> None:
    assert estimate(default_recipe("sft", "Qwen/Qwen3-0.6B"), [], "cpu") is None
    assert free_bytes("cpu") > 64 * MIB
