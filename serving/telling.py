"""A line in the gateway's log about one completion: which, how it ended, whose failure it was.

Its texts are not in it unless the settings ask for that.
"""

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from monitoring.failures import ErrorClass
from monitoring.settings import MonitoringSettings
from monitoring.tracing import TRACEPARENT

if TYPE_CHECKING:
    from serving.recorder import Latency, Recording

logger = logging.getLogger(__name__)

STATUSES = {"failed": ("error", "aborted"), "all": ("ok", "error", "aborted"), "none": ()}


@dataclass(frozen=True, slots=True)
class Telling:
    """Of which completions a line is written, and whether their texts are in it."""

    statuses: tuple[str, ...] = ()
    texts: bool = False

    @classmethod
    def of(cls, settings: MonitoringSettings) -> Self:
        """As the settings say."""
        return cls(STATUSES[settings.log_completions], settings.log_texts)


NOTHING_TOLD = Telling()


def tell(
    recording: "Recording",
    status: str,
    error_class: ErrorClass | None,
    seconds: "Latency",
    *,
    texts: bool,
) -> None:
    """Write the line. What is the caller's own doing is no warning."""
    asked, route = recording.asked, recording.route
    known: dict[str, Any] = {
        "completion_id": asked.completion_id,
        "trace_id": _trace_id(recording),
        "project": recording.caller.project,
        "model_version": route.version.name,
        "instead_of": route.instead_of.name if route.instead_of is not None else None,
        "arm": route.arm,
        "engine": route.engine or None,
        "status": status,
        "error_class": error_class,
        "duration_seconds": round(seconds["duration_seconds"], 4),
    }
    if texts:
        known["asked"] = asked.body_as_asked().decode(errors="replace")
        known["answered"] = recording.raw.decode(errors="replace")
    level = logging.INFO if error_class in (None, "caller") else logging.WARNING
    extra = {name: value for name, value in known.items() if value is not None}
    logger.log(level, "completion %s", status, extra=extra)


def _trace_id(recording: "Recording") -> str | None:
    if recording.trace is not None:
        return recording.trace.trace_id
    match = TRACEPARENT.fullmatch(recording.asked.traceparent or b"")
    return match["trace"].decode() if match is not None else None
