"""Keep every completion, and never make an answer wait for the database.

`Recorder.keep` writes a finished completion to the spool, as bytes: what was asked, what the engine answered, and a
small head of what the gateway knows. The handler calls it before it sends the last bytes, so a client that saw the end
of an answer finds it in the record, whatever is killed next. `serving.drain` makes rows of it, later.

A full disk or spool, or text that the model's policy wants redacted and that cannot be, costs records, counted in
`lost`, never answers.
"""

import logging
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypedDict

import orjson

from feedback.errors import HoneError
from feedback.privacy_policy import NOTHING_REDACTED, PrivacyPolicy
from monitoring.failures import ErrorClass
from monitoring.metrics import Series
from monitoring.tracing import TraceContext, Tracer
from serving.asked import Asked
from serving.auth import Caller
from serving.errors import ApiError, Headers
from serving.redaction import pack
from serving.routing import Route
from serving.spans import span_of
from serving.spool import Spool, SpoolFull
from serving.streaming import count_tokens
from serving.telling import NOTHING_TOLD, Telling, tell

logger = logging.getLogger(__name__)

WARN_SECONDS = 60.0


Head = dict[str, Any]


class Latency(TypedDict):
    """How long one completion took, under the record's names."""

    time_to_first_token_seconds: float | None
    time_per_output_token_seconds: float | None
    duration_seconds: float


@dataclass(slots=True)
class Recording:
    """One completion while it is being answered.

    `arrived`, `sent` and `first` are moments of `time.perf_counter()`: the request is here, it goes on to the
    engine, the first bytes of the answer are here. `allowance` are the headers about the key's rate limit.
    """

    asked: Asked
    caller: Caller
    route: Route
    consent: bool
    series: Series
    arrived: float
    privacy: PrivacyPolicy = NOTHING_REDACTED
    allowance: Headers = field(default_factory=list)
    sent: float = 0.0
    first: float | None = None
    created_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    raw: bytearray = field(default_factory=bytearray)
    kept: bool = False
    trace: TraceContext | None = None

    def take(self, piece: bytes) -> None:
        """Keep what the engine just sent."""
        if self.first is None:
            self.first = time.perf_counter()
        self.raw += piece

    def head(self, status: str, error: str | None = None, error_class: ErrorClass | None = None) -> Head:
        """What the gateway knows of the completion, under the record's names."""
        asked, route, version = self.asked, self.route, self.route.version
        head: Head = {
            "completion_id": asked.completion_id,
            "project": self.caller.project,
            "model": version.model,
            "adapter_id": version.adapter_id or None,
            "version": version.version,
            "experiment_id": route.experiment_id,
            "arm": route.arm,
            "propensity": route.propensity,
            "allocation": route.allocation,
            "policy_version": route.policy_version,
            "unit": asked.unit,
            "rater": asked.rater,
            "session": asked.session,
            "key_id": self.caller.key_id,
            "engine": route.engine,
            "endpoint": asked.endpoint.path.decode(),
            "consent": self.consent,
            "status": status,
            "error": error,
            "metadata": asked.metadata,
            "request": orjson.Fragment(asked.body_as_asked()),
            "created_at": self.created_at,
        }
        if error_class is not None:
            head["error_class"] = error_class
            if error_class == "caller" and status == "error":
                # Nobody learns from a question that was refused, and whoever repeats it must not fill the disk.
                head["request"] = asked.own
        if version.version is None:
            head["upstream"] = version.served_name
        if route.instead_of is not None:
            head["fallback_for"] = route.instead_of.version
        return head

    def measure(self, output_tokens: int) -> Latency:
        """Latencies up to now, in seconds; those of tokens are known of streams only."""
        duration = time.perf_counter() - self.arrived
        to_first = self.first - self.arrived if self.asked.stream and self.first is not None else None
        many = to_first is not None and output_tokens > 1
        per_token = (duration - (to_first or 0.0)) / (output_tokens - 1) if many else None
        return {
            "time_to_first_token_seconds": to_first,
            "time_per_output_token_seconds": per_token,
            "duration_seconds": duration,
        }


class Recorder:
    """Writes finished completions to the spool and counts them."""

    def __init__(self, spool: Spool, tracer: Tracer | None = None, telling: Telling = NOTHING_TOLD) -> None:
        self.spool = spool
        self.tracer = tracer
        self.telling = telling
        self.kept = 0
        self.lost = 0
        self._warned_at = float("-inf")

    def fail(self, recording: Recording, error: ApiError) -> None:
        """Keep a completion that failed."""
        self.keep(recording, "error", error.message, error.error_class)

    def abort(self, recording: Recording, when: str) -> None:
        """Keep a completion whose client left."""
        self.keep(recording, "aborted", f"The client left {when}.", "caller")

    def keep(
        self,
        recording: Recording,
        status: str,
        error: str | None = None,
        error_class: ErrorClass | None = None,
    ) -> None:
        """Make one completion safe; `status` is `ok`, `error` or `aborted`. A second call changes nothing."""
        if recording.kept:
            return
        recording.kept = True
        endpoint = recording.asked.endpoint
        prompt_tokens, tokens = count_tokens(endpoint, recording.raw)
        seconds = recording.measure(tokens)
        recording.series.finished(
            status, tokens, **seconds, error_class=error_class, prompt_tokens=prompt_tokens
        )
        if self.tracer is not None and recording.trace is not None:
            self.tracer.keep(span_of(recording, recording.trace, status, tokens, seconds))
        if status in self.telling.statuses:
            tell(recording, status, error_class, seconds, texts=self.telling.texts)
        if not endpoint.recorded:
            return
        head = {**recording.head(status, error, error_class), **seconds}
        try:
            kind, parts = pack(head, recording.raw, recording.privacy)
            self.spool.append(kind, *parts)
        except SpoolFull as full:
            self._lose(recording.asked.completion_id, full)
        except Exception as error:
            # What cannot be redacted must neither be written down, here or in a log, nor take the answer with it.
            if recording.privacy.redaction != "everything":
                raise
            reason = (
                error if isinstance(error, HoneError) else f"It cannot be redacted ({type(error).__name__})."
            )
            self._lose(recording.asked.completion_id, reason)
        else:
            self.kept += 1

    def _lose(self, completion_id: str, reason: object) -> None:
        self.lost += 1
        now = time.monotonic()
        if now - self._warned_at > WARN_SECONDS:
            self._warned_at = now
            logger.error(
                "%s Completion %s and %d before it are not recorded.",
                reason,
                completion_id,
                self.lost - 1,
                extra={"completion_id": completion_id},
            )
