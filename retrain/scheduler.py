"""`hone worker`: one leader among any number of workers does what is due, by the clock.

The leader holds an advisory lock of PostgreSQL on a connection of its own; the others stand by and take over within
seconds when it is gone. A leader that loses the connection stops its work, since another may already have begun.
Each duty is repeated by APScheduler and reads the record every time, so nothing is lost when a tick is missed.
"""

import asyncio
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import structlog
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import models, runs
from feedback.adapters import AUTOMATIC_ACTOR
from feedback.database import WORKER_LOCK, Database, is_away, is_outage
from feedback.errors import Conflict, HoneError
from feedback.fresh import fresh_feedback
from feedback.models import Model
from feedback.settings import FeedbackSettings
from retrain.alone import alone
from retrain.duties import watching
from retrain.forgetting import carry_out_erasures, keep_no_longer
from retrain.plan import file_for_review, make_plan, queue
from retrain.requests import answer_requests
from retrain.settings import RetrainSettings
from retrain.worker import Worker

STANDBY_SECONDS = 1.0
RETENTION_SECONDS = 3600.0
LEADER_CHECK_SECONDS = 2.0

log = structlog.get_logger(__name__)


def serve() -> None:
    """Work until SIGTERM or SIGINT."""
    record, settings = FeedbackSettings.load(), RetrainSettings.load()
    asyncio.run(_serve(record.resolve_database_url(), record.absolute_state_dir, settings))


async def _serve(url: str, state_dir: Path, settings: RetrainSettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with Database(url) as database:
        await work(database, state_dir, settings, stop)


async def work(database: Database, state_dir: Path, settings: RetrainSettings, stop: asyncio.Event) -> None:
    """Stand by, lead while we may, and start over when the database was away; until `stop`."""
    while not stop.is_set():
        try:
            async with leadership(database, stop) as lost:
                if not stop.is_set():
                    await _lead(database, state_dir, settings, stop, lost)
        except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, DBAPIError) as error:
            if is_outage(error):
                log.warning("the database is away", error=str(error))
            else:
                log.exception("the database refused what leading needs")
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), STANDBY_SECONDS)


@asynccontextmanager
async def leadership(database: Database, stop: asyncio.Event) -> AsyncIterator[asyncio.Event]:
    """Wait for the leader's lock, or `stop`; yields an event that is set when the lock may be gone."""
    connection = await database.connect_raw()
    lost = asyncio.Event()
    connection.add_termination_listener(lambda _: lost.set())
    try:
        while not stop.is_set() and not await connection.fetchval(
            "SELECT pg_try_advisory_lock($1)", WORKER_LOCK
        ):
            with suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), STANDBY_SECONDS)
        watcher = asyncio.create_task(_watch(connection, lost))
        try:
            yield lost
        finally:
            watcher.cancel()
            await asyncio.gather(watcher, return_exceptions=True)
    finally:
        with suppress(Exception):
            await connection.close(timeout=2)


async def _watch(connection: asyncpg.Connection, lost: asyncio.Event) -> None:
    """A connection through a dead network looks alive until something is asked of it."""
    try:
        while True:
            await asyncio.sleep(LEADER_CHECK_SECONDS)
            await connection.execute("SELECT 1", timeout=LEADER_CHECK_SECONDS * 5)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        lost.set()


async def _lead(
    database: Database, state_dir: Path, settings: RetrainSettings, stop: asyncio.Event, lost: asyncio.Event
) -> None:
    from apscheduler.schedulers.asyncio import AsyncIOScheduler

    log.info("leading")
    worker = Worker(database, state_dir, settings)
    trigger = Trigger(database)
    scheduler = AsyncIOScheduler(timezone=UTC, job_defaults={"coalesce": True, "max_instances": 1})
    duties: list[tuple[str, float, Callable[[], Awaitable[Any]]]] = [
        ("requests", settings.worker_tick_seconds, lambda: answer_requests(database)),
        ("runs", settings.worker_tick_seconds, worker.tick),
        *watching(database, state_dir, settings),
        ("erasures", settings.worker_tick_seconds, lambda: carry_out_erasures(database, state_dir)),
        ("retention", RETENTION_SECONDS, lambda: keep_no_longer(database, FeedbackSettings.load())),
        ("trigger", settings.trigger_check_seconds, trigger.check),
    ]
    for name, seconds, duty in duties:
        scheduler.add_job(
            _guarded, "interval", args=(name, duty), seconds=seconds, id=name, next_run_time=datetime.now(UTC)
        )
    scheduler.start()
    try:
        waits = [asyncio.create_task(event.wait()) for event in (stop, lost)]
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        for wait in waits:
            wait.cancel()
    finally:
        scheduler.shutdown(wait=False)
        await worker.close()
        log.info("leading no more", lost=lost.is_set())


async def _guarded(name: str, duty: Callable[[], Awaitable[Any]]) -> None:
    """One duty's trouble must not end the others; it is tried again at the next tick."""
    try:
        await duty()
    except Exception as error:
        if is_away(error):
            log.warning("the database is away", duty=name, error=str(error))
        else:
            log.exception("duty failed", duty=name)


class Trigger:
    """Starts a run of each model whose policy says that enough was said since the last one."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.refused_at: dict[tuple[str, str], tuple[int, str]] = {}

    async def check(self) -> None:
        """Look at every model once."""
        async with self.database.begin() as connection:
            every_model = await models.every(connection)
        for model in every_model:
            with alone(project=model.project, model=model.model):
                async with self.database.begin() as connection:
                    await self._check(connection, model)

    async def _check(self, connection: AsyncConnection, model: Model) -> None:
        policy, key = model.policy.training, (model.project, model.model)
        if not policy.enabled:
            return
        earlier = await runs.in_project(connection, model.project, model=model.model)
        since = earlier[0].created_at if earlier else None
        if since and datetime.now(UTC) - since < timedelta(hours=policy.interval_hours_min):
            return
        fresh = await fresh_feedback(connection, model, since)
        # What was refused stays refused until more is said, or the policy changes: planning reads the whole record.
        now = (fresh, model.policy.version)
        if fresh < policy.fresh_feedback_min or self.refused_at.get(key) == now:
            return
        try:
            plan = await make_plan(connection, model.project, model.model)
        except HoneError as error:
            self.refused_at[key] = now
            log.warning("no run", model=model.model, fresh_feedback=fresh, reasons=(str(error),))
            return
        if plan.recipe is None:
            self.refused_at[key] = now
            await file_for_review(connection, plan)
            log.info("no run", model=model.model, fresh_feedback=fresh, reasons=plan.choice.sentences)
            return
        with suppress(Conflict):
            run = await queue(connection, plan, by=AUTOMATIC_ACTOR)
            log.info("run queued", run_id=run.run_id, model=model.model, fresh_feedback=fresh)
