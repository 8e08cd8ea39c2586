"""The training process: `python -m retrain.train --run RUN_ID`. One run, from its frozen rows to a published adapter.

It may be killed at any point and started again: it goes on from the last complete checkpoint, and what is already
published or registered is left as it is. SIGTERM, and the death of the worker that started it, end it at a
checkpoint with exit status 75; so does a record that is out of reach, and a directory in which another process still
works: the run and what it has learned stay as they are. What a person can mend ends the run as failed, in words;
nothing here touches the champion.
"""

import argparse
import asyncio
import errno
import fcntl
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import adapters, datasets, runs
from feedback.adapters import AUTOMATIC_ACTOR
from feedback.database import Database, is_away
from feedback.datasets import Dataset
from feedback.errors import HoneError, NotFound
from feedback.runs import Run
from feedback.settings import FeedbackSettings
from feedback.uploads import FileStore
from retrain.context import TrainingContext, TrainingFailed
from retrain.job_results import keep_job_results
from retrain.memory import estimate, free_bytes
from retrain.model_card import model_card
from retrain.publish import Published, publish
from retrain.recipe import Method, Recipe, read_recipe
from retrain.settings import RetrainSettings
from retrain.stages import STAGE_DIRECTORIES, Material, train_in_stages
from retrain.training import TrainingResult, finished_result
from retrain.validation import held_out_columns

EXIT_FAILED = 1
EXIT_STOPPED = 75
"""EX_TEMPFAIL of sysexits.h: start me again to go on."""

ACCURACIES = ("train_accuracy", "valid_mean_token_accuracy")
HELD_OUT_ROWS_MAX = 256
"""Held-out rows whose loss is taken at the end of a training."""

log = structlog.get_logger(__name__)


class NotNow(HoneError):
    """What the process needs is out of reach for a while. Nothing is wrong with the run."""


@dataclass(frozen=True, slots=True)
class Assignment:
    """Everything that a training process needs to know."""

    run: Run
    dataset: Dataset
    recipe: Recipe
    material: Mapping[Method, Material]
    """What each stage trains on."""
    database_url: str
    state_dir: Path
    settings: RetrainSettings

    @property
    def directory(self) -> Path:
        """Where the run works."""
        return run_directory(self.state_dir, self.run.run_id)


def run_directory(state_dir: Path, run_id: str) -> Path:
    """Checkpoints, logs and the unpublished adapter of a run."""
    return state_dir / "runs" / run_id


def log_file(state_dir: Path, run_id: str) -> Path:
    """What the training processes of a run said; it stays when everything else is gone."""
    return run_directory(state_dir, run_id) / "train.log"


def main(arguments: Sequence[str] | None = None) -> int:
    """Train and publish one run; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m retrain.train", description="Train one queued run, or go on with it."
    )
    parser.add_argument("--run", required=True, metavar="RUN_ID")
    run_id = parser.parse_args(arguments).run
    # Asked first: a worker that dies while this process still waits or loads has to be missed too.
    parent, told = os.getppid(), threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    signal.signal(signal.SIGINT, lambda *_: told.set())
    record, settings = FeedbackSettings.load(), RetrainSettings.load()
    os.nice(settings.training_niceness)
    state_dir = record.absolute_state_dir
    try:
        with alone_in(run_directory(state_dir, run_id)):
            return _advance(
                record.resolve_database_url(),
                run_id,
                state_dir,
                settings,
                lambda: told.is_set() or os.getppid() != parent,
            )
    except (NotNow, OSError) as reason:
        log.warning("training cannot go on now", run_id=run_id, reason=str(reason))
        return EXIT_STOPPED


def _advance(
    url: str, run_id: str, state_dir: Path, settings: RetrainSettings, should_stop: Callable[[], bool]
) -> int:
    """Carry the run out, or end it as failed, by a process that is alone with it; returns the exit status."""
    try:
        return _carry_out(asyncio.run(_load(url, run_id, state_dir, settings)), should_stop)
    except NotNow:
        raise
    except Exception as error:
        log.exception("training failed", run_id=run_id)
        directory = run_directory(state_dir, run_id)
        reason = explain(error, directory)
        print(reason, file=sys.stderr)
        asyncio.run(_fail(url, run_id, reason))
        discard_work(directory)
        return EXIT_FAILED


def _carry_out(assignment: Assignment, should_stop: Callable[[], bool]) -> int:
    if assignment.run.phase in ("evaluating", "done"):
        return 0
    result = _train(assignment, should_stop)
    if result is None:
        return EXIT_STOPPED
    asyncio.run(_enter_phase(assignment, "publishing", result))
    assert assignment.run.adapter_id is not None
    published = publish(
        result.adapter,
        assignment.state_dir / "adapters",
        assignment.run.adapter_id,
        base_model=assignment.recipe.base_model,
        card=model_card(assignment.run, assignment.dataset, assignment.recipe, result),
    )
    asyncio.run(_register(assignment, published, result))
    discard_work(assignment.directory)
    return 0


def discard_work(directory: Path) -> None:
    """Remove what a run that needs no training any more left behind: everything but its log.

    Checkpoints have learned what people wrote; nothing that erases a person would look for them here.
    """
    for name in ("checkpoints", "best", "adapter", "adapter.partial"):
        shutil.rmtree(directory / name, ignore_errors=True)
    for stage in directory.glob(STAGE_DIRECTORIES):
        shutil.rmtree(stage, ignore_errors=True)


def _train(assignment: Assignment, should_stop: Callable[[], bool]) -> TrainingResult | None:
    if (done := finished_result(assignment.directory)) is not None:
        return done
    if Path(assignment.recipe.base_model).is_dir():
        # Read by the libraries when they are imported: with the files here there is nothing to ask the hub for.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from retrain.reporting import Reporter
    from retrain.training import pick_device

    settings = assignment.settings
    device = pick_device(settings.training_device)
    asyncio.run(_check_memory(assignment, device))
    with Reporter(
        assignment.database_url,
        assignment.run.run_id,
        interval_seconds=settings.training_events_interval_seconds,
    ) as reporter:
        context = TrainingContext(
            directory=assignment.directory,
            report=reporter.report,
            should_stop=should_stop,
            device=device,
            threads=settings.training_threads,
            report_interval_seconds=settings.training_events_interval_seconds,
            checkpoint_interval_seconds=settings.checkpoint_interval_seconds,
            checkpoints_kept=settings.checkpoints_kept,
        )
        return train_in_stages(assignment.material, assignment.recipe, context)


@contextmanager
def alone_in(directory: Path) -> Iterator[None]:
    """Hold the run's directory: a process whose worker was killed may still be at its last step there.

    Raises:
        NotNow: another process keeps it for more than a minute.
        OSError: the directory, or its lock, cannot be made.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / "lock").open("w") as file:
        _lock(file.fileno(), directory)
        yield


def _lock(descriptor: int, directory: Path) -> None:
    for _ in range(120):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.5)
        else:
            return
    raise NotNow(f"Another training process works in {directory}; end it if it hangs.")


def explain(error: BaseException, directory: Path) -> str:
    """What went wrong and what to do, in words for the run's row."""
    text = f"{type(error).__name__}: {error}"
    no_space = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if no_space or "No space left on device" in text or "Disk quota exceeded" in text:
        free = shutil.disk_usage(directory if directory.exists() else directory.parents[1]).free
        return (
            f"The disk is full: {free / 2**20:.0f} MiB are free for {directory}. Free some space there, "
            "then train again. The champion was not touched."
        )
    if isinstance(error, MemoryError) or any(
        sign in text for sign in ("OutOfMemory", "out of memory", "allocate memory")
    ):
        return (
            f"Training ran out of memory ({text[:200]}). Halve training.recipe.batch_size and double "
            "accumulation_steps in the model's policy, or lower max_length. The champion was not touched."
        )
    if isinstance(error, HoneError):
        return str(error)
    return f"Training broke off with {text[:500]}. `hone run logs {directory.name}` shows the rest."


@asynccontextmanager
async def _record(url: str) -> AsyncIterator[AsyncConnection]:
    """The record, in one transaction.

    Raises:
        NotNow: it is out of reach.
    """
    try:
        async with Database(url, pool_size=1) as database, database.begin() as connection:
            yield connection
    except Exception as error:
        if is_away(error):
            raise NotNow(f"The database is away: {error}") from error
        raise


async def _load(url: str, run_id: str, state_dir: Path, settings: RetrainSettings) -> Assignment:
    async with _record(url) as connection:
        run = await runs.by_id(connection, run_id)
        dataset = await datasets.get(connection, run.dataset_id)
        rows = await datasets.rows(connection, run.dataset_id, split="train")
        items = await datasets.rows(connection, run.dataset_id, split="held_out")
    recipe = read_recipe(run.recipe)
    evaluated = [row.columns for row in items]
    material = {
        stage.method: Material(
            [row.columns for row in rows if row.method in (None, stage.method)],
            held_out_columns(stage.method, evaluated)[:HELD_OUT_ROWS_MAX],
        )
        for stage in recipe.stages
    }
    return Assignment(run, dataset, recipe, material, url, state_dir, settings)


async def _enter_phase(assignment: Assignment, phase: str, result: TrainingResult) -> None:
    held_out = result.notes.get("held_out_loss")
    on_held_out = "" if held_out is None else f", {held_out:.4f} on held-out rows"
    message = f"Trained in {result.seconds:.1f} s, loss {result.loss:.4f}{on_held_out}."
    data: dict[str, Any] = {"step": result.steps, "train_loss": result.loss, "valid_loss": held_out}
    data |= result.notes
    data |= {name: value for name, value in (result.history or [{}])[-1].items() if name in ACCURACIES}
    if result.stages:
        data["stages"] = result.stages
    async with _record(assignment.database_url) as connection:
        run = await runs.by_id(connection, assignment.run.run_id)
        progress = run.progress | {"seconds": result.seconds, "loss": result.loss, "held_out_loss": held_out}
        await runs.change(connection, run.run_id, phase=phase, progress=progress)
        await runs.add_event(connection, assignment.run.run_id, message, data=data)


async def _check_memory(assignment: Assignment, device: str) -> None:
    """Say how much memory the training will take.

    Raises:
        TrainingFailed: it is more than there is, and the settings do not say to try all the same.
    """
    stages = [
        estimate(stage, assignment.material[stage.method].rows, device) for stage in assignment.recipe.stages
    ]
    needed = max((one for one in stages if one is not None), key=lambda one: one.total, default=None)
    if needed is None or assignment.settings.training_memory_check == "off":
        return
    free = free_bytes(device)
    told, short = needed.sentence(free), needed.total > free
    if short and assignment.settings.training_memory_check == "refuse":
        raise TrainingFailed(
            f"{told} Lower training.recipe.batch_size, max_length or rank in the model's policy, free memory, or set "
            "[retrain] training_memory_check to 'warn' to try all the same. The champion was not touched."
        )
    async with _record(assignment.database_url) as connection:
        await runs.add_event(connection, assignment.run.run_id, told, level="warn" if short else "info")


async def _register(assignment: Assignment, published: Published, result: TrainingResult) -> None:
    run = assignment.run
    assert run.adapter_id is not None
    async with _record(assignment.database_url) as connection:
        try:
            await adapters.by_id(connection, run.adapter_id)
        except NotFound:
            adapter = await adapters.register(
                connection,
                adapter_id=run.adapter_id,
                project=run.project,
                model=run.model,
                version=int(run.adapter_id.rpartition("--v")[2].partition("-")[0]),
                base_model=assignment.recipe.base_model,
                path=str(published.path),
                files_hash=published.files_hash,
                run_id=run.run_id,
                by=AUTOMATIC_ACTOR,
            )
            where = {"path": adapter.path, "weights_hash": published.weights_hash}
            await runs.add_event(connection, run.run_id, f"Published {adapter.name}.", data=where)
        await keep_job_results(connection, run, result, FileStore.of(FeedbackSettings.load()))
        await runs.change(connection, run.run_id, phase="evaluating")


async def _fail(url: str, run_id: str, reason: str) -> None:
    async with _record(url) as connection:
        await runs.add_event(connection, run_id, reason, level="error")
        await runs.finish(connection, run_id, status="failed", error=reason)


if __name__ == "__main__":
    sys.exit(main())
