"""Answer completions: authenticate, route, relay, record.

`Completions.create` is the whole path; everything it calls is one step of it. Streamed and whole answers take the same
road and differ in how the engine's bytes are passed on. The engine's request is aborted when its client leaves, and the
completion is in the spool before the client sees its end. Before the first byte of an answer another replica, or an
earlier champion, steps in for one that fails; after it, failure is said in the stream.
"""

import asyncio
import time
from collections.abc import Callable, Collection

from feedback.tokens import sign
from monitoring.metrics import RequestMetrics
from serving.asked import Asked, read_asked
from serving.auth import Caller, identify
from serving.engines import Connection, Engine, EngineError, EngineSilent, EngineUnreachable
from serving.errors import JSON, ApiError, Headers, engine_failed, engine_refused, not_ready
from serving.exchange import Reply, Request
from serving.limits import RateLimits
from serving.recorder import Recorder, Recording
from serving.routing import Route, RoutingTable, choose_route
from serving.streaming import DONE, Rewriter, says_error, was_abandoned

REST_SECONDS = 2.0
"""How long a replica that failed is passed over while another can answer."""

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
    ) -> None:
        self.table = RoutingTable()
        self.engines = engines
        self.suspect = suspect
        self.recorder = recorder
        self.metrics = metrics
        self.limits = RateLimits()
        self._resting: dict[str, float] = {}
        self._pseudonym_secret = pseudonym_secret
        self._token_secret = token_secret
        self._token_lifetime_seconds = token_lifetime_seconds

    async def create(self, request: Request, reply: Reply) -> None:
        """Answer one request; the whole path is on this screen."""
        try:
            caller = identify(request.headers.get(b"authorization"), self.table.keys)
            allowance = self.limits.take(caller)
            asked = read_asked(request, caller, self._pseudonym_secret)
            recording, answer = await self._ask(asked, caller, request.arrived)
            recording.allowance = allowance
        except ApiError as error:
            await reply.whole(error.status, [*error.headers, JSON], error.body())
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
            route = choose_route(
                self.table, caller, asked.model, asked.unit, busy=self._busy, avoid=self._avoided()
            )
            place = (route.engine, route.version.adapter_id)
            if place in tried:
                raise tried[place]
            recording = self._begin(asked, caller, route, arrived)
            try:
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

    async def _send(self, recording: Recording) -> Connection:
        asked, route = recording.asked, recording.route
        headers = [(b"x-request-id", asked.hex_id.encode())]
        if asked.traceparent is not None:
            headers.append((b"traceparent", asked.traceparent))
        body = asked.body_for(route.version.served_name)
        recording.sent = time.perf_counter()
        try:
            answer = await self.engines[route.engine].ask(
                asked.path, headers, body, adapter=route.version.adapter_id
            )
            if answer.status == 200:
                return answer
            refusal = await self._read_refusal(answer)
        except EngineUnreachable as error:
            self._resting[route.engine] = time.monotonic() + REST_SECONDS
            self.suspect(route.engine, None)
            raise TryAnother(not_ready(f"{error}. Try again in a second.")) from error
        except EngineSilent as error:
            raise engine_failed(f"{error}.", code="engine_timeout", status=504) from error
        except EngineError as error:
            raise engine_failed(f"{error}.") from error
        if answer.status == 404:
            # A replica that restarted has lost its adapters; until it has proven them again, it holds nothing.
            self.suspect(route.engine, route.version.adapter_id)
            raise TryAnother(refusal)
        if answer.status == 503:
            self._resting[route.engine] = time.monotonic() + REST_SECONDS
            raise TryAnother(refusal)
        raise refusal

    async def _read_refusal(self, answer: Connection) -> ApiError:
        try:
            return engine_refused(answer.status, await answer.read_whole())
        finally:
            answer.release()

    async def _relay_whole(self, recording: Recording, answer: Connection, reply: Reply) -> None:
        try:
            body = await answer.read_whole()
            arrived = time.perf_counter()
            recording.take(body)
            if was_abandoned(body):
                raise EngineError("The engine gave this answer up")
        except EngineError as error:
            self.recorder.keep(recording, "error", str(error))
            refusal = engine_failed(f"{error}. Send the request again.")
            await reply.whole(refusal.status, [*self._headers(recording), JSON], refusal.body())
            return
        body = _rewriter(recording).whole(body)
        self.recorder.keep(recording, "ok")
        await reply.whole(200, [*self._headers(recording, time.perf_counter() - arrived), JSON], body)

    async def _relay_stream(self, recording: Recording, answer: Connection, reply: Reply) -> None:
        rewriter = _rewriter(recording)
        failure, last = None, b""
        await reply.start(200, [*self._headers(recording), *EVENTS])
        try:
            while piece := await answer.read():
                recording.take(piece)
                last = rewriter.events(piece)
                if not rewriter.done:
                    await reply.write(last)
            if not rewriter.done:
                failure, last = f"{recording.route.engine} ended the stream before its end", b""
            elif was_abandoned(recording.end()):
                failure = "The engine gave this answer up"
        except EngineError as error:
            failure, last = f"{error}", b""
        if failure is None and not says_error(recording.end()):
            self.recorder.keep(recording, "ok")
        else:
            self.recorder.keep(recording, "error", failure or "The engine failed during the answer.")
            last += engine_failed(f"{failure}.").event() if failure else b""
        await reply.end(last + DONE)

    def _begin(self, asked: Asked, caller: Caller, route: Route, arrived: float) -> Recording:
        consent = asked.consent
        if consent is None:
            consent = self.table.models[caller.project, route.version.model].consent_default
        series = self.metrics.of(caller.project, route.version.name, route.arm)
        return Recording(asked, caller, route, consent, series, arrived)

    def _headers(self, recording: Recording, after_seconds: float = 0.0) -> Headers:
        """What every answer says of itself; `overhead` is this gateway's own time, the network's excluded."""
        asked, route, project = recording.asked, recording.route, recording.caller.project
        expires = int(recording.created_at.timestamp()) + self._token_lifetime_seconds
        token = sign(self._token_secret, asked.completion_id, project, asked.rater, expires)
        overhead = (recording.sent - recording.arrived + after_seconds) * 1000
        headers = [
            (b"x-hone-request-id", asked.completion_id.encode()),
            (b"x-hone-model-version", route.version.name.encode()),
            (b"x-hone-feedback-token", token.encode()),
            (b"x-hone-overhead-ms", b"%.2f" % overhead),
            *recording.allowance,
        ]
        if route.experiment_id is not None and route.arm is not None:
            headers.append((b"x-hone-experiment", route.experiment_id.encode()))
            headers.append((b"x-hone-arm", route.arm.encode()))
        return headers

    def _busy(self, engine: str) -> int:
        return self.engines[engine].busy

    def _avoided(self) -> Collection[str]:
        if self._resting:
            now = time.monotonic()
            self._resting = {engine: until for engine, until in self._resting.items() if until > now}
        return self._resting


def _rewriter(recording: Recording) -> Rewriter:
    asked, version = recording.asked, recording.route.version
    return Rewriter(
        served_name=version.served_name,
        name=version.name,
        hide_token_ids=not asked.wants_token_ids,
        hide_usage=asked.stream and not asked.wants_usage,
    )
