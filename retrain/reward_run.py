"""`hone retrain reward`: what a reward model makes of a version's answers, as one more line of evidence.

It is trained, here and now, on the pairs that DPO would learn from, but for questions whose answers it is to score. It
is measured on the held-out pairs, and asked about the answers that champion and candidate gave when the version was
evaluated. The numbers, with dataset and weights hash, go to the events of the version's run; the newest stand on its
evidence page.

The weights are not kept: they have learned what people wrote, and would be one more thing that an erasure must reach.
The gate does not read the numbers.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from feedback import adapters, datasets, evaluations, evidence_page, runs
from feedback.database import Database
from feedback.errors import HoneError
from feedback.evaluations import Compared
from feedback.settings import FeedbackSettings
from retrain.context import TrainingContext
from retrain.plan import freeze, make_plan
from retrain.prompts import answer_column, prompt_text
from retrain.recipe import Recipe
from retrain.reward import RewardModel, Row, Share, preferred, train_reward
from retrain.scratch import scratch
from retrain.settings import RetrainSettings
from retrain.training import pick_device
from retrain.validation import held_out_columns

LEARNING_RATE, EPOCHS = 2e-4, 1.0
CHANCE = 0.5


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the record gave."""

    dataset_id: str
    pairs: Sequence[Row]
    held_out: Sequence[Row]
    recipe: Recipe
    run_id: str
    answers: Sequence[Compared]


def reward(project: str, version: str, *, learning_rate: float = LEARNING_RATE) -> dict[str, Any]:
    """Train, score the answers of `version` (`support@7`) and of the champion beside it, and keep the numbers.

    Raises:
        HoneError: the data allows no pairs, or the version was not evaluated.
    """
    url, settings = FeedbackSettings.load().resolve_database_url(), RetrainSettings.load()
    asked = asyncio.run(_read(url, project, version, learning_rate))
    with scratch(FeedbackSettings.load().absolute_state_dir, "reward") as directory:
        context = TrainingContext(
            directory, device=pick_device(settings.training_device), threads=settings.training_threads
        )
        model = train_reward(asked.pairs, asked.held_out, asked.recipe, context)
        preference = _preference(model, asked.answers)
    report = {
        "dataset_id": asked.dataset_id,
        "recipe": asked.recipe.to_json(),
        "weights_hash": model.weights_hash,
        "pairs": model.pairs,
        "accuracy": _told(model.accuracy),
        "candidate_preferred": _told(preference),
        "sentence": sentence(version, model, preference),
    }
    asyncio.run(_keep(url, asked.run_id, report))
    return report


def sentence(version: str, model: RewardModel, preference: Share) -> str:
    """What was found, and whether it means anything."""
    found = (
        f"A reward model trained on {model.pairs} pairs puts the better answer first in {model.accuracy} held-out "
        f"pairs, and {version} before the champion in {preference} answers."
    )
    if model.accuracy.interval[0] > CHANCE:
        return found
    return f"{found} It is not clearly better than chance, so its preference is no evidence."


def _told(share: Share) -> dict[str, Any]:
    return {"share": share.share, "of": share.of, "interval": list(share.interval)}


def _preference(model: RewardModel, answers: Sequence[Compared]) -> Share:
    """How often the candidate's answer scores higher; where both said the same there is nothing to prefer."""
    scores = []
    for one in answers:
        said = (one.answered.candidate_answer, one.answered.champion_answer)
        if said[0] != said[1] and all(text.strip() for text in said):
            prompt = one.columns["prompt"]
            first, second = (
                model.score({"prompt": prompt, "completion": answer_column(prompt, text)}) for text in said
            )
            scores.append((first, second))
    return preferred(scores)


async def _read(url: str, project: str, version: str, learning_rate: float) -> _Asked:
    async with Database(url, pool_size=1) as database, database.begin() as connection:
        adapter = await adapters.get(connection, project, version)
        answers = await evaluations.of_run(connection, adapter.run_id) if adapter.run_id else []
        if adapter.run_id is None or not answers:
            raise HoneError(
                f"{version} was not evaluated, so there are no answers to score. Name one that was."
            )
        plan = await make_plan(
            connection,
            project,
            adapter.model,
            method="dpo",
            overrides={"dpo": {"learning_rate": learning_rate, "epochs": EPOCHS}},
        )
        if plan.recipe is None:
            raise HoneError(f"There are no pairs to learn from. {' '.join(plan.choice.sentences)}")
        dataset = await freeze(connection, plan)
        train = await datasets.rows(connection, dataset.dataset_id, split="train")
        held_out = await datasets.rows(connection, dataset.dataset_id, split="held_out")
    measured = held_out_columns("dpo", [row.columns for row in held_out])
    scored = {prompt_text(one.columns["prompt"]) for one in answers}
    pairs = [row.columns for row in train if prompt_text(row.columns["prompt"]) not in scored]
    recipe = plan.recipe.model_copy(update={"start_from": None, "reference": "base"})
    return _Asked(dataset.dataset_id, pairs, measured, recipe, adapter.run_id, answers)


async def _keep(url: str, run_id: str, report: dict[str, Any]) -> None:
    async with Database(url, pool_size=1) as database, database.begin() as connection:
        await runs.add_event(
            connection, run_id, report["sentence"], data={evidence_page.REWARD_MODEL: report}
        )
