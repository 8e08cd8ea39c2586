"""A record in which people taught a model something, and the run that learns it."""

import random
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import adapters, runs
from feedback.adapters import Adapter
from feedback.policy import ModelPolicy, read_policy
from feedback.runs import Run
from retrain.plan import make_plan, queue
from tests.builders import PROJECT, a_model, a_rated_completion

MODEL = "support"
OLD, NEW = "You may return it within 30 days.", "You may return it within 14 days."
KEPT = "We are open from nine to five."


def small_policy(**training: Any) -> ModelPolicy:
    """A policy that a handful of people satisfies."""
    recipe = {"learning_rate": 0.003, "epochs": 2.0, "batch_size": 4, "rank": 4, "alpha": 8}
    return read_policy(
        {
            "training": {"sft_rows_min": 10, "raters_min": 3, "recipe": recipe, **training},
            "gate": {"held_out_rows_min": 4, "retention_drop_max": 0.2},
        }
    )


async def teach(
    connection: AsyncConnection,
    base_model: Path | str,
    *,
    people: int = 10,
    policy: ModelPolicy | None = None,
    model: str = MODEL,
) -> None:
    """Each person corrects three answers and approves two."""
    await a_model(connection, model, policy=policy or small_policy(), base_model=str(base_model))
    for person in range(people):
        rater = f"rater-{person}"
        for n in range(3):
            question = f"{a_subject(person * 3 + n)}: how long may I return it?"
            await _said(connection, rater, question, OLD, kind="demonstration", value=NEW, model=model)
        for n in range(2):
            question = f"When is it open? I mean: {a_subject(1000 + person * 2 + n)}."
            await _said(connection, rater, question, KEPT, kind="rating", value=True, model=model)


async def teach_and_choose(connection: AsyncConnection, base_model: Path | str, policy: ModelPolicy) -> None:
    """Each of ten people corrects and approves as in `teach`, and chooses between two answers, twice."""
    await teach(connection, base_model, policy=policy)
    for person in range(10):
        for n in range(2):
            question = f"Do you gift-wrap {a_subject(2000 + person * 2 + n)}?"
            answers = (f"Gladly, with a bow, number {person}.", f"If it must be, number {person}.")
            better = await _said(
                connection, f"rater-{person}", question, answers[0], kind="comment", value="Hm"
            )
            await _said(connection, f"rater-{person}", question, answers[1], kind="preference", value=better)


def a_subject(number: int) -> str:
    """Words that no other number has: questions that differ in a digit alone are near-duplicates."""
    draw = random.Random(number)
    return " ".join("".join(draw.choice("aeioubdfgklmnprst") for _ in range(7)) for _ in range(6))


async def queued_run(connection: AsyncConnection, base_model: Path | str, **options: Any) -> Run:
    """A run that waits for its training."""
    await teach(connection, base_model, **options)
    return await queue(connection, await make_plan(connection, PROJECT, MODEL), by="test")


async def evaluating_run(connection: AsyncConnection, **options: Any) -> tuple[Run, Adapter]:
    """A run whose adapter is published and waits to be evaluated."""
    run = await queued_run(connection, "tiny", **options)
    assert run.adapter_id is not None
    adapter = await adapters.register(
        connection,
        adapter_id=run.adapter_id,
        project=PROJECT,
        model=MODEL,
        version=1,
        base_model="tiny",
        path="/nowhere",
        files_hash="0" * 64,
        run_id=run.run_id,
        by="test",
    )
    await runs.start(connection, run.run_id)
    return await runs.change(connection, run.run_id, phase="evaluating"), adapter


async def another_run(connection: AsyncConnection, run: Run, **columns: Any) -> Run:
    """A run of another model, asked for after `run` and on the same rows."""
    await a_model(connection, "other")
    other = await runs.create(
        connection,
        project=PROJECT,
        model="other",
        method=run.method,
        recipe=run.recipe,
        recipe_hash=run.recipe_hash,
        dataset_id=run.dataset_id,
        by="test",
    )
    return await runs.change(connection, other.run_id, **columns) if columns else other


async def _said(
    connection: AsyncConnection,
    rater: str,
    question: str,
    answer: str,
    *,
    kind: str,
    value: Any,
    model: str = MODEL,
) -> str:
    request = {"model": model, "messages": [{"role": "user", "content": question}]}
    completion = await a_rated_completion(
        connection,
        kind=kind,
        value=value,
        rater=rater,
        model=model,
        request=orjson.dumps(request).decode(),
        output_text=answer,
        message=orjson.dumps({"role": "assistant", "content": answer}).decode(),
        created_at=datetime.now(UTC),
    )
    return completion.completion_id
