"""Sleeping engines as worker and gateway meet them; fake ones, since real ones sleep on accelerators only."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from feedback import engines, runs
from feedback.database import Database
from feedback.runs import Run
from retrain import worker as worker_module
from retrain.engine_sleep import put_to_sleep, wake
from retrain.settings import RetrainSettings
from retrain.worker import Worker
from serving.engine_api import EngineApi
from serving.replica import Held, Replica
from tests.fakes import Asked, fake_engine, refuse, send_json
from tests.retrain.record import another_run, evaluating_run, queued_run

SETTINGS = RetrainSettings(engines_sleep_while_training=True, training_niceness=0)


@dataclass
class Sleeper:
    """An engine that can sleep."""

    asleep: bool = False
    done: list[str] = field(default_factory=list)

    async def __call__(self, asked: Asked) -> None:
        answers: dict[str, Any] = {
            "/health": {},
            "/is_sleeping": {"is_sleeping": self.asleep},
            "/v1/models": {"data": [{"id": "base", "root": "tiny", "parent": None}]},
            "/metrics": {},
        }
        if asked.path not in answers:
            self.done.append(asked.path)
            self.asleep = asked.path.startswith("/sleep") or (self.asleep and asked.path != "/wake_up")
        send_json(asked, 200, answers.get(asked.path, {}))


async def test_an_engine_drains_before_it_sleeps_and_resumes_when_it_wakes() -> None:
    sleeper = Sleeper()
    async with fake_engine(sleeper) as engine, fake_engine(refuse(404)) as other:
        urls = [engine.url, other.url, "http://127.0.0.1:9", "http://gpu:80a"]
        assert await wake(urls, None) == []
        assert await put_to_sleep(urls, None) == [engine.url]
        assert await wake(urls, None) == [engine.url]
    assert sleeper.done == ["/pause?mode=wait", "/sleep?level=1", "/wake_up", "/resume"]


async def test_a_gateway_sends_nothing_to_a_sleeping_engine_and_proves_all_it_holds_again() -> None:
    sleeper = Sleeper()
    rules: Any = type("Rules", (), {"changed": staticmethod(lambda: None), "adapters_max": 3})
    async with fake_engine(sleeper) as engine, EngineApi(engine.url) as api:
        replica = Replica(api, rules)
        await replica.reconcile([])
        replica.held["support--v1-00"] = Held("ready")
        assert replica.ready == {"support--v1-00"}
        sleeper.asleep = True
        await replica.reconcile([])
        assert (replica.healthy, replica.ready) == (False, frozenset())
        assert "sleeps while a run trains" in (replica.detail or "")
        sleeper.asleep = False
        await replica.reconcile([])
        assert replica.healthy and replica.ready == frozenset()


async def test_engines_sleep_while_a_run_trains_and_are_woken_when_nothing_does(
    database: Database, state_dir: Path
) -> None:
    sleeper = Sleeper()
    async with fake_engine(sleeper) as engine:
        async with database.begin() as connection:
            run = await queued_run(connection, "tiny")
            await engines.report(connection, engine.url, base_model="tiny", healthy=True)
        worker = Worker(database, state_dir, SETTINGS)
        await worker.tick()
        child = worker.child
        assert child is not None and sleeper.done == ["/pause?mode=wait", "/sleep?level=1"]
        child.process.kill()
        child.process.wait()
        async with database.begin() as connection:
            await runs.finish(connection, run.run_id, status="failed", error="test")
        await worker.tick()
        assert sleeper.done[2:] == ["/wake_up", "/resume"]
        await worker.close()


def trained_by(worker: Worker) -> str | None:
    """The run that the worker's training process carries out."""
    return None if worker.child is None else worker.child.run_id


@pytest.fixture
def evaluates_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluations that end their run."""

    async def examine(database: Database, run: Run, settings: RetrainSettings) -> None:
        async with database.begin() as connection:
            await runs.finish(connection, run.run_id, status="succeeded")

    monkeypatch.setattr(worker_module, "examine", examine)


@pytest.mark.usefixtures("trains_for_ever", "evaluates_at_once")
async def test_a_run_that_waited_for_an_evaluation_trains_after_it(
    database: Database, state_dir: Path
) -> None:
    async with database.begin() as connection:
        evaluating, _ = await evaluating_run(connection)
        waiting = await another_run(connection, evaluating)
    worker = Worker(database, state_dir, SETTINGS)
    await worker.tick()
    assert trained_by(worker) is None
    await worker.evaluations[evaluating.run_id]
    await worker.tick()
    assert trained_by(worker) == waiting.run_id
    await worker.close()


@pytest.mark.usefixtures("trains_for_ever", "evaluates_at_once")
async def test_engines_do_not_sleep_when_a_newer_run_is_to_be_evaluated(
    database: Database, state_dir: Path
) -> None:
    async with database.begin() as connection:
        run = await queued_run(connection, "tiny")
        evaluating = await another_run(connection, run, status="running", phase="evaluating")
    worker = Worker(database, state_dir, SETTINGS)
    await worker.tick()
    assert worker.child is None and list(worker.evaluations) == [evaluating.run_id]
    await worker.close()


@pytest.mark.usefixtures("trains_for_ever", "evaluates_at_once")
async def test_a_version_brought_in_while_engines_sleep_is_evaluated_when_they_are_awake(
    database: Database, state_dir: Path
) -> None:
    async with database.begin() as connection:
        run = await queued_run(connection, "tiny")
    worker = Worker(database, state_dir, SETTINGS)
    await worker.tick()
    assert worker.child is not None
    async with database.begin() as connection:
        imported = await another_run(connection, run, status="running", phase="evaluating")
    await worker.tick()
    assert not worker.evaluations
    async with database.begin() as connection:
        await runs.finish(connection, run.run_id, status="cancelled")
    worker.child.process.kill()
    worker.child.process.wait()
    await worker.tick()
    assert list(worker.evaluations) == [imported.run_id]
    await worker.close()
