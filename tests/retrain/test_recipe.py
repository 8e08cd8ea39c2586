from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback.errors import HoneError
from retrain.recipe import METHODS, Method, Recipe, default_recipe, read_recipe


@pytest.mark.parametrize("method", METHODS)
def test_a_stored_recipe_reads_back_equal_with_the_same_hash(method: Method) -> None:
    recipe = default_recipe(method, "base", {"rank": 4}, seed=3)
    again = read_recipe(recipe.to_json())
    assert again == recipe
    assert again.hash == recipe.hash


def test_any_change_of_a_recipe_changes_its_hash() -> None:
    hashes = {default_recipe("sft", "base", seed=seed, rank=rank).hash for seed in (0, 1) for rank in (4, 8)}
    assert len(hashes) == 4


def test_overrides_of_one_method_win_over_those_for_all_and_leave_other_methods_alone() -> None:
    overrides = {"learning_rate": 1e-3, "kto": {"learning_rate": 5e-4, "beta": 0.9}, "dropout": 0.1}
    assert default_recipe("kto", "base", overrides).learning_rate == 5e-4
    assert default_recipe("kto", "base", overrides).beta == 0.9
    assert default_recipe("sft", "base", overrides).learning_rate == 1e-3
    assert default_recipe("sft", "base", overrides).dropout == 0.1
    assert default_recipe("dpo", "base", overrides).dropout == 0.0


def test_dpo_is_never_without_the_term_on_the_better_answer_by_default() -> None:
    assert default_recipe("dpo", "base").sft_weight == 0.2


@pytest.mark.parametrize(
    ("method", "fields", "complaint"),
    [
        ("kto", {"batch_size": 1}, "batch_size of at least 2"),
        ("dpo", {"dropout": 0.1}, "no effect under dpo"),
        ("sft", {"beta": 0.1}, "beta belongs to dpo and kto"),
        ("sft", {"learning_rate": 0.0}, "greater than 0"),
        ("sft", {"learning_rate": float("nan")}, "learning_rate"),
        ("sft", {"rnak": 8}, "rnak"),
        ("kto", {"reference": "start"}, "needs start_from"),
    ],
)
def test_a_recipe_that_would_not_do_what_it_says_is_refused_by_name(
    method: Method, fields: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(HoneError, match=complaint):
        default_recipe(method, "base", **fields)


@given(
    seed=st.integers(0, 2**32 - 1),
    learning_rate=st.floats(1e-8, 1.0, exclude_min=True),
    epochs=st.floats(0.1, 100),
    method=st.sampled_from(METHODS),
)
def test_every_legal_recipe_survives_json(
    seed: int, learning_rate: float, epochs: float, method: Method
) -> None:
    recipe = default_recipe(method, "base", seed=seed, learning_rate=learning_rate, epochs=epochs)
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
