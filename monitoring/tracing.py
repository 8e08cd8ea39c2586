"""Send spans to an OpenTelemetry collector, without ever making an answer wait, and without a word of what was said.

A span is handed over and forgotten; a task sends batches as OTLP over HTTP, in JSON. A full queue, or a collector that
is away, costs spans, counted in `lost`, never answers. Trace context is W3C's: a trace that the client began goes on,
one that begins here has the completion's own id, so a completion is found in the traces without a look-up.

Sources: OpenTelemetry protocol 1.x (OTLP/HTTP, JSON), W3C Trace Context, OpenTelemetry's GenAI semantic conventions.
"""

import asyncio
import logging
import os
import re
from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeAlias

import httpx
import orjson

logger = logging.getLogger(__name__)

TRACEPARENT = re.compile(rb"00-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})")
SAMPLED = 1
SPANS_MAX = 4096
BATCH_SPANS = 512
PAUSE_SECONDS = 1.0
SEND_SECONDS = 10.0
SERVER = 2
ERROR = 2

Value: TypeAlias = str | int | float | bool


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Where a span is in its trace. `parent` is the client's span, None where the trace begins here."""

    trace_id: str
    span_id: str
    parent: str | None
    sampled: bool

    @property
    def header(self) -> bytes:
        """The `traceparent` of whatever is called from this span."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}".encode()


@dataclass(frozen=True, slots=True)
class Span:
    """One finished piece of work; moments are nanoseconds since 1970."""

    context: TraceContext
    name: str
    began: int
    ended: int
    attributes: Mapping[str, Value | None]
    error: str | None = None


class Tracer:
    """Begins traces, and sends the spans of those that are sampled."""

    def __init__(self, url: str, *, share: float = 1.0, service: str = "hone-gateway") -> None:
        self.url = url
        self.lost = 0
        self._limit = round(share * 0x1_0000_0000)
        self._service = service
        self._waiting: deque[Span] = deque()

    def begin(self, traceparent: bytes | None, trace_id: str) -> TraceContext:
        """Go on with the client's trace, as it decided about sampling, or begin one with this id (32 hex digits)."""
        span_id = os.urandom(8).hex()
        match = TRACEPARENT.fullmatch(traceparent) if traceparent else None
        if match is not None and int(match["trace"], 16) and int(match["span"], 16):
            sampled = bool(int(match["flags"], 16) & SAMPLED)
            return TraceContext(match["trace"].decode(), span_id, match["span"].decode(), sampled)
        return TraceContext(trace_id, span_id, None, int(trace_id[-8:], 16) < self._limit)

    def keep(self, span: Span) -> None:
        """Take a finished span."""
        if not span.context.sampled:
            return
        if len(self._waiting) >= SPANS_MAX:
            self.lost += 1
            return
        self._waiting.append(span)

    async def run(self) -> None:
        """Send until cancelled, and then what is left."""
        async with httpx.AsyncClient(timeout=SEND_SECONDS) as client:
            try:
                while True:
                    await asyncio.sleep(PAUSE_SECONDS)
                    await self._flush(client)
            finally:
                with suppress(Exception):
                    await self._flush(client)

    async def _flush(self, client: httpx.AsyncClient) -> None:
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(BATCH_SPANS, len(self._waiting)))]
            try:
                answer = await client.post(
                    self.url, content=self._encode(batch), headers={"content-type": "application/json"}
                )
                answer.raise_for_status()
            except httpx.HTTPError as error:
                if not self.lost:
                    logger.warning("The collector at %s does not take spans: %r", self.url, error)
                self.lost += len(batch)
                return

    def _encode(self, spans: list[Span]) -> bytes:
        resource = {"attributes": _attributes({"service.name": self._service})}
        scope = {"scope": {"name": "hone"}, "spans": [_span(span) for span in spans]}
        return orjson.dumps({"resourceSpans": [{"resource": resource, "scopeSpans": [scope]}]})


def _span(span: Span) -> dict[str, Any]:
    status = {"code": ERROR, "message": span.error} if span.error is not None else {}
    parent = {"parentSpanId": span.context.parent} if span.context.parent else {}
    return {
        "traceId": span.context.trace_id,
        "spanId": span.context.span_id,
        **parent,
        "name": span.name,
        "kind": SERVER,
        # JSON numbers end at 2^53, so OTLP writes nanoseconds as text.
        "startTimeUnixNano": str(span.began),
        "endTimeUnixNano": str(span.ended),
        "attributes": _attributes(span.attributes),
        "status": status,
    }


def _attributes(values: Mapping[str, Value | None]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in values.items() if value is not None]


def _value(value: Value) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    return {"doubleValue": value} if isinstance(value, float) else {"stringValue": value}
