"""The training process as the worker starts it: killed, stopped, failing; each time with a real record."""

import asyncio
import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from feedback import adapters, datasets, runs
from feedback.database import Database
from feedback.errors import HoneError
from feedback.files import files_hash
from retrain.checkpoints import last_checkpoint
from retrain.context import TrainingContext
from retrain.recipe import read_recipe
from retrain.sft import train_sft
from retrain.train import EXIT_FAILED, EXIT_STOPPED, explain, run_directory
from tests.builders import PROJECT
from tests.retrain.record import MODEL, queued_run, small_policy

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

LONG = {"recipe": {"learning_rate": 0.003, "epochs": 15.0, "batch_size": 4, "rank": 4, "alpha": 8}}


def training_process(
    url: str, state_dir: Path, run_id: str, *, checkpoint_seconds: float = 60.0
) -> subprocess.Popen[bytes]:
    environment = os.environ | {
        "HONE_DATABASE_URL": url,
        "HONE_STATE_DIR": str(state_dir),
        "HONE_CHECKPOINT_INTERVAL_SECONDS": str(checkpoint_seconds),
        "HONE_TRAINING_EVENTS_INTERVAL_SECONDS": "0.2",
        "HONE_TRAINING_NICENESS": "0",
    }
    return subprocess.Popen([sys.executable, "-m", "retrain.train", "--run", run_id], env=environment)


async def wait_for_checkpoint(state_dir: Path, run_id: str) -> None:
    directory = run_directory(state_dir, run_id) / "checkpoints"
    await until(lambda: last_checkpoint(directory) is not None)


async def until(happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not happened():
        assert time.monotonic() < deadline, "it did not happen within five minutes"
        await asyncio.sleep(0.02)


async def ended(process: subprocess.Popen[bytes]) -> int:
    return await asyncio.to_thread(process.wait, 180)


async def test_a_killed_training_goes_on_and_publishes_what_it_would_have_published(
    database: Database, database_url: str, state_dir: Path, tiny_model: Path, tmp_path: Path
) -> None:
    async with database.begin() as connection:
        run = await queued_run(connection, tiny_model, policy=small_policy(**LONG))
        await runs.start(connection, run.run_id)
        rows = await datasets.rows(connection, run.dataset_id, split="train")

    process = training_process(database_url, state_dir, run.run_id, checkpoint_seconds=0.2)
    await wait_for_checkpoint(state_dir, run.run_id)
    process.kill()
    assert await ended(process) == -signal.SIGKILL
    async with database.begin() as connection:
        assert (await runs.by_id(connection, run.run_id)).status == "running"
        assert (await adapters.champion(connection, PROJECT, MODEL)).version == 0

    assert await ended(training_process(database_url, state_dir, run.run_id)) == 0
    async with database.begin() as connection:
        assert run.adapter_id is not None
        adapter = await adapters.by_id(connection, run.adapter_id)
        after = await runs.by_id(connection, run.run_id)
        events = await runs.events(connection, run.run_id)
    assert (adapter.state, adapter.name, after.phase) == ("trained", "support@1", "evaluating")
    assert adapter.path is not None and files_hash(Path(adapter.path)) == adapter.files_hash
    assert after.progress["step"] == after.progress["steps"]
    assert any(event.message.startswith("Step ") for event in events)

    uninterrupted = train_sft(
        [row.columns for row in rows], read_recipe(run.recipe), TrainingContext(tmp_path / "uninterrupted")
    )
    assert uninterrupted is not None
    name = "adapter_model.safetensors"
    assert (Path(adapter.path) / name).read_bytes() == (uninterrupted.adapter / name).read_bytes()
    assert "support--v1-" in (Path(adapter.path) / "model_card.md").read_text()

    # Nothing of the work is left, and starting again finds everything done.
    assert {path.name for path in run_directory(state_dir, run.run_id).iterdir()} == {"lock"}
    assert await ended(training_process(database_url, state_dir, run.run_id)) == 0


async def test_a_training_told_to_stop_leaves_a_checkpoint_and_the_run_unfinished(
    database: Database, database_url: str, state_dir: Path, tiny_model: Path
) -> None:
    async with database.begin() as connection:
        run = await queued_run(connection, tiny_model, policy=small_policy(**LONG))
        await runs.start(connection, run.run_id)
    process = training_process(database_url, state_dir, run.run_id, checkpoint_seconds=0.2)
    await wait_for_checkpoint(state_dir, run.run_id)
    process.terminate()
    assert await ended(process) == EXIT_STOPPED
    async with database.begin() as connection:
        assert (await runs.by_id(connection, run.run_id)).status == "running"
        assert [a.version for a in await adapters.of_model(connection, PROJECT, MODEL)] == [0]


async def test_a_training_that_cannot_work_ends_as_a_failed_run_with_the_reason(
    database: Database, database_url: str, state_dir: Path, tmp_path: Path
) -> None:
    async with database.begin() as connection:
        run = await queued_run(connection, tmp_path / "not-there")
        await runs.start(connection, run.run_id)
    assert await ended(training_process(database_url, state_dir, run.run_id)) == EXIT_FAILED
    async with database.begin() as connection:
        failed = await runs.by_id(connection, run.run_id)
        champion = await adapters.champion(connection, PROJECT, MODEL)
    assert (failed.status, failed.phase) == ("failed", "done")
    assert failed.error is not None and "not-there" in failed.error
    assert champion.version == 0


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "The disk is full"),
        (RuntimeError("PytorchStreamWriter failed: No space left on device"), "The disk is full"),
        (MemoryError(), "ran out of memory"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried 10 GB"),
            "Halve training.recipe.batch_size",
        ),
        (RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"), "ran out of memory"),
        (HoneError("The loss became nan."), "The loss became nan."),
        (KeyError("surprise"), "hone run logs"),
    ],
)
def test_every_failure_says_what_to_do(error: Exception, advice: str, tmp_path: Path) -> None:
    assert advice in explain(error, tmp_path)
