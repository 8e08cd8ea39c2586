"""One engine, kept in step with the registry: what it should hold is checked, loaded, probed, and only then ready.

`reconcile` compares what the engine lists with what is wanted and does what is missing. It holds the rules that
vLLM's behaviour demands: a name belongs to one directory for ever, nothing is loaded in place, a restart (or a lost
name) makes everything unproven again, and a version leaves only when nobody wants it, nothing is under way on it
and a grace time has passed.

A version that is refused, or fails its probe, takes no traffic and is tried again later and later; the reason stands
in `held`. An engine that does not answer holds nothing.
"""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from feedback.adapters import BASE_ENGINE_NAME, Adapter
from serving.adapter_files import AdapterFiles, AdapterRefused
from serving.base_files import same_base_model
from serving.engine_api import EngineApi, EngineAsleep, EngineRefusal, EngineState, EngineUnavailable
from serving.probe import Fingerprint, ProbeFailed, check_takes_part, compare, take_fingerprint

logger = logging.getLogger(__name__)

OUR_NAMES = re.compile(r".+--(v\d+|null)-[0-9a-f]+")
URGENCY = ("champion", "canary", "control", "retired", "approved", "trained", "candidate", "rejected")
"""When an engine has no room for all, those named first are kept. Retired ones are wanted for a rollback or by their
`ft:` name, rejected ones only by that."""
FIRST_RETRY_SECONDS = 5.0
LONGEST_RETRY_SECONDS = 300.0


@dataclass
class Held:
    """How one version stands on this engine."""

    state: Literal["loaded", "ready", "failed"]
    detail: str | None = None
    failures: int = 0
    retry_at: float = 0.0
    cost_engine: bool = False
    """The engine stopped answering while it took this version: a restart does not make it welcome at once."""


@dataclass(frozen=True, slots=True)
class Rules:
    """What a replica needs from outside.

    `in_flight(engine, adapter_id)` counts the requests under way; `first_fingerprint(adapter, seen)` gives the stored
    fingerprint of a version, or stores `seen` as the first; `changed()` is called when what is ready here changed.
    """

    files: AdapterFiles
    in_flight: Callable[[str, str], int]
    first_fingerprint: Callable[[Adapter, Fingerprint], Awaitable[Fingerprint]]
    changed: Callable[[], None]
    adapters_max: int
    unload_grace_seconds: float
    probe_tolerance_nats: float


class Replica:
    """What this process knows of one engine, and what it does about it."""

    def __init__(self, api: EngineApi, rules: Rules) -> None:
        self.api = api
        self.url = api.url
        self.rules = rules
        self.healthy = False
        self.detail: str | None = "It has not been looked at yet."
        self.base_model: str | None = None
        self.started_at: float | None = None
        self.held: dict[str, Held] = {}
        self._listed: dict[str, str] = {}
        self._unwanted_since: dict[str, float] = {}
        self._base: Fingerprint | None = None

    @property
    def ready(self) -> frozenset[str]:
        """Ids of the versions that may take traffic here now."""
        if not self.healthy:
            return frozenset()
        proven = {adapter_id for adapter_id, held in self.held.items() if held.state == "ready"}
        return frozenset(proven - self._unwanted_since.keys())

    @property
    def standing(self) -> dict[str, tuple[str, str | None]]:
        """State and detail of every version, as people and other processes should see it."""
        found: dict[str, tuple[str, str | None]] = {}
        for adapter_id, held in self.held.items():
            found[adapter_id] = (held.state, held.detail)
            if held.state == "ready" and adapter_id in self._unwanted_since:
                found[adapter_id] = (
                    "loaded",
                    "It is no longer wanted, and leaves when nothing is under way on it.",
                )
        return found

    def suspect(self, adapter_id: str) -> None:
        """Take a version out of traffic until it has passed another probe."""
        if self.held.pop(adapter_id, None) is not None:
            self.rules.changed()

    async def reconcile(self, wanted: Iterable[Adapter]) -> None:
        """Look at the engine once, and do what is missing. Never raises for what an engine does."""
        try:
            state = await self.api.look()
            self._notice(state)
            fitting = await self._fitting(wanted, state.base_model)
            mine = self._within_room(fitting)
            self._forget_lost(fitting)
            await self._unload_unwanted(mine)
            for adapter in mine:
                await self._ensure(adapter)
        except EngineAsleep as error:
            # What an engine holds was seen to be lost in silence when it woke.
            self._forget_proofs()
            self._lose(str(error))
        except EngineUnavailable as error:
            self._lose(str(error))

    def _forget_proofs(self) -> None:
        self.held = {adapter_id: held for adapter_id, held in self.held.items() if held.cost_engine}
        self._unwanted_since.clear()
        self._base = None

    def _notice(self, state: EngineState) -> None:
        may_have_restarted = state.started_at is None and not self.healthy
        restarted = may_have_restarted or state.started_at != self.started_at
        if restarted or state.base_model != self.base_model:
            self._forget_proofs()
        self.started_at, self.base_model, self._listed = (
            state.started_at,
            state.base_model,
            dict(state.adapters),
        )
        if not self.healthy:
            logger.info("Engine %s answers; it serves %s.", self.url, state.base_model)
        if restarted or not self.healthy:
            self.healthy, self.detail = True, None
            self.rules.changed()

    def _lose(self, reason: str) -> None:
        if self.healthy:
            logger.warning("Engine %s is lost: %s", self.url, reason)
        self.healthy, self.detail = False, reason
        self.rules.changed()

    async def _fitting(self, wanted: Iterable[Adapter], base_model: str) -> list[Adapter]:
        """The versions of this engine's base model, most urgent and newest first."""
        wanted = list(wanted)
        bases = {adapter.base_model for adapter in wanted}
        same = {base: await asyncio.to_thread(same_base_model, base, base_model) for base in bases}
        fitting = [adapter for adapter in wanted if same[adapter.base_model]]
        return by_urgency(fitting)

    def _within_room(self, fitting: list[Adapter]) -> list[Adapter]:
        """As many as the engine keeps; the others fail, with a reason. Base models need no room."""
        with_weights = [adapter for adapter in fitting if adapter.version]
        left_out = {adapter.adapter_id for adapter in with_weights[self.rules.adapters_max :]}
        for adapter_id in left_out:
            self.held[adapter_id] = Held(
                "failed",
                f"The engine keeps {self.rules.adapters_max} versions, and {len(with_weights)} are wanted. Raise "
                "[serving] engine_max_cpu_loras and restart it, or reject candidates that nobody needs.",
            )
        return [adapter for adapter in fitting if adapter.adapter_id not in left_out]

    def _forget_lost(self, fitting: list[Adapter]) -> None:
        """Versions that the engine no longer lists, or that nobody knows here any more, are not held."""
        known = {adapter.adapter_id: adapter for adapter in fitting}
        for adapter_id, held in list(self.held.items()):
            is_listed = adapter_id in self._listed
            is_known = adapter_id in known
            needs_listing = held.state != "failed" and not (is_known and known[adapter_id].version == 0)
            if (needs_listing and not is_listed) or not (is_known or is_listed):
                del self.held[adapter_id]
                self.rules.changed()

    async def _unload_unwanted(self, mine: list[Adapter]) -> None:
        wanted = {adapter.adapter_id for adapter in mine}
        unwanted = {name for name in self._listed if OUR_NAMES.fullmatch(name)} - wanted
        now = time.monotonic()
        if unwanted != self._unwanted_since.keys():
            self._unwanted_since = {name: self._unwanted_since.get(name, now) for name in unwanted}
            self.rules.changed()
        missing = sum(1 for adapter in mine if adapter.version and adapter.adapter_id not in self._listed)
        short = len(self._listed) + missing - self.rules.adapters_max
        for name, since in sorted(self._unwanted_since.items(), key=lambda item: item[1]):
            has_rested = now - since >= self.rules.unload_grace_seconds
            if (has_rested or short > 0) and not self.rules.in_flight(self.url, name):
                await self._unload(name)
                short -= 1

    async def _unload(self, name: str) -> None:
        try:
            await self.api.unload(name)
        except EngineRefusal as refusal:
            logger.info("Engine %s would not unload %s: %s", self.url, name, refusal)
        self.held.pop(name, None)
        self._listed.pop(name, None)
        self._unwanted_since.pop(name, None)
        self.rules.changed()

    async def _ensure(self, adapter: Adapter) -> None:
        held = self.held.get(adapter.adapter_id)
        if held is not None and (held.state == "ready" or time.monotonic() < held.retry_at):
            return
        if self._has_no_room_for(adapter):
            return  # What is unwanted still answers; the next look tries again.
        try:
            changes_output = await self._load(adapter) if adapter.version else False
            await self._probe(adapter, changes_output)
        except (AdapterRefused, ProbeFailed, EngineRefusal) as error:
            self._fail(adapter, str(error))
        except EngineUnavailable as error:
            self._fail(
                adapter,
                f"The engine stopped answering while it took {adapter.name}: {error}",
                cost_engine=True,
            )
            raise
        else:
            self.held[adapter.adapter_id] = Held("ready")
            logger.info("%s (%s) is ready on %s.", adapter.name, adapter.adapter_id, self.url)
            self.rules.changed()

    def _has_no_room_for(self, adapter: Adapter) -> bool:
        is_new = bool(adapter.version) and adapter.adapter_id not in self._listed
        return is_new and len(self._listed) > self.rules.adapters_max

    async def _load(self, adapter: Adapter) -> bool:
        """Have the engine hold a version; whether its weights change anything."""
        assert self.base_model is not None
        files = await self.rules.files.get(adapter, self.base_model)
        if adapter.adapter_id not in self._listed:
            await self._load_new(adapter, files.directory)
        root = self._listed[adapter.adapter_id]
        if not _is_same_directory(root, files.directory):
            raise AdapterRefused(
                f"The engine has '{adapter.adapter_id}' from {root}, but {adapter.name} lies in {files.directory}. "
                "A name belongs to one directory for ever: restart the engine."
            )
        held = self.held.get(adapter.adapter_id)
        if held is None or held.state != "failed":
            self.held[adapter.adapter_id] = Held("loaded")
        return files.changes_output

    async def _load_new(self, adapter: Adapter, directory: Path) -> None:
        try:
            await self.api.load(adapter.adapter_id, directory)
            self._listed[adapter.adapter_id] = str(directory)
        except EngineRefusal as refusal:
            # Another gateway may have loaded it between our look and now.
            self._listed = dict((await self.api.look()).adapters)
            if adapter.adapter_id not in self._listed:
                raise AdapterRefused(
                    f"The engine refuses {adapter.name} with {refusal.status}: {refusal}"
                ) from refusal

    async def _probe(self, adapter: Adapter, changes_output: bool) -> None:
        seen = await take_fingerprint(self.api, adapter.engine_name)
        if not adapter.version:
            self._base = seen
        elif changes_output:
            before = self._base or await take_fingerprint(self.api, BASE_ENGINE_NAME)
            self._base = await take_fingerprint(self.api, BASE_ENGINE_NAME)
            check_takes_part(seen, before, self._base)
        first = await self.rules.first_fingerprint(adapter, seen)
        compare(first, seen, tolerance_nats=self.rules.probe_tolerance_nats)

    def _fail(self, adapter: Adapter, reason: str, *, cost_engine: bool = False) -> None:
        before = self.held.get(adapter.adapter_id)
        failures = before.failures + 1 if before else 1
        pause = min(FIRST_RETRY_SECONDS * 2 ** min(failures - 1, 16), LONGEST_RETRY_SECONDS)
        self.held[adapter.adapter_id] = Held(
            "failed", reason, failures, time.monotonic() + pause, cost_engine
        )
        if before is None or before.detail != reason:
            logger.warning(
                "%s (%s) cannot be served by %s: %s", adapter.name, adapter.adapter_id, self.url, reason
            )
        self.rules.changed()


def by_urgency(adapters: Iterable[Adapter]) -> list[Adapter]:
    """The same versions, those that must not be missing first, and newer before older."""
    return sorted(adapters, key=lambda adapter: (URGENCY.index(adapter.state), -adapter.version))


def _is_same_directory(one: str, other: Path) -> bool:
    return Path(one).resolve() == other.resolve()
