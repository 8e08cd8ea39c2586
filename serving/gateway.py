"""Everything one gateway process holds, put together at its start and taken apart at its end.

A gateway keeps no state of its own but its spool: stop it, and another does the same work. It needs the database to
start, to learn the keys, the models and the shared secrets; after that it serves without it.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from starlette.requests import Request as HttpRequest

from feedback import keys, retention
from feedback.database import Database
from feedback.errors import HoneError
from feedback.settings import FeedbackSettings
from monitoring.metrics import RequestMetrics
from monitoring.settings import MonitoringSettings
from monitoring.tracing import Tracer
from serving.adapter_watcher import AdapterWatcher
from serving.auth import Caller, credentials, identify
from serving.chat import Completions
from serving.drain import Drain
from serving.drain_process import DrainProcess
from serving.endpoints import ENDPOINTS
from serving.engines import Engine, Timeouts
from serving.exchange import Handler
from serving.recorder import Recorder
from serving.routing import RoutingTable
from serving.routing_table import TableKeeper
from serving.settings import ServingSettings
from serving.spool import Spool
from serving.telling import NOTHING_TOLD, Telling
from serving.upstream import Upstream, connect_upstream

logger = logging.getLogger(__name__)

START_TIMEOUT_SECONDS = 15.0
FLUSH_TIMEOUT_SECONDS = 5.0
RESTART_SECONDS = 1.0
DAY_SECONDS = 86_400


class Gateway:
    """The parts of a running gateway. Use `Gateway.start`."""

    def __init__(
        self,
        *,
        settings: ServingSettings,
        database: Database,
        state_dir: Path,
        spool: Spool,
        engines: dict[str, Engine],
        pseudonym_secret: bytes,
        token_secret: bytes,
        token_lifetime_seconds: int,
        public_url: str | None = None,
        tracer: Tracer | None = None,
        upstream: Upstream | None = None,
        telling: Telling = NOTHING_TOLD,
    ) -> None:
        self.settings = settings
        self.database = database
        self.spool = spool
        self.engines = engines
        self.pseudonym_secret = pseudonym_secret
        self.token_secret = token_secret
        self.metrics = RequestMetrics()
        self.tracer = tracer
        self.recorder = Recorder(spool, tracer, telling)
        draining = DrainProcess if settings.record_in_own_process else Drain
        self.drain: DrainProcess | Drain = draining(
            spool,
            database,
            batch_rows_max=settings.record_batch_rows_max,
            interval_seconds=settings.record_interval_seconds,
        )
        self.watcher = (
            AdapterWatcher(
                database,
                engines,
                settings,
                state_dir,
                in_flight=lambda engine, adapter_id: engines[engine].in_flight[adapter_id],
                on_change=self._use_holders,
            )
            if settings.engine_watch
            else None
        )
        self.completions = Completions(
            engines=engines,
            suspect=self._suspect,
            recorder=self.recorder,
            metrics=self.metrics,
            pseudonym_secret=pseudonym_secret,
            token_secret=token_secret,
            token_lifetime_seconds=token_lifetime_seconds,
            public_url=public_url,
            upstream=upstream,
        )
        self.tables = TableKeeper(
            database, engines, self._use_table, refresh_seconds=settings.registry_refresh_seconds
        )
        self._tasks: list[asyncio.Task[None]] = []
        self._measure()

    @classmethod
    async def start(cls, settings: ServingSettings, record: FeedbackSettings) -> Self:
        """Connect, load the routing table, and begin to drain what earlier gateways left.

        Raises:
            HoneError: the database does not answer, or another gateway's files are in the way.
        """
        database = Database(record.resolve_database_url())
        try:
            async with asyncio.timeout(START_TIMEOUT_SECONDS), database.begin() as connection:
                pseudonym_secret = await keys.service_secret(connection, "pseudonym")
                token_secret = await keys.service_secret(connection, "feedback_token")
                await retention.make_ahead(connection)
        except (OSError, TimeoutError) as error:
            await database.close()
            raise HoneError(
                f"The database does not answer: {str(error) or 'it timed out'}. "
                "Start it (`hone up` runs one), or correct HONE_DATABASE_URL."
            ) from error
        monitoring = MonitoringSettings.load()
        gateway = cls(
            settings=settings,
            database=database,
            state_dir=record.absolute_state_dir,
            spool=Spool(
                spool_directory(record),
                bytes_max=settings.spool_bytes_max,
                read_elsewhere=settings.record_in_own_process,
            ),
            engines=connect_engines(settings),
            pseudonym_secret=pseudonym_secret,
            token_secret=token_secret,
            token_lifetime_seconds=record.feedback_token_lifetime_days * DAY_SECONDS,
            public_url=record.public_url,
            tracer=_tracer(monitoring),
            telling=Telling.of(monitoring),
            upstream=connect_upstream(settings, record.public_url),
        )
        await gateway.tables.refresh()
        duties = [
            one for one in (gateway.tables, gateway.drain, gateway.watcher, gateway.tracer) if one is not None
        ]
        gateway._tasks = [asyncio.create_task(_keep_up(duty.run)) for duty in duties]
        return gateway

    async def stop(self) -> None:
        """Record what is left, as far as the database takes it now, and close everything."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(Exception):
            async with asyncio.timeout(FLUSH_TIMEOUT_SECONDS):
                await self.drain.flush()
        if self.spool.depth_bytes:
            logger.warning(
                "%d bytes wait in %s for the next gateway.", self.spool.depth_bytes, self.spool.root
            )
        self.spool.close()
        for engine in self.engines.values():
            engine.close()
        if self.completions.upstream is not None:
            self.completions.upstream.engine.close()
        await self.database.close()

    @property
    def relayed(self) -> dict[bytes, Handler]:
        """The routes whose answers are relayed, by path."""
        return dict.fromkeys(ENDPOINTS, self.completions.create)

    def identify(self, request: HttpRequest) -> Caller:
        """Who calls an ordinary route.

        Raises:
            ApiError: 401.
        """
        return identify(credentials(dict(request.headers.raw)), self.completions.table.keys)

    async def health(self) -> dict[str, Any]:
        """Whether this gateway can answer and record, and what stands in the way."""
        table, database = self.completions.table, "ok"
        try:
            async with asyncio.timeout(2.0), self.database.begin():
                pass
        except Exception as error:
            database = str(error) or "it does not answer"
        waiting = sorted(
            route.champion.name
            for route in table.models.values()
            if not table.holders.get(route.champion.adapter_id)
        )
        ready = any(table.holders.values())
        return {
            "status": "ok"
            if ready and not waiting and database == "ok"
            else "degraded"
            if ready
            else "unready",
            "database": database,
            "engines": {url: {"in_flight": engine.busy} for url, engine in self.engines.items()},
            "champions_not_loaded": waiting,
            "spool_bytes": self.spool.depth_bytes,
            "completions_lost": self.recorder.lost,
        }

    def _use_table(self, table: RoutingTable) -> None:
        # What this gateway proved itself is newer than what the record says of an engine.
        if self.watcher is not None:
            table = replace(table, holders={name: tuple(urls) for name, urls in self.watcher.holders.items()})
        self.completions.table = table

    def _use_holders(self) -> None:
        self._use_table(self.completions.table)

    def _suspect(self, engine: str, adapter_id: str | None) -> None:
        """An engine lost a version, or itself: it must prove what it holds before it takes more traffic."""
        if self.watcher is None:
            if adapter_id is not None:
                self.completions.table = self.completions.table.without(adapter_id, engine)
        elif adapter_id is not None:
            self.watcher.suspect(engine, adapter_id)
        else:
            self.watcher.look_now(engine)

    def _measure(self) -> None:
        metrics, drain, recorder = self.metrics, self.drain, self.recorder
        metrics.gauge(
            "hone_requests_in_flight",
            "Requests under way.",
            lambda: sum(e.busy for e in self.engines.values()),
        )
        metrics.gauge("hone_spool_bytes", "Bytes that wait for the record.", lambda: self.spool.depth_bytes)
        metrics.counter("hone_completions_kept", "Completions written to the spool.", lambda: recorder.kept)
        metrics.counter(
            "hone_completions_lost", "Completions the spool had no room for.", lambda: recorder.lost
        )
        metrics.counter("hone_completions_recorded", "Completions in the record.", lambda: drain.recorded)
        metrics.counter(
            "hone_fallbacks",
            "Requests routed to another version, as no engine was ready for theirs.",
            lambda: self.completions.fallbacks,
        )
        metrics.counter(
            "hone_spans_lost",
            "Spans that no collector took.",
            lambda: self.tracer.lost if self.tracer is not None else 0,
        )
        metrics.counter("hone_records_refused", "Records the database refused.", lambda: drain.refused)


def _tracer(monitoring: MonitoringSettings) -> Tracer | None:
    """Where spans go, if they go anywhere."""
    if monitoring.traces_url is None:
        return None
    return Tracer(monitoring.traces_url, share=monitoring.traces_share)


def connect_engines(settings: ServingSettings) -> dict[str, Engine]:
    """A pool for each replica."""
    timeouts = Timeouts(
        connect=settings.engine_connect_timeout_seconds,
        first_byte=settings.engine_first_byte_timeout_seconds,
        idle_stream=settings.engine_idle_stream_timeout_seconds,
        keep_alive=settings.engine_keep_alive_seconds,
    )
    key = settings.engine_api_key
    headers = {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    return {url: Engine(url, timeouts, headers) for url in settings.engine_urls}


def spool_directory(record: FeedbackSettings) -> Path:
    """Where gateways of this state directory keep what is not in the record yet."""
    return record.absolute_state_dir / "spool"


async def _keep_up(duty: Callable[[], Awaitable[None]]) -> None:
    """Run a duty until cancelled: nothing that it meets may end it unseen while the gateway goes on."""
    while True:
        try:
            await duty()
        except Exception:
            logger.exception("A duty of the gateway ended; it begins again.")
        await asyncio.sleep(RESTART_SECONDS)
