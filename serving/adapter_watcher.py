"""Keep every engine in step with the registry, and say which engine may answer for which version.

One task per engine looks at it at the start, when the registry changes, on a timer, and when a request says that
something is wrong; `serving.replica` does the work. `holders` is what routing goes by: it lists a version only where it
has passed its probe since the engine last started. What was found is written to the record (`engines`,
`engine_adapters`) for people and for other processes.

While the database is away the versions wanted last go on being kept, and nothing new becomes ready for the first
time. Several gateways may watch the same engine: loading twice is harmless, and unloading waits for longer than the
others need to hear of it.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

from sqlalchemy.exc import SQLAlchemyError

from feedback import adapters
from feedback.adapters import Adapter
from feedback.database import REGISTRY_CHANNEL, Database
from serving.adapter_files import COPIES, AdapterFiles
from serving.engine_api import EngineApi
from serving.engine_report import EngineReport, is_engine_report
from serving.probe import Fingerprint, ProbeFailed
from serving.replica import Replica, Rules
from serving.settings import ServingSettings

logger = logging.getLogger(__name__)

RECONNECT_SECONDS = 1.0


class AdapterWatcher:
    """Watches a set of engines. `run` until cancelled; `holders` and `replicas` may be read at any time."""

    def __init__(
        self,
        database: Database,
        engines: Iterable[str],
        settings: ServingSettings,
        state_dir: Path,
        *,
        in_flight: Callable[[str, str], int],
        on_change: Callable[[], None] = lambda: None,
    ) -> None:
        """Watch the engines at these base URLs.

        Args:
            state_dir: where versions published at a URL are copied to, unless the settings name another place.
            in_flight: how many requests of (engine, adapter id) this process has under way.
            on_change: called when `holders` has changed.
        """
        self.database = database
        self.settings = settings
        self.holders: Mapping[str, frozenset[str]] = MappingProxyType({})
        self.replicas: dict[str, Replica] = {}
        self._on_change = on_change
        self._wanted: list[Adapter] = []
        self._wanted_known = asyncio.Event()
        self._look = {url: asyncio.Event() for url in engines}
        self._registry_changed = asyncio.Event()
        self._rules = Rules(
            files=AdapterFiles(
                settings.engine_adapter_dir or state_dir / COPIES, max_lora_rank=settings.engine_max_lora_rank
            ),
            in_flight=in_flight,
            first_fingerprint=self._first_fingerprint,
            changed=self._publish,
            adapters_max=settings.engine_max_cpu_loras - 1,
            unload_grace_seconds=settings.engine_unload_grace_seconds,
            probe_tolerance_nats=settings.engine_probe_tolerance_nats,
        )

    async def run(self) -> None:
        """Watch until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._read_registry())
            for url in self._look:
                group.create_task(self._watch(url))

    def suspect(self, engine: str, adapter_id: str) -> None:
        """An engine answered 404 or 503 for a version it should hold: prove it again before it takes more traffic."""
        if (replica := self.replicas.get(engine)) is not None:
            replica.suspect(adapter_id)
            self.look_now(engine)

    def look_now(self, engine: str | None = None) -> None:
        """Look at one engine, or all, without waiting for the timer."""
        for url, event in self._look.items():
            if engine is None or url == engine:
                event.set()

    async def _watch(self, url: str) -> None:
        key = self.settings.engine_api_key
        async with EngineApi(url, api_key=key.get_secret_value() if key else None) as api:
            replica = self.replicas[url] = Replica(api, self._rules)
            report = EngineReport(self.database, replica)
            # Without the registry every version would look unwanted.
            await self._wanted_known.wait()
            while True:
                self._look[url].clear()
                try:
                    await replica.reconcile(self._wanted)
                except Exception:
                    logger.exception("Looking after engine %s failed; it is tried again.", url)
                await report.save()
                with suppress(TimeoutError):
                    async with asyncio.timeout(self.settings.engine_check_seconds):
                        await self._look[url].wait()

    async def _read_registry(self) -> None:
        is_reachable = True
        while True:
            self._registry_changed.clear()
            try:
                async with self.database.begin() as connection:
                    wanted = await adapters.wanted_on_engines(connection)
            except Exception as error:
                if is_reachable:
                    logger.warning("The registry cannot be read; engines keep what they have: %s", error)
                is_reachable = False
            else:
                is_reachable = True
                if wanted != self._wanted or not self._wanted_known.is_set():
                    self._wanted = wanted
                    self._wanted_known.set()
                    self.look_now()
            with suppress(TimeoutError):
                async with asyncio.timeout(self.settings.registry_refresh_seconds):
                    await self._registry_changed.wait()

    async def _listen(self) -> None:
        while True:
            try:
                async for payload in self.database.listen(REGISTRY_CHANNEL):
                    if not is_engine_report(payload):
                        self._registry_changed.set()
            except Exception:  # The timer brings what is missed meanwhile.
                await asyncio.sleep(RECONNECT_SECONDS)
                self._registry_changed.set()

    async def _first_fingerprint(self, adapter: Adapter, seen: Fingerprint) -> Fingerprint:
        known = adapter.fingerprint
        if known is not None and (first := Fingerprint.from_json(known)) is not None:
            return first
        try:
            async with self.database.begin() as connection:
                await adapters.store_fingerprint(
                    connection, adapter.adapter_id, seen.to_json(), replaces=known
                )
                known = (await adapters.by_id(connection, adapter.adapter_id)).fingerprint
        except (OSError, TimeoutError, SQLAlchemyError) as error:
            raise ProbeFailed(
                f"Its first probe cannot be recorded now: {error}. It is tried again."
            ) from error
        # Of another edition, it was written a moment ago by a gateway of another version: ours cannot tell.
        return (Fingerprint.from_json(known) if known is not None else None) or seen

    def _publish(self) -> None:
        found: defaultdict[str, set[str]] = defaultdict(set)
        for url, replica in self.replicas.items():
            for adapter_id in replica.ready:
                found[adapter_id].add(url)
        holders = {adapter_id: frozenset(urls) for adapter_id, urls in found.items()}
        if holders != self.holders:
            self.holders = MappingProxyType(holders)
            self._on_change()
