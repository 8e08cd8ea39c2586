"""The worker between record, training process and engine. The engine is a fake one: what it says is the input."""

import asyncio
import os
import signal
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from feedback import adapters, audit, engines, runs
from feedback.adapters import Adapter
from feedback.database import Database
from feedback.errors import Conflict
from feedback.runs import Run
from retrain import examine as examination
from retrain import worker as worker_module
from retrain.plan import make_plan, queue
from retrain.settings import RetrainSettings
from retrain.train import EXIT_STOPPED, log_file
from retrain.worker import Worker
from tests.builders import PROJECT
from tests.fakes import Asked, answer_evaluations, fake_engine, refuse
from tests.retrain.record import KEPT, MODEL, NEW, OLD, another_run, evaluating_run, queued_run, small_policy

SETTINGS = RetrainSettings(
    training_events_interval_seconds=0.2,
    checkpoint_interval_seconds=0.3,
    training_niceness=0,
    adapter_ready_timeout_seconds=2.0,
)


def learned(model: str, prompt: str) -> str:
    if "return" not in prompt:
        return KEPT
    return OLD if model == "base" else NEW


def forgot(model: str, prompt: str) -> str:
    return OLD if model == "base" else "Hello."


async def tick_until(worker: Worker, done: Callable[[Run], Any], run_id: str, *, seconds: float = 180) -> Run:
    async with asyncio.timeout(seconds):
        while True:
            await worker.tick()
            async with worker.database.begin() as connection:
                run = await runs.by_id(connection, run_id)
            if done(run):
                return run
            await asyncio.sleep(0.05)


def has_ended(run: Run) -> bool:
    return run.status in ("succeeded", "failed", "cancelled")


async def make_ready(database: Database, engine: str, adapter_id: str) -> None:
    async with database.begin() as connection:
        await engines.report(connection, engine, base_model="tiny", healthy=True)
        await engines.report_adapter(connection, engine, adapter_id, state="ready")


async def adapter_of(database: Database, run: Run) -> Adapter:
    async with database.begin() as connection:
        assert run.adapter_id is not None
        return await adapters.by_id(connection, run.adapter_id)


@pytest.mark.parametrize(("says", "state"), [(learned, "candidate"), (forgot, "rejected")])
async def test_the_gate_decides_on_what_the_engine_said(
    says: Callable[[str, str], str], state: str, database: Database, state_dir: Path
) -> None:
    async with database.begin() as connection:
        run, adapter = await evaluating_run(connection)
    async with fake_engine(answer_evaluations(says)) as engine:
        await make_ready(database, engine.url, adapter.adapter_id)
        worker = Worker(database, state_dir, SETTINGS)
        ended = await tick_until(worker, has_ended, run.run_id)
        await worker.close()
    assert ended.status == "succeeded"
    decided = await adapter_of(database, run)
    assert decided.state == state
    assert decided.gate is not None and decided.evidence_hash
    assert bool(decided.gate["reasons"]) is (state == "rejected")
    async with database.begin() as connection:
        assert await audit.verify(connection) is None
        trail = await audit.entries(connection, PROJECT, subject=decided.name)
    assert decided.evidence_hash in str([entry.detail for entry in trail])


async def test_a_candidate_that_no_engine_can_hold_is_rejected_in_the_engines_words(
    database: Database, state_dir: Path
) -> None:
    async with database.begin() as connection:
        run, adapter = await evaluating_run(connection)
        await engines.report(connection, "http://127.0.0.1:9", base_model="tiny", healthy=True)
        await engines.report_adapter(
            connection, "http://127.0.0.1:9", adapter.adapter_id, state="failed", detail="rank 64 is above 16"
        )
    worker = Worker(database, state_dir, SETTINGS.model_copy(update={"adapter_ready_timeout_seconds": 0.1}))
    ended = await tick_until(worker, has_ended, run.run_id)
    assert ended.status == "failed"
    assert ended.error is not None and "rank 64 is above 16" in ended.error
    assert (await adapter_of(database, run)).state == "rejected"


async def test_an_evaluation_with_failed_requests_never_passes(
    database: Database, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examination, "AGAIN_SECONDS", 0.0)
    async with database.begin() as connection:
        run, adapter = await evaluating_run(connection)
    async with fake_engine(refuse(500, "EngineCore encountered an issue.")) as engine:
        await make_ready(database, engine.url, adapter.adapter_id)
        worker = Worker(database, state_dir, SETTINGS)
        await tick_until(worker, has_ended, run.run_id)
    decided = await adapter_of(database, run)
    assert decided.state == "rejected"
    assert decided.gate is not None and any("requests failed" in reason for reason in decided.gate["reasons"])


async def test_an_engine_that_restarts_late_in_an_evaluation_has_its_time_to_come_back(
    database: Database, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(examination, "AGAIN_SECONDS", 0.3)
    well, died = answer_evaluations(learned), asyncio.Event()
    async with database.begin() as connection:
        run, adapter = await evaluating_run(connection)

    async def dies_once(asked: Asked) -> None:
        if died.is_set():
            await well(asked)
        else:
            # Longer than a version may take to be ready.
            await asyncio.sleep(1.6)
            died.set()
            await refuse(500, "EngineCore died")(asked)

    async with fake_engine(dies_once) as engine:

        async def gateway() -> None:
            await died.wait()
            async with database.begin() as connection:
                await engines.report(connection, engine.url, base_model="tiny", healthy=False)
            await asyncio.sleep(0.5)
            async with database.begin() as connection:
                await engines.report(connection, engine.url, base_model="tiny", healthy=True)

        await make_ready(database, engine.url, adapter.adapter_id)
        looking = asyncio.create_task(gateway())
        settings = SETTINGS.model_copy(
            update={"adapter_ready_timeout_seconds": 1.5, "evaluation_concurrency": 1024}
        )
        worker = Worker(database, state_dir, settings)
        ended = await tick_until(worker, has_ended, run.run_id)
        await looking
        await worker.close()
    assert ended.status == "succeeded", ended.error
    assert (await adapter_of(database, run)).state == "candidate"


async def test_an_evaluation_that_breaks_off_is_begun_again_a_few_times_and_says_why(
    database: Database, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def breaks_off(database: Database, *_: Any) -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(wrong())

    async def wrong() -> None:
        raise ZeroDivisionError("no room")

    async def away(database: Database, *_: Any) -> None:
        async with database.begin() as connection:
            await connection.execute(text("SELECT pg_terminate_backend(pg_backend_pid())"))

    async with database.begin() as connection:
        run, _ = await evaluating_run(connection)
    worker = Worker(database, state_dir, SETTINGS)

    async def evaluated_once(how: Callable[..., Any]) -> Run:
        monkeypatch.setattr(worker_module, "examine", how)
        await worker.tick()
        await asyncio.wait([worker.evaluations[run.run_id]])
        await worker.tick()
        assert not worker.evaluations and worker.not_before.pop(run.run_id) > datetime.now(UTC)
        async with database.begin() as connection:
            return await runs.by_id(connection, run.run_id)

    for _ in range(examination.EVALUATIONS_MAX - 1):
        assert (await evaluated_once(breaks_off)).status == "running"
        assert (await evaluated_once(away)).status == "running"
    # The count is the record's: another worker goes on with it.
    worker = Worker(database, state_dir, SETTINGS)
    ended = await evaluated_once(breaks_off)
    assert ended.status == "failed"
    assert (
        ended.error is not None
        and "broke off 3 times, at last with ZeroDivisionError('no room')" in ended.error
    )
    assert (await adapter_of(database, run)).state == "rejected"


async def test_a_worker_killed_during_an_evaluation_is_replaced_by_one_that_ends_it(
    database: Database, state_dir: Path
) -> None:
    async with database.begin() as connection:
        run, adapter = await evaluating_run(connection)
    async with fake_engine(answer_evaluations(learned)) as engine:
        await make_ready(database, engine.url, adapter.adapter_id)
        first = Worker(database, state_dir, SETTINGS)
        await first.tick()
        await asyncio.sleep(0.05)
        await first.close()
        second = Worker(database, state_dir, SETTINGS)
        ended = await tick_until(second, has_ended, run.run_id)
        await second.close()
    assert ended.status == "succeeded"
    assert (await adapter_of(database, run)).state == "candidate"


async def test_a_cancelled_run_ends_and_its_adapter_never_serves(database: Database, state_dir: Path) -> None:
    async with database.begin() as connection:
        run, _ = await evaluating_run(connection)
        await runs.request_cancel(connection, PROJECT, run.run_id, by="ada")
    worker = Worker(database, state_dir, SETTINGS)
    ended = await tick_until(worker, has_ended, run.run_id)
    assert ended.status == "cancelled"
    assert (await adapter_of(database, run)).state == "rejected"


async def test_a_queued_run_that_is_cancelled_never_starts(database: Database, state_dir: Path) -> None:
    async with database.begin() as connection:
        run = await queued_run(connection, "tiny")
        await runs.request_cancel(connection, PROJECT, run.run_id, by="ada")
    worker = Worker(database, state_dir, SETTINGS)
    ended = await tick_until(worker, has_ended, run.run_id)
    assert (ended.status, ended.attempts) == ("cancelled", 0)


@pytest.mark.parametrize(
    ("ask", "status"), [(runs.request_cancel, "cancelled"), (runs.request_pause, "paused")]
)
async def test_a_run_need_not_wait_for_the_one_that_trains_to_be_cancelled_or_paused(
    ask: Callable[..., Any], status: str, database: Database, state_dir: Path
) -> None:
    async with database.begin() as connection:
        training = await queued_run(connection, "tiny")
        waiting = await another_run(connection, training)
    worker = Worker(database, state_dir, SETTINGS)
    await worker.tick()
    assert worker.child is not None and worker.child.run_id == training.run_id
    async with database.begin() as connection:
        await ask(connection, PROJECT, waiting.run_id, by="ada")
    await worker.tick()
    async with database.begin() as connection:
        assert (await runs.by_id(connection, waiting.run_id)).status == status
    assert worker.child.asked_to_stop is None
    await worker.close()


async def test_a_training_that_cannot_go_on_for_a_while_is_tried_again_and_not_charged(
    database: Database, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cannot = ["sh", "-c", f"exit {EXIT_STOPPED}"]
    monkeypatch.setattr(Worker, "_spawn", lambda self, run_id: subprocess.Popen(cannot))
    async with database.begin() as connection:
        run = await queued_run(connection, "tiny")
    worker = Worker(database, state_dir, SETTINGS)
    for _ in range(SETTINGS.training_attempts_max + 1):
        await worker.tick()
        assert worker.child is not None
        worker.child.process.wait()
        await worker.tick()
        assert worker.not_before.pop(run.run_id) > datetime.now(UTC)
    async with database.begin() as connection:
        after = await runs.by_id(connection, run.run_id)
        told = [event.message for event in await runs.events(connection, run.run_id)]
    assert (after.status, after.attempts) == ("running", 0)
    assert told[-1].startswith("Cannot train now"), told
    assert len([one for one in told if one.startswith(("Cannot train", "Training process"))]) == 2


@pytest.mark.usefixtures("trains_for_ever")
async def test_a_training_that_has_to_be_killed_to_stop_is_not_charged_for_it(
    database: Database, state_dir: Path
) -> None:
    async with database.begin() as connection:
        run = await queued_run(connection, "tiny")
    worker = Worker(database, state_dir, SETTINGS)
    await worker.tick()
    async with database.begin() as connection:
        await runs.request_pause(connection, PROJECT, run.run_id, by="ada")
    paused = await tick_until(worker, lambda run: run.status == "paused", run.run_id)
    assert paused.attempts == 0


async def test_a_training_that_cannot_be_started_says_why_and_holds_nobody_up(
    database: Database, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_the_way = state_dir / "runs"
    in_the_way.touch()
    async with database.begin() as connection:
        run = await queued_run(connection, "tiny")
        other = await another_run(connection, run, cancel_requested=True)
    worker = Worker(database, state_dir, SETTINGS)
    for _ in range(SETTINGS.training_attempts_max + 1):
        await worker.tick()
        assert worker.not_before.pop(run.run_id) > datetime.now(UTC)
    async with database.begin() as connection:
        after = await runs.by_id(connection, run.run_id)
        messages = [event.message for event in await runs.events(connection, run.run_id)]
        assert (await runs.by_id(connection, other.run_id)).status == "cancelled"
    assert after == run
    assert [message for message in messages if str(in_the_way) in message] == [
        f"Waits: its training process cannot be started here: [Errno 20] Not a directory: "
        f"'{in_the_way / run.run_id}'."
    ]


async def test_a_training_killed_too_often_fails_with_advice(database: Database, state_dir: Path) -> None:
    async with database.begin() as connection:
        run = await queued_run(connection, "tiny")
        for _ in range(SETTINGS.training_attempts_max):
            await runs.start(connection, run.run_id)
    worker = Worker(database, state_dir, SETTINGS)
    ended = await tick_until(worker, has_ended, run.run_id)
    assert ended.status == "failed"
    assert ended.error is not None and "running out of memory" in ended.error


@pytest.mark.slow
async def test_a_run_goes_from_its_rows_to_a_candidate_although_its_training_is_killed(
    database: Database, state_dir: Path, tiny_model: Path
) -> None:
    recipe = {"learning_rate": 0.003, "epochs": 20.0, "batch_size": 4, "rank": 4, "alpha": 8}
    async with database.begin() as connection:
        run = await queued_run(connection, tiny_model, policy=small_policy(recipe=recipe))
    async with fake_engine(answer_evaluations(learned)) as engine:
        assert run.adapter_id is not None
        worker = Worker(database, state_dir, SETTINGS)
        await tick_until(worker, lambda run: run.progress.get("step", 0) > 5, run.run_id)
        assert worker.child is not None
        os.kill(worker.child.process.pid, signal.SIGKILL)
        await tick_until(worker, lambda run: run.phase == "evaluating", run.run_id)
        await make_ready(database, engine.url, run.adapter_id)
        ended = await tick_until(worker, has_ended, run.run_id)
        await worker.close()
    assert (ended.status, ended.attempts) == ("succeeded", 2)
    assert (await adapter_of(database, run)).state == "candidate"
    async with database.begin() as connection:
        messages = [event.message for event in await runs.events(connection, run.run_id)]
    assert any("was killed by SIGKILL" in message for message in messages)
    assert any(message.startswith("The gate says candidate") for message in messages)


@pytest.mark.slow
async def test_a_worker_that_is_stopped_stops_its_training_at_a_checkpoint_without_counting_it(
    database: Database, state_dir: Path, tiny_model: Path
) -> None:
    recipe = {"learning_rate": 0.003, "epochs": 500.0, "batch_size": 4, "rank": 4, "alpha": 8}
    async with database.begin() as connection:
        run = await queued_run(connection, tiny_model, policy=small_policy(recipe=recipe))
    worker = Worker(database, state_dir, SETTINGS)
    await tick_until(worker, lambda run: run.progress.get("step", 0) > 2, run.run_id)
    await worker.close()
    async with database.begin() as connection:
        stopped = await runs.by_id(connection, run.run_id)
        assert (stopped.status, stopped.attempts) == ("running", 0)
        await runs.request_cancel(connection, PROJECT, run.run_id, by="ada")
    ended = await tick_until(Worker(database, state_dir, SETTINGS), has_ended, run.run_id)
    assert ended.status == "cancelled"
    async with database.begin() as connection:
        assert [one.version for one in await adapters.of_model(connection, PROJECT, MODEL)] == [0]


@pytest.mark.slow
async def test_a_run_pauses_at_a_checkpoint_keeps_its_place_and_goes_on_when_resumed(
    database: Database, state_dir: Path, tiny_model: Path
) -> None:
    recipe = {"learning_rate": 0.003, "epochs": 40.0, "batch_size": 4, "rank": 4, "alpha": 8}
    async with database.begin() as connection:
        run = await queued_run(connection, tiny_model, policy=small_policy(recipe=recipe))
    worker = Worker(database, state_dir, SETTINGS)
    await tick_until(worker, lambda run: run.progress.get("step", 0) > 2, run.run_id)
    async with database.begin() as connection:
        await runs.request_pause(connection, PROJECT, run.run_id, by="ada")
    paused = await tick_until(worker, lambda run: run.status == "paused", run.run_id)
    assert paused.attempts == 0 and worker.child is None
    async with database.begin() as connection:
        with pytest.raises(Conflict, match="which is 'paused'"):
            await queue(connection, await make_plan(connection, PROJECT, MODEL), by="ada")
        await runs.resume(connection, PROJECT, run.run_id, by="ada")
    await tick_until(worker, lambda run: run.phase == "evaluating", run.run_id)
    await worker.close()
    log = log_file(state_dir, run.run_id)
    assert log.exists() and not (log.parent / "checkpoints").exists()
    async with database.begin() as connection:
        messages = [event.message for event in await runs.events(connection, run.run_id)]
    assert any(message.startswith("Training needs about") for message in messages)
    assert any(message.startswith("Paused.") for message in messages)
    assert any("held-out rows" in message for message in messages)


async def test_a_run_outside_its_window_says_so_once_and_does_not_start(
    database: Database, state_dir: Path
) -> None:
    now = datetime.now(UTC)
    window = f"{(now + timedelta(hours=2)):%H:00}-{(now + timedelta(hours=3)):%H:00}"
    async with database.begin() as connection:
        run = await queued_run(connection, "tiny", policy=small_policy(windows=(window,)))
    worker = Worker(database, state_dir, SETTINGS)
    for _ in range(3):
        await worker.tick()
        worker.not_before.clear()
    async with database.begin() as connection:
        waits = [event.message for event in await runs.events(connection, run.run_id)]
        assert (await runs.by_id(connection, run.run_id)).attempts == 0
    assert [message for message in waits if message.startswith("Waits:")] == [
        f"Waits: it trains only between {window} UTC."
    ]
