"""Answer completions: authenticate, route, relay, record.

`Completions.create` is the whole path; everything it calls is one step of it. Streamed and whole answers take the same
road and differ in how the engine's bytes are passed on. The engine's request is aborted when its client leaves, and the
completion is in the spool before the client sees its end. Before the first byte of an answer another replica, or an
earlier champion, steps in for one that fails; after it, failure is said in the stream.
"""

import asyncio
import time
from collections.abc import Callable, Collection
from typing import Any

import orjson

from feedback.tokens import shown, sign
from monitoring.metrics import RequestMetrics
from serving.asked import Asked, read_asked
from serving.auth import Caller, credentials, identify
from serving.endpoints import CHAT
from serving.engines import Connection, Engine, EngineError, EngineSilent, EngineUnreachable
from serving.errors import JSON, ApiError, Headers, engine_failed, engine_refused, not_ready
from serving.exchange import Reply, Request
from serving.limits import RateLimits
from serving.recorder import Recorder, Recording
from serving.routing import NobodyHolds, Route, RoutingTable, choose_route
from serving.streaming import Rewriter, says_error, was_abandoned

REST_SECONDS = 2.0
"""How long a replica that failed is passed over while another can answer."""

NOWHERE = ""
"""The engine of a completion that found none."""

EVENTS: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class TryAnother(Exception):
    """This replica cannot answer, but another, or an earlier version, may. Without one, `refusal` is the answer."""

    def __init__(self, refusal: ApiError) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


class Completions:
    """The relayed routes and what they share: the routing table of now, the replicas, the recorder.

    `suspect(engine, adapter_id)` is told when an engine does not know a version, or cannot be reached (None).
    """

    def __init__(
        self,
        *,
        engines: dict[str, Engine],
        suspect: Callable[[str, str | None], None],
        recorder: Recorder,
        metrics: RequestMetrics,
        pseudonym_secret: bytes,
        token_secret: bytes,
        token_lifetime_seconds: int,
        public_url: str | None = None,
    ) -> None:
        self.table = RoutingTable()
        self.engines = engines
        self.suspect = suspect
        self.recorder = recorder
        self.metrics = metrics
        self.limits = RateLimits()
        self.fallbacks = 0
        self._resting: dict[str, float] = {}
        self._pseudonym_secret = pseudonym_secret
        self._token_secret = token_secret
        self._token_lifetime_seconds = token_lifetime_seconds
        self._public_url = public_url

    async def create(self, request: Request, reply: Reply) -> None:
        """Answer one request; the whole path is on this screen."""
        try:
            caller = identify(credentials(request.headers), self.table.keys)
            allowance = self.limits.take(caller)
            asked = read_asked(request, caller, self._pseudonym_secret)
            recording, answer = await self._ask(asked, caller, request.arrived)
            recording.allowance = allowance
        except ApiError as error:
            await reply.whole(error.status, [*error.headers, JSON], error.body(request.path))
            return
        relay = self._relay_stream if asked.stream else self._relay_whole
        try:
            await relay(recording, answer, reply)
        except asyncio.CancelledError:
            self.recorder.keep(recording, "aborted", "The client left before the end.")
            raise
        finally:
            answer.release()

    async def _ask(self, asked: Asked, caller: Caller, arrived: float) -> tuple[Recording, Connection]:
        """Put the question to replicas until one begins to answer.

        Raises:
            ApiError: none can, or the engine refuses the request.
        """
        tried: dict[tuple[str, str], ApiError] = {}
        while True:
            recording = self._decide(asked, caller, arrived)
            place = (recording.route.engine, recording.route.version.adapter_id)
            try:
                if place in tried:
                    raise tried[place]
                return recording, await self._send(recording)
            except TryAnother as failed:
                tried[place] = failed.refusal
            except ApiError as error:
                if error.status >= 500:
                    self.recorder.keep(recording, "error", error.message)
                raise
            except asyncio.CancelledError:
                self.recorder.keep(recording, "aborted", "The client left before the answer began.")
                raise

    def _decide(self, asked: Asked, caller: Caller, arrived: float) -> Recording:
        """Choose who answers, and begin to record it.

        Raises:
            ApiError: there is no such model, or nobody who can answer now.
        """
        try:
            route = choose_route(
                self.table, caller, asked.model, asked.unit, busy=self._busy, avoid=self._avoided()
            )
        except NobodyHolds as error:
            nowhere = self._begin(asked, caller, Route(NOWHERE, error.version), arrived)
            self.recorder.keep(nowhere, "error", error.message)
            raise
        self.fallbacks += route.instead_of is not None
        return self._begin(asked, caller, route, arrived)

    async def _send(self, recording: Recording) -> Connection:
        asked, route = recording.asked, recording.route
        headers = [(b"x-request-id", asked.hex_id.encode())]
        if self.recorder.tracer is not None:
            recording.trace = self.recorder.tracer.begin(asked.traceparent, asked.hex_id)
            headers.append((b"traceparent", recording.trace.header))
        elif asked.traceparent is not None:
            headers.append((b"traceparent", asked.traceparent))
        body = asked.body_for(route.version.served_name)
        recording.sent = time.perf_counter()
        try:
            answer = await self.engines[route.engine].ask(
                asked.endpoint.path, headers, body, adapter=route.version.adapter_id
            )
            if answer.status == 200:
                return answer
            refusal = await self._read_refusal(asked.endpoint.path, answer)
        except EngineUnreachable as error:
            self._resting[route.engine] = time.monotonic() + REST_SECONDS
            self.suspect(route.engine, None)
            raise TryAnother(not_ready(f"{error}. Try again in a second.")) from error
        except EngineSilent as error:
            raise engine_failed(f"{error}.", code="engine_timeout", status=504) from error
        except EngineError as error:
            raise engine_failed(f"{error}.") from error
        if answer.status == 404 and f"`{route.version.served_name}`" in refusal.message:
            # A replica that restarted has lost its adapters; until it has proven them again, it holds nothing.
            # Only where it says so: what else it does not know (a route, an earlier response) is no fault of theirs.
            self.suspect(route.engine, route.version.adapter_id)
            raise TryAnother(refusal)
        if answer.status == 503:
            self._resting[route.engine] = time.monotonic() + REST_SECONDS
            raise TryAnother(refusal)
        raise refusal

    async def _read_refusal(self, path: bytes, answer: Connection) -> ApiError:
        try:
            return engine_refused(answer.status, await answer.read_whole(), path)
        finally:
            answer.release()

    async def _relay_whole(self, recording: Recording, answer: Connection, reply: Reply) -> None:
        try:
            body = await answer.read_whole()
            arrived = time.perf_counter()
            recording.take(body)
            if was_abandoned(recording.asked.endpoint, body):
                raise EngineError("The engine gave this answer up")
        except EngineError as error:
            self.recorder.keep(recording, "error", str(error))
            refusal = engine_failed(f"{error}. Send the request again.")
            body = refusal.body(recording.asked.endpoint.path)
            await reply.whole(refusal.status, [*self._headers(recording), JSON], body)
            return
        body = _rewriter(recording).whole(body)
        self.recorder.keep(recording, "ok")
        await reply.whole(200, [*self._headers(recording, time.perf_counter() - arrived), JSON], body)

    async def _relay_stream(self, recording: Recording, answer: Connection, reply: Reply) -> None:
        """Pass events on; the last ones wait until the completion is kept."""
        rewriter, endpoint, last = _rewriter(recording), recording.asked.endpoint, b""
        await reply.start(200, [*self._headers(recording), *EVENTS])
        try:
            while piece := await answer.read():
                recording.take(piece)
                last = rewriter.events(piece)
                if not rewriter.held:
                    await reply.write(last)
                    last = b""
            failure = _failure(recording, rewriter)
        except EngineError as error:
            failure = f"{error}"
        if says_error(endpoint, recording.raw):
            self.recorder.keep(recording, "error", "The engine failed during the answer.")
            last += endpoint.closing
        elif failure is not None:
            self.recorder.keep(recording, "error", failure)
            last += engine_failed(f"{failure}.").event(endpoint) + endpoint.closing
        else:
            self.recorder.keep(recording, "ok")
            last += self._feedback_chunk(recording) + rewriter.held
        await reply.end(last)

    def _begin(self, asked: Asked, caller: Caller, route: Route, arrived: float) -> Recording:
        model = self.table.models[caller.project, route.version.model]
        consent = model.consent_default if asked.consent is None else asked.consent
        series = self.metrics.of(caller.project, route.version.name, route.arm)
        return Recording(asked, caller, route, consent, series, arrived, model.privacy)

    def _headers(self, recording: Recording, after_seconds: float = 0.0) -> Headers:
        """What every answer says of itself; `overhead` is this gateway's own time, the network's excluded."""
        asked, route = recording.asked, recording.route
        overhead = (recording.sent - recording.arrived + after_seconds) * 1000
        headers = [
            (b"x-hone-request-id", asked.completion_id.encode()),
            (b"x-hone-model-version", route.version.name.encode()),
            (b"x-hone-overhead-ms", b"%.2f" % overhead),
            *recording.allowance,
        ]
        if asked.endpoint.recorded:
            headers.append((b"x-hone-feedback-token", self._token(recording)[0].encode()))
        if route.instead_of is not None:
            headers.append((b"x-hone-fallback-for", route.instead_of.name.encode()))
        if route.experiment_id is not None and route.arm is not None:
            headers.append((b"x-hone-experiment", route.experiment_id.encode()))
            headers.append((b"x-hone-arm", route.arm.encode()))
        return headers

    def _token(self, recording: Recording) -> tuple[str, int]:
        """The answer's feedback token, and when it expires in Unix seconds."""
        asked, expires = recording.asked, int(recording.created_at.timestamp()) + self._token_lifetime_seconds
        project = recording.caller.project
        return sign(self._token_secret, asked.completion_id, project, asked.rater, expires), expires

    def _feedback_chunk(self, recording: Recording) -> bytes:
        """The token as a chunk without choices, before the end of a stream that asked for it."""
        asked = recording.asked
        if not asked.wants_feedback or not asked.endpoint.tokens:
            return b""
        chunk: dict[str, Any] = {
            "id": asked.completion_id,
            "object": "chat.completion.chunk" if asked.endpoint is CHAT else "text_completion",
            "created": int(recording.created_at.timestamp()),
            "model": recording.route.version.name,
            "choices": [],
            "hone": {"feedback": shown(*self._token(recording), self._public_url)},
        }
        return b"data: " + orjson.dumps(chunk) + b"\n\n"

    def _busy(self, engine: str) -> int:
        return self.engines[engine].busy

    def _avoided(self) -> Collection[str]:
        if self._resting:
            now = time.monotonic()
            self._resting = {engine: until for engine, until in self._resting.items() if until > now}
        return self._resting


def _failure(recording: Recording, rewriter: Rewriter) -> str | None:
    """What is wrong with a stream that has ended."""
    if not rewriter.held:
        return f"{recording.route.engine} ended the stream before its end"
    abandoned = was_abandoned(recording.asked.endpoint, recording.raw)
    return "The engine gave this answer up" if abandoned else None


def _rewriter(recording: Recording) -> Rewriter:
    asked, version = recording.asked, recording.route.version
    return Rewriter(
        asked.endpoint,
        served_name=version.served_name,
        name=version.name,
        hide_token_ids=asked.endpoint.tokens and not asked.wants_token_ids,
        hide_usage=asked.endpoint.tokens and asked.stream and not asked.wants_usage,
    )
