"""Bring in a LoRA adapter that was trained elsewhere: as the next version of a model, with everything still to prove.

The files are checked and copied as a training's are. The version enters in state `trained` and meets the gate on the
held-out rows of the newest dataset of what people said, or of one that is frozen for it; without such rows nothing can
be said of it, and it is refused. Only PEFT folders with safetensors are taken.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import adapters, datasets, models, runs
from feedback.adapters import Adapter
from feedback.datasets import Dataset
from feedback.errors import HoneError
from feedback.models import Model
from retrain.plan import freeze, make_plan
from retrain.publish import CARD, CONFIGURATION, WEIGHTS, BadWeights, publish


async def bring_in(
    connection: AsyncConnection,
    project: str,
    model_name: str,
    directory: Path,
    *,
    adapters_dir: Path,
    by: str,
) -> Adapter:
    """Publish and register the adapter in `directory`, and queue its evaluation.

    Raises:
        BadWeights: its files cannot be served.
        HoneError: there is nothing to evaluate it with.
        Conflict: the model is being trained.
    """
    model = await models.get(connection, project, model_name)
    configuration = read_configuration(directory)
    dataset = await _dataset(connection, model)
    recipe = {
        "imported_from": directory.name,
        "rank": configuration["r"],
        "alpha": configuration["lora_alpha"],
    }
    recipe_hash = hashlib.sha256(orjson.dumps(recipe, option=orjson.OPT_SORT_KEYS)).hexdigest()
    run = await runs.create(
        connection,
        project=project,
        model=model_name,
        method=dataset.method,
        recipe=recipe,
        recipe_hash=recipe_hash,
        dataset_id=dataset.dataset_id,
        by=by,
    )
    assert run.adapter_id is not None
    card = _card(directory, run.adapter_id, model)
    published = publish(directory, adapters_dir, run.adapter_id, base_model=model.base_model, card=card)
    adapter = await adapters.register(
        connection,
        adapter_id=run.adapter_id,
        project=project,
        model=model_name,
        version=int(run.adapter_id.rpartition("--v")[2].partition("-")[0]),
        base_model=model.base_model,
        path=str(published.path),
        files_hash=published.files_hash,
        run_id=run.run_id,
        by=by,
    )
    await runs.start(connection, run.run_id)
    await runs.change(connection, run.run_id, phase="evaluating")
    await runs.add_event(
        connection, run.run_id, f"Imported {adapter.name} from {directory.name}; it was not trained here."
    )
    return adapter


def read_configuration(directory: Path) -> dict[str, Any]:
    """PEFT's configuration of an adapter that vLLM can serve.

    Raises:
        BadWeights: it is not there, or of a kind that cannot be served.
    """
    missing = [name for name in (WEIGHTS, CONFIGURATION) if not (directory / name).is_file()]
    if missing:
        raise BadWeights(f"{directory} has no {' and no '.join(missing)}; expected a folder that PEFT saved.")
    try:
        configuration = dict(json.loads((directory / CONFIGURATION).read_text()))
        kind, rank, _ = configuration["peft_type"], int(configuration["r"]), configuration["lora_alpha"]
    except (ValueError, KeyError, TypeError) as error:
        raise BadWeights(
            f"{directory / CONFIGURATION} is not a LoRA configuration of PEFT: {error}."
        ) from error
    for name, wanted in (("use_dora", False), ("modules_to_save", None)):
        if configuration.get(name):
            raise BadWeights(
                f"{CONFIGURATION} has {name} = {configuration[name]!r}, which the engine cannot serve."
            )
        configuration[name] = wanted
    if kind != "LORA" or rank < 1:
        raise BadWeights(
            f"{CONFIGURATION} says peft_type {kind!r} and rank {rank}; only LoRA adapters can be served."
        )
    return configuration


async def _dataset(connection: AsyncConnection, model: Model) -> Dataset:
    """What the version is evaluated on: what people said. A fine-tuning job's rows are one client's own."""
    for dataset in await datasets.in_project(connection, model.project):
        of_a_job = "job_id" in dataset.selection
        if dataset.model == model.model and dataset.counts.get("held_out") and not of_a_job:
            return dataset
    plan = await make_plan(connection, model.project, model.model)
    if plan.recipe is None:
        raise HoneError(
            f"There is nothing to evaluate an imported version of '{model.model}' with: it has no dataset of what "
            f"people said, and none can be made. {' '.join(plan.choice.sentences)}"
        )
    return await freeze(connection, plan)


def _card(directory: Path, adapter_id: str, model: Model) -> str:
    """The adapter's own card, under a line that says where it came from."""
    own = next((directory / name for name in (CARD, "README.md") if (directory / name).is_file()), None)
    text = own.read_text() if own is not None else "It came without a card.\n"
    return (
        f"# {adapter_id}\n\nA LoRA adapter for `{model.base_model}`, trained elsewhere and imported as a version of "
        f"`{model.model}`. What follows is its own card.\n\n{text}"
    )
