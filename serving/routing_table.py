"""Read the routing table from the record, and keep it current.

`hone_registry` notifications bring a change within milliseconds; a timer brings what a lost notification would have
brought. While the database is away the last table goes on serving.
"""

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

from feedback import adapters, allocations, engines, experiments, fine_tuning, keys, models
from feedback.adapters import CONTROL, Adapter
from feedback.database import REGISTRY_CHANNEL, Database
from feedback.models import Model
from serving.auth import Caller
from serving.routing import Arm, Experiment, ModelRoute, RoutingTable, Slice, Version

logger = logging.getLogger(__name__)

RECONNECT_SECONDS = 1.0
CATCH_UP_SECONDS = 2.0
FALLBACKS = {"base": ("earlier_champions", "base"), "earlier": ("earlier_champions",)}
"""Under which policies the base model, and earlier champions, stand in for a champion that nobody holds."""


async def load_table(database: Database, engine_urls: Iterable[str]) -> RoutingTable:
    """The table as the record has it now, for a gateway that knows the replicas `engine_urls`."""
    async with database.begin() as connection:
        known_keys = await keys.active(connection)
        known_models = await models.every(connection)
        known_adapters = await adapters.every(connection)
        running = await experiments.running(connection)
        standing = await engines.ready(connection)
        tuned = await fine_tuning.named(connection)
        shared_out = await allocations.newest(
            connection, [one.experiment_id for one in running if one.allocation is not None]
        )
    reachable = set(engine_urls)
    holders: dict[str, tuple[str, ...]] = defaultdict(tuple)
    for held in standing:
        if held.engine in reachable:
            holders[held.adapter_id] += (held.engine,)
    named = {(model.project, model.model): model for model in known_models}
    by_model: dict[tuple[str, str], list[Adapter]] = defaultdict(list)
    for adapter in known_adapters:
        by_model[adapter.project, adapter.model].append(adapter)
    by_id = {adapter.adapter_id: _version(adapter) for adapter in known_adapters}
    splits = {(experiment.project, experiment.model): experiment for experiment in running}
    return RoutingTable(
        keys={
            key.key_hash: Caller(key.key_id, key.project, key.role, key.requests_per_minute)
            for key in known_keys
        },
        models={
            place: _model_route(model, by_model[place], splits.get(place), shared_out)
            for place, model in named.items()
            if any(adapter.state == "champion" for adapter in by_model[place])
        },
        holders=dict(holders),
        fine_tuned={
            (one.project, one.name): by_id[one.adapter_id] for one in tuned if one.adapter_id in by_id
        },
    )


SharedOut: TypeAlias = Mapping[str, Mapping[allocations.Slice, allocations.Allocation]]


def _model_route(
    model: Model, versions: list[Adapter], running: experiments.Experiment | None, shared_out: SharedOut
) -> ModelRoute:
    named = {adapter.adapter_id: _version(adapter) for adapter in versions}
    champion = next(adapter for adapter in versions if adapter.state == "champion")
    return ModelRoute(
        project=model.project,
        model=model.model,
        champion=named[champion.adapter_id],
        fallbacks=tuple(
            _version(adapter)
            for adapter in _earlier_champions(champion, versions)
            if model.policy.rollout.fallbacks in FALLBACKS["base" if not adapter.version else "earlier"]
        ),
        experiment=_experiment(running, named, shared_out) if running else None,
        versions={
            adapter.version: _version(adapter)
            for adapter in versions
            if adapter.state not in ("rejected", CONTROL)
        },
        consent_default=model.policy.consent_default,
        policy_version=model.policy.version,
        privacy=model.policy.privacy,
        feedback=model.policy.feedback,
        upstream=model.policy.upstream,
        created_at=int(model.created_at.timestamp()),
    )


def _earlier_champions(champion: Adapter, versions: list[Adapter]) -> list[Adapter]:
    """Newest reign first; the base model, which every replica has, comes last."""
    retired = [adapter for adapter in versions if adapter.state == "retired" and adapter.version]
    retired.sort(
        key=lambda adapter: (adapter.adapter_id == champion.replaces, adapter.updated_at), reverse=True
    )
    return [*retired, *(adapter for adapter in versions if not adapter.version and adapter is not champion)]


def _version(adapter: Adapter) -> Version:
    # A null adapter answers as the base model does, so that is who answers.
    return Version(adapter.adapter_id, adapter.model, max(adapter.version, 0), adapter.engine_name)


def _experiment(
    running: experiments.Experiment, named: dict[str, Version], shared_out: SharedOut
) -> Experiment:
    # The champion's arm comes first: the others are laid out from zero upwards (see choose_arm).
    arms = [running.arm(experiments.CHAMPION_ARM), *running.candidates]
    return Experiment(
        running.experiment_id,
        running.salt,
        tuple(Arm(arm.arm, named[arm.adapter_id], arm.weight) for arm in arms),
        tuple(_slices(running, shared_out.get(running.experiment_id, {}))),
    )


def _slices(
    running: experiments.Experiment, newest: Mapping[allocations.Slice, allocations.Allocation]
) -> Iterator[Slice]:
    """The uniform one first: it takes the lower end of the hash that tells them apart."""
    parts = {"uniform": running.uniform_share, "adaptive": 1.0 - running.uniform_share}
    for name in allocations.SLICES:
        if (one := newest.get(name)) is not None:
            yield Slice(one.allocation, parts[name], one.pieces, one.shares)


class TableKeeper:
    """Loads the table, and loads it again when the registry changes."""

    def __init__(
        self,
        database: Database,
        engine_urls: Iterable[str],
        publish: Callable[[RoutingTable], None],
        *,
        refresh_seconds: float,
    ) -> None:
        self.database = database
        self.engine_urls = tuple(engine_urls)
        self.refresh_seconds = refresh_seconds
        self.last_error: str | None = None
        self._publish = publish
        self._changed = asyncio.Event()
        # Two loads at once could end in the other order, and the older table would take the newer one's place.
        self._one_at_a_time = asyncio.Lock()

    async def refresh(self) -> None:
        """Load and publish the table now."""
        async with self._one_at_a_time:
            self._publish(await load_table(self.database, self.engine_urls))

    async def catch_up(self) -> None:
        """Return once every change committed before this call is routed by, or after CATCH_UP_SECONDS.

        Never raises: the change is committed whether or not it can be read back now, and a refresh soon is asked for.
        """
        try:
            async with asyncio.timeout(CATCH_UP_SECONDS):
                await self.refresh()
        except Exception as error:
            logger.warning("A change is committed and not routed by yet: %s", str(error) or "it timed out")
            self.changed()

    def changed(self) -> None:
        """Ask for a refresh soon; many changes at once cost one."""
        self._changed.set()

    async def run(self) -> None:
        """Keep the table current until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listen())
            group.create_task(self._refresh_for_ever())

    async def _refresh_for_ever(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self.refresh_seconds):
                    await self._changed.wait()
            except TimeoutError:
                pass
            self._changed.clear()
            try:
                await self.refresh()
            except Exception as error:
                if self.last_error is None:
                    logger.warning("The registry cannot be read; the last routing table goes on: %s", error)
                self.last_error = f"{error}"
            else:
                self.last_error = None

    async def _listen(self) -> None:
        while True:
            try:
                async for _ in self.database.listen(REGISTRY_CHANNEL):
                    self.changed()
            except Exception as error:
                logger.debug("Listening for registry changes ended: %s", error)
            self.changed()
            await asyncio.sleep(RECONNECT_SECONDS)
