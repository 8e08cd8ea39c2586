"""What gateways asked for, turned into runs: plans and runs over HTTP, and fine-tuning jobs.

A gateway only writes the request; here it becomes a frozen dataset and a queued run, in the transaction that answers
it: nothing of that stays where somebody cancelled or paused meanwhile. A job whose model is being trained waits. What a
person can mend (a bad file, too little data) ends a request in words; anything else is tried again at the next tick.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import adapters, datasets, fine_tuning, golden, models, run_requests, runs, uploads
from feedback.database import Database
from feedback.datasets import Dataset, Row
from feedback.errors import Conflict, HoneError, IllegalMove
from feedback.fine_tuning import Job
from feedback.models import Model
from feedback.run_requests import RunRequest
from feedback.uploads import File
from retrain.alone import alone
from retrain.augment import EVALUATED
from retrain.data import golden_row
from retrain.file_rows import (
    ROWS_MIN,
    BadFile,
    FileRow,
    held_out_row,
    read_rows,
    split_rows,
    train_row,
    unlike,
)
from retrain.plan import freeze_dataset, make_plan, queue, served_template_hash
from retrain.recipe import Method, Recipe, default_recipe

RETAINED_MAX = 100
"""Answers that people approved earlier, asked again to see whether a job's version still gives them."""
LINES_SHOWN = 20

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Material:
    """What a job's files give, and what its version is asked beside them."""

    train: list[Row]
    evaluated: list[Row]
    counts: dict[str, Any]
    left_out: list[FileRow]
    """Rows of the files that ask nearly what the version is asked anyway."""


async def answer_requests(database: Database) -> None:
    """Answer everything that waits, each in a transaction of its own."""
    async with database.begin() as connection:
        asked, jobs = await run_requests.waiting(connection), await fine_tuning.waiting(connection)
    for request in (one for one in asked if one.kind != "search"):
        with alone(request_id=request.request_id):
            async with database.begin() as connection:
                await _answer(connection, request)
    for job in jobs:
        with alone(job_id=job.job_id):
            async with database.begin() as connection:
                await _begin(connection, job)


async def _answer(connection: AsyncConnection, request: RunRequest) -> None:
    try:
        came_of_it = await _carry_out(connection, request)
    except HoneError as error:
        came_of_it = {"refusal": str(error)}
    await run_requests.answer(connection, request.request_id, **came_of_it)


async def _carry_out(connection: AsyncConnection, request: RunRequest) -> dict[str, Any]:
    """Plan, freeze or queue what is asked for; returns the answer."""
    if request.kind == "dataset":
        made = await freeze_dataset(connection, request.project, request.model, method=request.method)
        return {"dataset_id": made.dataset_id}
    plan = await make_plan(
        connection, request.project, request.model, method=request.method, overrides=request.recipe
    )
    run = await queue(connection, plan, by=request.requested_by) if request.kind == "now" else None
    return {"plan": plan.to_json(), "run_id": run.run_id if run else None}


async def _begin(connection: AsyncConnection, job: Job) -> None:
    """Read a job's files and queue its run, or say what is wrong with them."""
    if await runs.unfinished_of(connection, job.project, job.model) is not None:
        await fine_tuning.set_status(connection, job, "queued")
        return
    try:
        await _queue(connection, job)
    except Conflict:
        return
    except IllegalMove:
        raise  # It is somebody's wish, not a fault of the files.
    except HoneError as error:
        param = "training_file" if isinstance(error, BadFile) else None
        code = "invalid_training_file" if isinstance(error, BadFile) else "invalid_job"
        await fine_tuning.fail(connection, job, code=code, message=str(error), param=param)
        log.info("job failed", job_id=job.job_id, reason=str(error))


async def _queue(connection: AsyncConnection, job: Job) -> None:
    model = await models.get(connection, job.project, job.model)
    training = await uploads.get(connection, job.project, job.training_file)
    validation = None
    if job.validation_file is not None:
        validation = await uploads.get(connection, job.project, job.validation_file)
    method = cast(Method, job.method)
    always = [golden_row(item) for item in await golden.of_model(connection, job.project, job.model)]
    always += await _retained(connection, job.project, job.model)
    material = await asyncio.to_thread(_read, method, training, validation, model, always)
    recipe = await job_recipe(connection, job, model)
    # Reading takes its time. From here on, whoever cancels waits, and then finds the run.
    await fine_tuning.set_status(connection, job, "queued")
    dataset = await _freeze(connection, job, material)
    run = await runs.create(
        connection,
        project=job.project,
        model=job.model,
        method=method,
        recipe=recipe.to_json(),
        recipe_hash=recipe.hash,
        dataset_id=dataset.dataset_id,
        by=job.requested_by,
    )
    assert run.adapter_id is not None
    name = fine_tuning.ft_name(model.base_model, job.project, job.suffix, run.adapter_id)
    await fine_tuning.attach(connection, job, run.run_id, fine_tuned_model=name)
    await runs.add_event(
        connection,
        run.run_id,
        f"Files validated: {len(material.train)} rows to train on, {dataset.counts['held_out']} held out for the "
        f"evaluation. Trains {job.method.upper()} for {recipe.epochs:g} epochs at learning rate "
        f"{recipe.learning_rate:g}; the result will answer as {name}.",
        data={"dataset_id": dataset.dataset_id, "recipe": recipe.to_json()},
    )
    if material.left_out:
        await runs.add_event(connection, run.run_id, _left_out(material.left_out), level="warn")
    log.info("job queued", job_id=job.job_id, run_id=run.run_id)


def _left_out(rows: Sequence[FileRow]) -> str:
    lines = sorted({row.line for row in rows})
    more = f" and {len(lines) - LINES_SHOWN} more" if len(lines) > LINES_SHOWN else ""
    return (
        f"{len(rows)} rows are not trained on: they ask nearly what every version is asked, the golden set and what "
        f"people approved. Lines of the training file: {', '.join(map(str, lines[:LINES_SHOWN]))}{more}."
    )


def _read(
    method: Method, training: File, validation: File | None, model: Model, always: Sequence[Row]
) -> Material:
    """Read the files. Each version is asked the golden set and what people approved: nothing like it is trained on."""
    given = _rows(method, training)
    checked = None if validation is None else _rows(method, validation)
    usable, left_out = unlike(given, [row.columns["prompt"] for row in always])
    train, held_out = split_rows(usable, checked, model.policy.training.held_out_share)
    if len(train) < ROWS_MIN:
        also = f" {_left_out(left_out)}" if left_out else ""
        raise BadFile(
            f"'{training.filename}' has {len(given)} different rows, and {len(train)} are left to train on after those "
            f"for the evaluation were taken out; at least {ROWS_MIN} are needed.{also} Add rows, or send a "
            "validation_file."
        )
    if method == "kto" and len({row.label for row in train}) < 2:
        raise BadFile(f"'{training.filename}' has only one of the labels true and false; KTO needs both.")
    excluded = {
        EVALUATED: len(left_out),
        "question is held out": len(usable) - len(train) if validation else 0,
    }
    evaluated = {row.row_hash: row for row in [*map(held_out_row, held_out), *always]}
    asked = Counter(row.columns["source"] for row in evaluated.values() if row.split == "held_out")
    counts = {
        "train": len(train),
        "train_sources": dict(Counter("uploaded" for _ in train)),
        "excluded": {reason: rows for reason, rows in excluded.items() if rows},
        "held_out": asked.total(),
        "held_out_sources": dict(asked),
    }
    return Material([train_row(method, row) for row in train], list(evaluated.values()), counts, left_out)


def _rows(method: Method, file: File) -> list[FileRow]:
    with uploads.open_content(file.location) as lines:
        return read_rows(lines, method, file.filename)


async def _freeze(connection: AsyncConnection, job: Job, material: Material) -> Dataset:
    return await datasets.freeze(
        connection,
        project=job.project,
        model=job.model,
        method=job.method,
        rows=sorted([*material.train, *material.evaluated], key=lambda row: row.row_hash),
        selection={
            "job_id": job.job_id,
            "training_file": job.training_file,
            "validation_file": job.validation_file,
        },
        counts=material.counts,
    )


async def _retained(connection: AsyncConnection, project: str, model: str) -> list[Row]:
    """Answers approved earlier: the gate asks whether they are kept."""
    for dataset in await datasets.in_project(connection, project):
        if dataset.model == model and dataset.counts.get("raters"):
            held_out = await datasets.rows(connection, dataset.dataset_id, split="held_out")
            return [row for row in held_out if row.columns["source"] == "approved"][:RETAINED_MAX]
    return []


async def job_recipe(connection: AsyncConnection, job: Job, model: Model) -> Recipe:
    """The recipe of a job: the model's policy, with what the job asked for in its place."""
    method, asked = cast(Method, job.method), job.hyperparameters
    policy = model.policy.training.recipe
    fields: dict[str, Any] = {"seed": job.seed, "template_hash": served_template_hash(model.base_model)}
    for name, field in (("n_epochs", "epochs"), ("batch_size", "batch_size"), ("beta", "beta")):
        if asked.get(name, "auto") != "auto":
            fields[field] = asked[name]
    if asked.get("learning_rate_multiplier", "auto") != "auto":
        rate = default_recipe(method, model.base_model, policy).learning_rate
        fields["learning_rate"] = rate * asked["learning_rate_multiplier"]
    if job.start_from is not None:
        adapter = await adapters.by_id(connection, job.start_from)
        fields["start_from"] = adapter.path
    return default_recipe(method, model.base_model, policy, **fields)
