"""Plan a run: read what people said, choose a method, build the rows, fill in the recipe; then queue it.

Planning writes nothing. Queueing freezes exactly the rows and recipe that were planned, in one transaction with the
run that will use them.
"""

import asyncio
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import datasets, models, runs
from feedback.datasets import Row
from feedback.errors import HoneError
from feedback.models import Model
from feedback.runs import Run
from retrain.data import build_rows
from retrain.rated import Rated, rated_completions
from retrain.recipe import Recipe, default_recipe
from retrain.select import Choice, choose
from retrain.statements import gather, one_format


@dataclass(frozen=True, slots=True)
class Plan:
    """What the next run would do; without a recipe, why there can be none."""

    project: str
    model: str
    choice: Choice
    recipe: Recipe | None
    rows: tuple[Row, ...]
    counts: dict[str, Any]

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
    rated = await rated_completions(connection, project, model)
    # Grouping similar questions takes seconds on a large record; the worker's other duties do not wait for it.
    return await asyncio.to_thread(_plan, asked, rated, method, overrides or {})


async def queue(connection: AsyncConnection, plan: Plan, *, by: str) -> Run:
    """Freeze the plan's rows and queue the run.

    Raises:
        HoneError: the data allows no run; the message says what is missing.
        Conflict: the model is already being trained.
    """
    if plan.recipe is None:
        raise HoneError(f"'{plan.model}' cannot be trained yet. " + " ".join(plan.choice.sentences))
    dataset = await datasets.freeze(
        connection,
        project=plan.project,
        model=plan.model,
        method=plan.recipe.method,
        rows=plan.rows,
        selection=plan.choice.to_json(),
        counts=plan.counts,
    )
    run = await runs.create(
        connection,
        project=plan.project,
        model=plan.model,
        method=plan.recipe.method,
        recipe=plan.recipe.to_json(),
        recipe_hash=plan.recipe.hash,
        dataset_id=dataset.dataset_id,
        by=by,
    )
    await runs.add_event(connection, run.run_id, plan.choice.sentences[-1], data=plan.to_json())
    return run


def _plan(model: Model, rated: list[Rated], wanted: str | None, overrides: Mapping[str, Any]) -> Plan:
    policy = model.policy.training
    material = one_format(gather(rated, policy))
    choice = choose(material, policy, wanted)
    if choice.method is None:
        return Plan(model.project, model.model, choice, None, (), {"excluded": material.excluded})
    rows, counts = build_rows(material, choice.method, policy)
    if not counts["train"] or not counts["held_out"]:
        missing = "train on" if not counts["train"] else "evaluate with"
        sentence = (
            f"Not possible: after the split by rater no rows are left to {missing}; more raters are needed."
        )
        none = Choice(None, (*choice.sentences[:-1], sentence), choice.possible)
        return Plan(model.project, model.model, none, None, (), counts)
    recipe = default_recipe(
        choice.method,
        model.base_model,
        {**policy.recipe, **overrides},
        template_hash=served_template_hash(model.base_model),
    )
    return Plan(model.project, model.model, choice, recipe, tuple(rows), counts)


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
