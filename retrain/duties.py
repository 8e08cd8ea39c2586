"""What the leader does besides training: roll out, watch champions and traffic, alert people, clean up."""

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import structlog

from feedback.database import Database
from monitoring import alerts
from monitoring.deliveries import deliver, senders
from monitoring.settings import MonitoringSettings
from retrain import (
    champion_watch,
    drift_child,
    null_adapter,
    rollout,
    search_child,
    shadow,
    version_retention,
)
from retrain.settings import RetrainSettings

log = structlog.get_logger(__name__)


class Duty(NamedTuple):
    """Something to do every so many seconds."""

    name: str
    seconds: float
    work: Callable[[], Awaitable[Any]]


def watching(database: Database, state_dir: Path, settings: RetrainSettings) -> list[Duty]:
    """Every duty about versions that are, or were, in service.

    Raises:
        HoneError: a channel for alerts is not configured as it must be.
    """
    often, seldom = settings.worker_tick_seconds, settings.watch_interval_seconds
    channels = senders(MonitoringSettings.load())
    published = state_dir / "adapters"
    return [
        Duty("rollouts", often, partial(_say, rollout.tick, database)),
        Duty("null adapters", often, partial(_say, null_adapter.tick, database, published)),
        Duty("champions", seldom, partial(_say, champion_watch.tick, database)),
        Duty("drift", settings.drift_interval_seconds, partial(_say, drift_child.look, database, state_dir)),
        Duty(
            "searches",
            often,
            partial(_say, search_child.look, database, state_dir, settings.training_threads),
        ),
        Duty("shadow", seldom, partial(_say, shadow.tick, database, settings)),
        Duty("alerts", seldom, partial(_say, alerts.tick, database, list(channels))),
        Duty("deliveries", often, partial(_say, deliver, database, channels)),
        Duty("version files", seldom, partial(_say, version_retention.tick, database, published)),
    ]


async def _say(work: Callable[..., Awaitable[list[str]]], *arguments: Any) -> None:
    """Log each sentence that the work returns."""
    for sentence in await work(*arguments):
        log.info("watching", did=sentence)
