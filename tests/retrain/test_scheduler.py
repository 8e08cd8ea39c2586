import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from structlog.testing import capture_logs

from feedback import adapters, models, review, runs, uploads
from feedback.database import Database
from feedback.fresh import fresh_feedback
from feedback.models import Model
from feedback.policy import read_policy
from retrain import rollout
from retrain.scheduler import Trigger, _guarded, leadership, work
from retrain.settings import RetrainSettings
from tests.builders import PROJECT, a_model, a_rated_completion, an_adapter, an_uploaded_file
from tests.retrain.record import MODEL, small_policy, teach

EAGER = {"fresh_feedback_min": 10, "interval_hours_min": 0}


@asynccontextmanager
async def a_worker(database: Database, state_dir: Path) -> AsyncIterator[asyncio.Task[None]]:
    stop = asyncio.Event()
    settings = RetrainSettings(worker_tick_seconds=0.1, trigger_check_seconds=0.1)
    task = asyncio.create_task(work(database, state_dir, settings, stop))
    try:
        yield task
    finally:
        stop.set()
        await asyncio.wait_for(task, 30)


async def test_one_worker_leads_and_the_next_takes_over_when_it_is_gone(database: Database) -> None:
    stop = asyncio.Event()
    second_leads = asyncio.Event()

    async def second() -> None:
        async with leadership(database, stop):
            second_leads.set()

    async with leadership(database, stop):
        waiting = asyncio.create_task(second())
        await asyncio.sleep(1.5)
        assert not second_leads.is_set()
    await asyncio.wait_for(second_leads.wait(), 60)
    await waiting


async def test_a_leader_whose_connection_is_cut_knows_that_it_leads_no_more(database: Database) -> None:
    async with leadership(database, asyncio.Event()) as lost:
        other = await database.connect_raw()
        await other.execute(
            "SELECT pg_terminate_backend(l.pid) FROM pg_locks l JOIN pg_database d ON d.oid = l.database "
            "WHERE l.locktype = 'advisory' AND d.datname = current_database() AND l.pid <> pg_backend_pid()"
        )
        await other.close()
        await asyncio.wait_for(lost.wait(), 10)


async def test_enough_fresh_feedback_queues_one_run(database: Database) -> None:
    async with database.begin() as connection:
        await teach(connection, "tiny", policy=small_policy(**EAGER))
    trigger = Trigger(database)
    await trigger.check()
    await trigger.check()
    async with database.begin() as connection:
        queued = await runs.in_project(connection, PROJECT)
    assert [(run.status, run.requested_by) for run in queued] == [("queued", "hone")]


@pytest.mark.parametrize(
    "training", [{"fresh_feedback_min": 51}, {"fresh_feedback_min": 10, "enabled": False}]
)
async def test_too_little_feedback_or_a_switched_off_schedule_queues_nothing(
    training: dict[str, object], database: Database
) -> None:
    async with database.begin() as connection:
        await teach(connection, "tiny", policy=small_policy(**training))
    await Trigger(database).check()
    async with database.begin() as connection:
        assert await runs.in_project(connection, PROJECT) == []


async def test_only_feedback_since_the_last_run_is_fresh_and_the_interval_is_kept(database: Database) -> None:
    async with database.begin() as connection:
        await teach(connection, "tiny", policy=small_policy(**EAGER))
    await Trigger(database).check()
    async with database.begin() as connection:
        (run,) = await runs.in_project(connection, PROJECT)
        await runs.finish(connection, run.run_id, status="failed", error="test")
    async with database.begin() as connection:
        for _ in range(3):
            await a_rated_completion(connection, rater="rater-new")
        model = await models.get(connection, PROJECT, MODEL)
        assert await fresh_feedback(connection, model, None) == 53
        assert await fresh_feedback(connection, model, run.created_at) == 3
    await Trigger(database).check()
    async with database.begin() as connection:
        assert len(await runs.in_project(connection, PROJECT)) == 1


async def test_data_that_was_refused_is_not_planned_with_again_until_more_is_said(database: Database) -> None:
    async with database.begin() as connection:
        await teach(connection, "tiny", people=2, policy=small_policy(**EAGER))
    trigger = Trigger(database)
    await trigger.check()
    async with database.begin() as connection:
        model = await models.get(connection, PROJECT, MODEL)
        assert trigger.refused_at == {(PROJECT, MODEL): (10, model.policy.version)}
        assert await runs.in_project(connection, PROJECT) == []


@pytest.mark.parametrize("wrong", [{"recipe": {"sft": {"ranks": 8}}}, {"replay_file": "file-1"}])
async def test_a_policy_that_no_run_can_be_planned_with_holds_up_its_own_model_only(
    wrong: dict[str, object], database: Database, tmp_path: Path
) -> None:
    async with database.begin() as connection:
        await teach(connection, "tiny", policy=small_policy(**EAGER))
        file = await an_uploaded_file(connection, tmp_path, b"")
        await teach(connection, "tiny", policy=small_policy(**EAGER | wrong), model="first")
    uploads.remove_content(file.location)
    trigger = Trigger(database)
    with capture_logs() as logs:
        await trigger.check()
        await trigger.check()
    async with database.begin() as connection:
        assert [run.model for run in await runs.in_project(connection, PROJECT)] == [MODEL]
    [told] = [one for one in logs if one["event"] == "no run"]
    assert (told["model"], told["log_level"]) == ("first", "warning")
    assert any(value in told["reasons"][0] for value in ("ranks", "file-1"))

    async with database.begin() as connection:
        mended = {"replay_file": None, "recipe": {"sft": {"ranks": None}}}
        await models.change_policy(connection, PROJECT, "first", {"training": mended}, by="ada")
    await trigger.check()
    async with database.begin() as connection:
        assert {run.model for run in await runs.in_project(connection, PROJECT)} == {"first", MODEL}


async def test_one_models_trouble_keeps_no_other_waiting_and_an_outage_reaches_the_guard(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with database.begin() as connection:
        await a_model(connection, "first", policy=read_policy({"approval": "automatic"}))
        await a_model(connection, MODEL, policy=read_policy({"approval": "automatic"}))
        base = await adapters.champion(connection, PROJECT, MODEL)
        await an_adapter(connection, state="candidate", beside=base)
    ship = rollout._ship_candidate

    async def damaged(connection: AsyncConnection, model: Model) -> list[str]:
        if model.model == "first":
            raise RuntimeError("its policy is none")
        return await ship(connection, model)

    async def away(connection: AsyncConnection, model: Model) -> list[str]:
        raise ConnectionError("no route")

    monkeypatch.setattr(rollout, "_ship_candidate", damaged)
    with capture_logs() as logs:
        assert len(await rollout.tick(database)) == 1
    assert [one["model"] for one in logs if one["log_level"] == "error"] == ["first"]
    monkeypatch.setattr(rollout, "_ship_candidate", away)
    with pytest.raises(ConnectionError):
        await rollout.tick(database)


async def test_a_worker_survives_the_loss_of_its_database_connections(
    database: Database, state_dir: Path
) -> None:
    async with database.begin() as connection:
        await teach(connection, "tiny", policy=small_policy(**EAGER, enabled=False))
    async with a_worker(database, state_dir) as task:
        await asyncio.sleep(1)
        other = await database.connect_raw()
        await other.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await other.close()
        await asyncio.sleep(1)
        assert not task.done()
        async with database.begin() as connection:
            await models.change_policy(connection, PROJECT, MODEL, {"training": {"enabled": True}}, by="ada")
        async with asyncio.timeout(60):
            while True:
                async with database.begin() as connection:
                    if found := await runs.in_project(connection, PROJECT):
                        await runs.request_cancel(connection, PROJECT, found[0].run_id, by="ada")
                        break
                await asyncio.sleep(0.1)


async def test_a_reviewers_decisions_count_as_fresh(database: Database) -> None:
    async with database.begin() as connection:
        await teach(connection, "tiny")
        model = await models.get(connection, PROJECT, MODEL)
        before = await fresh_feedback(connection, model, None)
        rated = await a_rated_completion(connection)
        await review.exclude(connection, PROJECT, rated.completion_id, by="ada")
        assert await fresh_feedback(connection, model, None) == before + 2


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("ALTER TABLE runs RENAME COLUMN status TO state", "duty failed"),
        ("SELECT pg_terminate_backend(pg_backend_pid())", "the database is away"),
    ],
)
async def test_a_database_that_refuses_is_not_called_away(database: Database, damage: str, told: str) -> None:
    async def duty() -> None:
        async with database.begin() as connection:
            await connection.execute(text(damage))
            await runs.in_project(connection, PROJECT)

    with capture_logs() as logs:
        await _guarded("look", duty)
    assert [one["event"] for one in logs] == [told]
