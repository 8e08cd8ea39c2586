"""Plan a run: select what may be trained on, choose a method, split, fill in the recipe; then freeze it and queue it.

Planning writes nothing that outlives its transaction. Queueing freezes exactly what was planned, in the same
transaction as the run that will use it, and lets corrections that need a person wait in the review queue.
"""

import hashlib
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import datasets, golden, models, review, runs
from feedback.datasets import Dataset, Row
from feedback.errors import HoneError
from feedback.ids import new_hex
from feedback.models import Model
from feedback.policy import TrainingPolicy
from feedback.runs import Run
from retrain.augment import HookFailed, augment
from retrain.balance import balance_of
from retrain.data import methods_of, split_statements, stream_rows
from retrain.defences import key_of
from retrain.prompts import prompt_text
from retrain.recipe import METHODS, Recipe, recipe_in_stages
from retrain.replay import replayed_rows
from retrain.rules import UNSUPPORTED
from retrain.select import Choice, choose
from retrain.selection import Selected, left_out, select_statements, selection_of
from retrain.start import choose_start


@dataclass(frozen=True, slots=True)
class Plan:
    """What the next run would do; without a recipe, why there can be none."""

    project: str
    model: str
    choice: Choice
    recipe: Recipe | None
    counts: dict[str, Any]
    selection: dict[str, Any]
    topics: tuple[str, ...]
    training: TrainingPolicy = field(repr=False, kw_only=True)
    """The policy that it was planned under."""
    replayed: tuple[Row, ...] = field(default=(), repr=False, kw_only=True)
    """Rows that repeat the fixed set."""
    ticket: str = field(compare=False)
    """Marks the selection that this plan is of, in the transaction that made it."""

    def to_json(self) -> dict[str, Any]:
        """What `hone retrain plan` shows: everything but the rows."""
        return {
            "model": self.model,
            **self.choice.to_json(),
            "counts": self.counts,
            "recipe": self.recipe.to_json() if self.recipe else None,
        }


async def make_plan(
    connection: AsyncConnection,
    project: str,
    model: str,
    *,
    method: str | None = None,
    overrides: Mapping[str, Any] | None = None,
) -> Plan:
    """Plan the next run of a model; `method` and `overrides` win over its policy.

    Raises:
        NotFound: there is no such model.
        HoneError: the policy's recipe is not valid.
    """
    asked = await models.get(connection, project, model)
    selected = await select_statements(connection, asked)
    plan = await _mark(connection, asked, selected, choose(selected.available, asked.policy.training, method))
    if plan.choice.method is None:
        return plan
    return await _complete(connection, asked, plan, selected, plan.choice.method, overrides or {})


async def queue(connection: AsyncConnection, plan: Plan, *, by: str) -> Run:
    """Freeze the plan's rows and queue the run. One whose augmentation hook failed is entered as failed.

    Raises:
        HoneError: the data allows no run, and the message says what is missing; or the plan is of another transaction.
        Conflict: the model is already being trained.
    """
    if plan.recipe is None:
        raise HoneError(f"'{plan.model}' cannot be trained yet. " + " ".join(plan.choice.sentences))
    try:
        dataset, failed = await freeze(connection, plan), None
    except HookFailed as error:
        without = plan.training.model_copy(update={"augment": None})
        dataset, failed = await freeze(connection, replace(plan, training=without)), str(error)
    run = await runs.create(
        connection,
        project=plan.project,
        model=plan.model,
        method=plan.recipe.methods,
        recipe=plan.recipe.to_json(),
        recipe_hash=plan.recipe.hash,
        dataset_id=dataset.dataset_id,
        by=by,
    )
    await runs.add_event(connection, run.run_id, plan.choice.sentences[-1], data=plan.to_json())
    if failed is not None:
        await runs.add_event(connection, run.run_id, failed, level="error")
        return await runs.finish(connection, run.run_id, status="failed", error=failed)
    return run


async def freeze_dataset(
    connection: AsyncConnection, project: str, model: str, *, method: str | None = None
) -> Dataset:
    """Freeze the rows that the next run would use, without a run; twice the same rows are one dataset.

    Raises:
        NotFound: there is no such model.
        HoneError: the data allows no run, and the message says what is missing.
    """
    plan = await make_plan(connection, project, model, method=method)
    if plan.recipe is None:
        raise HoneError(f"No dataset can be made for '{model}' yet. " + " ".join(plan.choice.sentences))
    return await freeze(connection, plan)


async def freeze(connection: AsyncConnection, plan: Plan) -> Dataset:
    """Freeze the plan's rows, balance and exclusions; what waits for a reviewer is put before one.

    Raises:
        HookFailed: the policy's augmentation hook did.
        HoneError: the plan is of another transaction.
    """
    assert plan.recipe is not None
    await _check_ticket(connection, plan)
    method = plan.recipe.methods
    kept = await golden.of_model(connection, plan.project, plan.model)
    rows, counts = await _augmented(
        _with_replayed(stream_rows(connection, method, plan.counts, kept), plan.replayed), plan
    )
    dataset = await datasets.freeze(
        connection,
        project=plan.project,
        model=plan.model,
        method=method,
        rows=rows,
        selection=plan.choice.to_json() | plan.selection,
        counts=counts,
        balance=await balance_of(connection, plan.topics),
    )
    # The same rows may have been frozen before, when other things were left out: that dataset keeps what it says.
    if dataset.counts == counts:
        await connection.execute(text(_KEEP_EXCLUSIONS), {"dataset_id": dataset.dataset_id})
    await file_for_review(connection, plan)
    return dataset


async def _augmented(
    batches: AsyncIterator[list[Row]], plan: Plan
) -> tuple[AsyncIterator[list[Row]] | list[Row], dict[str, Any]]:
    """The rows with what the policy's hook makes of them, and how many these are; without a hook, as they come."""
    if plan.training.augment is None or plan.recipe is None:
        return batches, plan.counts
    every = [row async for batch in batches for row in batch]
    methods = [stage.method for stage in plan.recipe.stages]
    made = await augment(every, methods, plan.model, plan.training, seed=plan.recipe.seed)
    train = sum(row.split == "train" for row in made.rows)
    return made.rows, plan.counts | {"train": train, "augmented": made.to_json()}


async def _with_replayed(rows: AsyncIterator[list[Row]], replayed: Sequence[Row]) -> AsyncIterator[list[Row]]:
    async for batch in rows:
        yield batch
    yield list(replayed)


async def file_for_review(connection: AsyncConnection, plan: Plan) -> int:
    """Put corrections that wait for a reviewer into the queue, once each; returns how many are new there."""
    await _check_ticket(connection, plan)
    found = await connection.execute(
        text(
            "SELECT completion_id, feedback_id FROM ballots WHERE reason = :reason AND feedback_id IS NOT NULL"
        ),
        {"reason": UNSUPPORTED},
    )
    return await review.wait_for(
        connection,
        project=plan.project,
        model=plan.model,
        corrections=[(row.completion_id, row.feedback_id) for row in found],
        reason="it states facts that neither the question nor the answer before had",
    )


_KEEP_EXCLUSIONS = """
    INSERT INTO dataset_exclusions (dataset_id, number, reason, completion_id, feedback_id)
    SELECT :dataset_id, row_number() OVER (ORDER BY completion_id, feedback_id, number) - 1, reason, completion_id,
        feedback_id FROM ballots WHERE reason IS NOT NULL AND NOT implied
    ON CONFLICT DO NOTHING"""


async def _mark(connection: AsyncConnection, model: Model, selected: Selected, choice: Choice) -> Plan:
    ticket = new_hex()
    await connection.execute(text(f"COMMENT ON TABLE ballots IS '{ticket}'"))
    counts = {"excluded": selected.available.excluded}
    return Plan(
        model.project,
        model.model,
        choice,
        None,
        counts,
        selection_of(model),
        selected.topics,
        training=model.policy.training,
        ticket=ticket,
    )


async def _check_ticket(connection: AsyncConnection, plan: Plan) -> None:
    marked = await connection.scalar(
        text("SELECT obj_description(to_regclass('pg_temp.ballots'), 'pg_class')")
    )
    if marked != plan.ticket:
        raise HoneError(
            f"The plan for '{plan.model}' was made in another transaction, and what it selected is gone. Plan again."
        )


async def _complete(
    connection: AsyncConnection,
    model: Model,
    plan: Plan,
    selected: Selected,
    method: str,
    overrides: Mapping[str, Any],
) -> Plan:
    """The plan with its split and recipe, or why nothing is left to train on."""
    policy = model.policy.training
    start = await choose_start(connection, model)
    split = await split_statements(
        connection, policy, method, learned_before=start.since, repeated=selected.repeated
    )
    counts = split | {"excluded": await left_out(connection)}
    if not counts["train"] or not counts["held_out"]:
        return replace(plan, choice=_one_sided(plan.choice, counts), counts=counts)
    recipe = recipe_in_stages(
        method,
        model.base_model,
        overridden(policy.recipe, overrides),
        template_hash=served_template_hash(model.base_model),
        start_from=start.start_from,
    )
    replayed = await _replayed(connection, model, method, counts, selected.golden_like)
    counts |= {"train": counts["train"] + len(replayed), "replayed": len(replayed)}
    told = [start.sentence, *_by_hook(policy)]
    said = (*plan.choice.sentences[:-1], *told, plan.choice.sentences[-1])
    return replace(
        plan,
        choice=replace(plan.choice, sentences=said),
        recipe=recipe,
        counts=counts,
        replayed=tuple(replayed),
    )


def overridden(recipe: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A policy's recipe under what wins over it, field by field.

    A field that is given for all methods also wins over the policy's for one method.
    """
    for_all = {name: value for name, value in overrides.items() if name not in METHODS}
    found = {**recipe, **for_all}
    for method in METHODS:
        own = {name: value for name, value in (recipe.get(method) or {}).items() if name not in for_all}
        found[method] = own | (overrides.get(method) or {})
    return found


def _by_hook(policy: TrainingPolicy) -> list[str]:
    if policy.augment is None:
        return []
    share = f"{policy.augment_share_max:.0%}"
    return [f"'{policy.augment}' may make up to {share} of the rows from these, when they are frozen."]


async def _replayed(
    connection: AsyncConnection,
    model: Model,
    methods: str,
    counts: Mapping[str, Any],
    golden_like: frozenset[int],
) -> list[Row]:
    """What each stage repeats of the fixed set, but for what is nearly a golden question."""
    found = []
    for method in methods_of(methods):
        rows = counts.get("stages", {}).get(method, counts["train"])
        for row in await replayed_rows(connection, model, method, rows):
            if key_of(prompt_text(row.columns["prompt"])) not in golden_like:
                found.append(row if method == methods else replace(row, method=method))
    return found


def _one_sided(choice: Choice, counts: Mapping[str, Any]) -> Choice:
    missing = "train on" if not counts["train"] else "evaluate with"
    sentence = (
        f"Not possible: after the split by rater no rows are left to {missing}; more raters are needed."
    )
    return Choice(None, (*choice.sentences[:-1], sentence), choice.possible)


def served_template_hash(base_model: str) -> str | None:
    """Hash of the chat template in a model directory, read without loading a tokenizer; None for hub names."""
    directory = Path(base_model)
    template_file, configuration_file = directory / "chat_template.jinja", directory / "tokenizer_config.json"
    if template_file.exists():
        return hashlib.sha256(template_file.read_bytes()).hexdigest()
    if configuration_file.exists():
        template = json.loads(configuration_file.read_text()).get("chat_template")
        return hashlib.sha256(template.encode()).hexdigest() if isinstance(template, str) else None
    return None
