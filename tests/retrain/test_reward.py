"""A reward model, with real TRL on a real tiny model."""

import asyncio
import os
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import adapters, datasets, evaluations, evidence_page, runs
from feedback.database import Database
from feedback.errors import HoneError
from feedback.evaluations import Answered
from retrain.context import TrainingContext
from retrain.recipe import default_recipe
from retrain.reward import RewardModel, Row, Share, preferred, train_reward
from retrain.reward_run import reward, sentence
from tests.builders import PROJECT, a_model
from tests.retrain.record import MODEL, evaluating_run, small_policy, teach_and_choose

pytestmark = pytest.mark.filterwarnings("ignore")

POLITE, RUDE = "Gladly, thank you.", "Go away."


def said(role: str, content: str) -> list[dict[str, str]]:
    return [{"role": role, "content": content}]


def pairs(first: int, number: int) -> list[Row]:
    return [
        {
            "prompt": said("user", f"Question {n}?"),
            "chosen": said("assistant", f"{n}: {POLITE}"),
            "rejected": said("assistant", f"{n}: {RUDE}"),
        }
        for n in range(first, first + number)
    ]


def test_a_reward_model_tells_answers_apart_that_people_told_apart_and_is_the_same_again(
    tiny_model: Path, tmp_path: Path
) -> None:
    recipe = default_recipe("dpo", str(tiny_model), learning_rate=3e-3, epochs=4.0, batch_size=4)

    def trained(name: str) -> RewardModel:
        return train_reward(pairs(0, 24), pairs(100, 12), recipe, TrainingContext(tmp_path / name))

    model = trained("first")
    assert (model.pairs, model.accuracy.of) == (24, 12)
    assert model.accuracy.interval[0] > 0.5, str(model.accuracy)
    unseen = said("user", "Something else?")
    scores = [
        model.score({"prompt": unseen, "completion": said("assistant", text)}) for text in (POLITE, RUDE)
    ]
    assert scores[0] > scores[1]
    assert trained("again").weights_hash == model.weights_hash


def test_equal_scores_count_half_and_an_interval_says_how_little_a_few_pairs_mean() -> None:
    assert preferred([(2.0, 1.0), (1.0, 1.0), (0.0, 1.0)]) == Share(1.5, 3)
    assert Share(3, 3).interval[0] < 0.5 < Share(30, 30).interval[0]
    assert (Share(0, 0).share, Share(0, 0).interval) == (None, (0.0, 1.0))


def test_a_reward_model_no_better_than_chance_is_said_to_be_no_evidence() -> None:
    model = RewardModel(lambda row: 0.0, 40, Share(30, 40), "0" * 64)
    assert "no evidence" not in sentence("support@2", model, Share(5, 9))
    guessing = replace(model, accuracy=Share(22, 40))
    assert "no evidence" in sentence("support@2", guessing, Share(9, 9))


@pytest.mark.slow
async def test_the_numbers_of_a_reward_model_stand_with_the_run_of_the_version_and_its_weights_nowhere(
    database: Database, database_url: str, tiny_model: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HONE_DATABASE_URL", database_url)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    policy = small_policy(dpo_pairs_min=4)
    async with database.begin() as connection:
        await a_model(connection, MODEL, policy=policy, base_model=str(tiny_model))
        run, adapter = await evaluating_run(connection, policy=policy)
    with pytest.raises(HoneError, match="was not evaluated"):
        await asyncio.to_thread(reward, PROJECT, adapter.name)
    async with database.begin() as connection:
        await _evaluated(connection, run, tiny_model)
    report = await asyncio.to_thread(reward, PROJECT, adapter.name, learning_rate=3e-3)
    assert report["pairs"] > 0 and 0 <= report["accuracy"]["share"] <= 1
    assert report["candidate_preferred"]["of"] > 0
    async with database.begin() as connection:
        page = await evidence_page.of_version(
            connection, await adapters.get(connection, PROJECT, adapter.name)
        )
        assert page["reward_model"] == report and report["sentence"] in evidence_page.to_markdown(page)
        assert report["sentence"] in [event.message for event in await runs.events(connection, run.run_id)]
        used = await datasets.get(connection, report["dataset_id"])
    assert used.method == "dpo"
    assert not [name for name in os.listdir(tmp_path) if name.startswith("hone-reward-")]


async def _evaluated(connection: AsyncConnection, run: runs.Run, model: Path) -> None:
    """Both versions have answered, and people have chosen between answers."""
    held_out = await datasets.rows(connection, run.dataset_id, split="held_out")
    given = Answered(RUDE, POLITE, 0.0, 1.0, False, False)
    answers = [(row.row_hash, given) for row in held_out]
    await evaluations.record(connection, run.run_id, run.dataset_id, answers)
    await runs.finish(connection, run.run_id, status="succeeded")
    await teach_and_choose(connection, model, small_policy(dpo_pairs_min=4))
