"""What keeps a training process from its work for a while ends no run and costs none what it has learned."""

import asyncio
import fcntl
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import adapters, datasets, runs
from feedback.database import Database
from feedback.runs import Run
from retrain import train
from retrain.publish import Published
from retrain.train import EXIT_FAILED, EXIT_STOPPED, run_directory
from retrain.training import RESULT_FILE, TrainingResult
from tests.retrain.record import queued_run


@pytest.fixture(autouse=True)
def here(monkeypatch: pytest.MonkeyPatch, database_url: str, state_dir: Path) -> None:
    """Lets this process be the training process, and its minutes pass at once."""
    monkeypatch.setenv("HONE_DATABASE_URL", database_url)
    monkeypatch.setenv("HONE_STATE_DIR", str(state_dir))
    monkeypatch.setattr("retrain.train.os.nice", lambda by: 0)
    monkeypatch.setattr("retrain.train.signal.signal", lambda *_: None)
    monkeypatch.setattr("retrain.train.time.sleep", lambda seconds: None)


@pytest.fixture
async def run(database: Database, state_dir: Path) -> Run:
    """A run whose training has ended, and that is to be published."""
    async with database.begin() as connection:
        queued = await queued_run(connection, "tiny")
        started = await runs.start(connection, queued.run_id)
    directory = run_directory(state_dir, started.run_id)
    (directory / "checkpoints" / "checkpoint-7").mkdir(parents=True)
    (directory / "adapter").mkdir()
    result = TrainingResult(directory / "adapter", 1, 0, 1, 1.0, 1.0, 1, "cpu")
    (directory / "adapter" / RESULT_FILE).write_bytes(orjson.dumps(asdict(result), default=str))
    return started


async def train_again(run: Run) -> int:
    return await asyncio.to_thread(train.main, ["--run", run.run_id])


async def status_of(database: Database, run: Run) -> str:
    async with database.begin() as connection:
        return (await runs.by_id(connection, run.run_id)).status


def work_left(state_dir: Path, run: Run) -> set[str]:
    return {path.name for path in run_directory(state_dir, run.run_id).iterdir()} - {"lock"}


def cut_once(monkeypatch: pytest.MonkeyPatch, module: Any, step: str) -> None:
    """Cut the database's connection the first time that a step of the record is asked for."""
    real, done = getattr(module, step), list[bool]()

    async def cut(connection: AsyncConnection, *given: Any, **named: Any) -> Any:
        if not done:
            done.append(True)
            await connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))
        return await real(connection, *given, **named)

    monkeypatch.setattr(module, step, cut)


async def test_a_run_that_another_process_still_works_on_is_left_to_it(
    database: Database, state_dir: Path, run: Run
) -> None:
    with (run_directory(state_dir, run.run_id) / "lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert await train_again(run) == EXIT_STOPPED
    assert await status_of(database, run) == "running"
    assert work_left(state_dir, run) == {"checkpoints", "adapter"}


async def test_a_run_that_another_process_ended_meanwhile_is_not_trained_again(
    database: Database, database_url: str, state_dir: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_training(*_: Any) -> None:
        raise AssertionError("it trains")

    monkeypatch.setattr(train, "_train", no_training)
    held = (run_directory(state_dir, run.run_id) / "lock").open("w")
    fcntl.flock(held, fcntl.LOCK_EX)

    def ends_meanwhile(seconds: float) -> None:
        with held:
            asyncio.run(evaluated_next())

    async def evaluated_next() -> None:
        async with Database(database_url) as other, other.begin() as connection:
            await runs.change(connection, run.run_id, phase="evaluating")

    monkeypatch.setattr("retrain.train.time.sleep", ends_meanwhile)
    assert await train_again(run) == 0
    assert await status_of(database, run) == "running"


@pytest.mark.parametrize(
    ("module", "step"), [(datasets, "rows"), (runs, "change"), (adapters, "register"), (runs, "finish")]
)
async def test_a_database_that_is_away_for_a_moment_costs_a_run_nothing(
    module: Any, step: str, database: Database, state_dir: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    if step == "finish":
        monkeypatch.setattr(train, "_train", lambda *_: 1 / 0)
    monkeypatch.setattr(train, "model_card", lambda *_: "")
    monkeypatch.setattr(train, "publish", lambda *_, **__: Published(Path("/nowhere"), "", ""))
    cut_once(monkeypatch, module, step)
    assert await train_again(run) == EXIT_STOPPED
    assert await status_of(database, run) == "running"
    assert work_left(state_dir, run) == {"checkpoints", "adapter"}
    assert await train_again(run) == (EXIT_FAILED if step == "finish" else 0)
    assert work_left(state_dir, run) == set()


async def test_a_worker_that_dies_before_the_training_has_begun_is_missed(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    parents = iter([4242])
    monkeypatch.setattr("retrain.train.os.getppid", lambda: next(parents, 1))
    asked: list[bool] = []

    def see(assignment: train.Assignment, should_stop: Callable[[], bool]) -> None:
        asked.append(should_stop())

    monkeypatch.setattr(train, "_train", see)
    assert await train_again(run) == EXIT_STOPPED
    assert asked == [True]
