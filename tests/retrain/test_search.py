"""Searching for a recipe with real Optuna and real trainings of a tiny model."""

import asyncio
from pathlib import Path

import pytest

from feedback import datasets, runs, searches
from feedback.database import Database
from feedback.errors import HoneError, NotFound
from retrain.plan import freeze, make_plan
from retrain.search import Outcome, Search, fold
from retrain.search_run import search
from tests.builders import PROJECT
from tests.retrain.record import MODEL, small_policy, teach, teach_and_choose
from tests.retrain.test_training import recipe_for, rows_for

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_search_tries_the_same_recipes_again_and_keeps_what_failed(
    tiny_model: Path, tmp_path: Path
) -> None:
    def tried(**fields: float) -> list[Outcome]:
        found: list[Outcome] = []
        recipe = recipe_for("sft", tiny_model, epochs=1.0, **fields)
        Search(recipe, trials=2, directory=tmp_path, sampler="random").run(rows_for("sft", 40), found.append)
        return found

    first, again = tried(), tried()
    assert [(one.recipe, one.loss) for one in first] == [(one.recipe, one.loss) for one in again]
    assert [one.status for one in first] == ["complete", "complete"]
    assert len(first[0].detail["fold_losses"]) == 3
    failed = tried(max_length=8)
    assert [one.status for one in failed] == ["failed", "failed"]
    assert list(tmp_path.iterdir()) == []
    assert failed[0].loss is None and "fits max_length = 8" in failed[0].detail["reason"]


def test_folds_share_no_question_and_score_right_answers_only() -> None:
    rows = rows_for("kto", 60)
    made = fold(rows, 3)
    for learned, scored in made:
        assert not {str(row["prompt"]) for row in learned} & {str(row["prompt"]) for row in scored}
        assert all(row["label"] for row in scored)
    assert len({str([str(row["prompt"]) for row in scored]) for _, scored in made}) == 3
    with pytest.raises(HoneError, match="too few different questions"):
        fold(rows[:1] * 30, 3)


async def test_the_winner_is_the_best_of_the_completed_trials(database: Database) -> None:
    async with database.begin() as connection:
        await teach(connection, "tiny")
    async with database.begin() as connection:
        plan = await make_plan(connection, PROJECT, MODEL)
        assert plan.recipe is not None
        dataset = await freeze(connection, plan)
        for number, (status, loss, rank) in enumerate(
            [("failed", None, 2), ("complete", 0.5, 3), ("complete", 0.4, 5), ("pruned", 0.1, 6)]
        ):
            recipe = plan.recipe.model_copy(update={"rank": rank})
            await searches.add_trial(
                connection,
                search_id="search-1",
                number=number,
                project=PROJECT,
                model=MODEL,
                dataset_id=dataset.dataset_id,
                recipe=recipe.to_json(),
                recipe_hash=recipe.hash,
                status=status,
                loss=loss,
                detail={},
                duration_seconds=1.0,
            )
        best = await searches.winner(connection, PROJECT, "search-1")
        assert best.recipe["rank"] == 5
        with pytest.raises(NotFound, match="search-2"):
            await searches.winner(connection, PROJECT, "search-2")
        assert await runs.in_project(connection, PROJECT) == []
        assert [one.dataset_id for one in await datasets.in_project(connection, PROJECT)] == [
            dataset.dataset_id
        ]


async def test_a_search_for_a_sequence_says_how_to_search_for_one_of_its_methods(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HONE_DATABASE_URL", database_url)
    async with database.begin() as connection:
        await teach_and_choose(connection, "tiny", small_policy(dpo_pairs_min=4))
    with pytest.raises(HoneError, match=r"--method sft; then .* --method sft\+dpo --from-search ID"):
        await asyncio.to_thread(search, PROJECT, MODEL, trials=1, sampler="random")
