"""Answer completions: authenticate, route, relay, record.

`Completions.create` is the whole path; everything it calls is one step of it. Streamed and whole answers take the same
road and differ in how the engine's bytes are passed on. The engine's request is aborted when its client leaves, and the
completion is in the spool before the client sees its end. Before the first byte of an answer another replica, an
earlier champion, or at last the upstream that the policy allows, steps in for one that fails; after it, failure is said
in the stream.
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
from serving.endpoints import CHAT, FAILED, Endpoint
from serving.engines import Connection, Engine, EngineError, EngineSilent, EngineUnreachable
from serving.errors import JSON, ApiError, Headers, engine_failed, engine_refused, not_ready, read_error
from serving.exchange import Reply, Request
from serving.limits import RateLimits
from serving.recorder import Recorder, Recording
from serving.routing import NobodyHolds, Route, RoutingTable, Version, choose_route
from serving.streaming import Rewriter, error_said, gave_up
from serving.upstream import SENT, Upstream, UpstreamAnswer

Answer = Connection | UpstreamAnswer

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


class Unanswered(Exception):
    """No engine answers this completion; `refusal` is why."""

    def __init__(self, recording: Recording, refusal: ApiError) -> None:
        super().__init__(refusal.message)
        self.recording = recording
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
        upstream: Upstream | None = None,
    ) -> None:
        self.upstream = upstream
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
            caller, allowance, asked = self._read(request)
            recording, answer = await self._ask(asked, caller, request.arrived)
            recording.allowance = allowance
        except ApiError as error:
            await reply.whole(error.status, [*error.headers, JSON], error.body(request.path))
            return
        relay = self._relay_stream if asked.stream else self._relay_whole
        try:
            await relay(recording, answer, reply)
        except asyncio.CancelledError:
            self.recorder.abort(recording, "before the end")
            raise
        except Exception:
            self.recorder.fail(
                recording, engine_failed("The gateway failed.", code="internal_error", status=500)
            )
            raise
        finally:
            answer.release()

    def _read(self, request: Request) -> tuple[Caller, Headers, Asked]:
        """Who asks, what their key still allows, and what they ask.

        Raises:
            ApiError: 4xx; nobody is asked.
        """
        try:
            caller = identify(credentials(request.headers), self.table.keys)
            allowance = self.limits.take(caller)
            return caller, allowance, read_asked(request, caller, self._pseudonym_secret)
        except ApiError as error:
            refusals = self.metrics.refusals
            refusals[error.status] = refusals.get(error.status, 0) + 1
            raise

    async def _ask(self, asked: Asked, caller: Caller, arrived: float) -> tuple[Recording, Answer]:
        """Put the question to replicas, and at last to the upstream, until one begins to answer.

        Raises:
            ApiError: none can, or the engine refuses the request.
        """
        try:
            return await self._ask_engines(asked, caller, arrived)
        except Unanswered as nobody:
            answered = await self._ask_upstream(nobody)
            if answered is None:
                self.recorder.fail(nobody.recording, nobody.refusal)
                raise nobody.refusal from nobody
            return answered

    async def _ask_engines(self, asked: Asked, caller: Caller, arrived: float) -> tuple[Recording, Answer]:
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
                raise Unanswered(recording, error) from error
            except asyncio.CancelledError:
                self.recorder.abort(recording, "before the answer began")
                raise

    async def _ask_upstream(self, nobody: Unanswered) -> tuple[Recording, Answer] | None:
        """Let the upstream answer in the place of a version that no engine can; None where it may not, or cannot."""
        route = self._upstream_route(nobody)
        if route is None or self.upstream is None:
            return None
        asked, caller = nobody.recording.asked, nobody.recording.caller
        recording = self._begin(asked, caller, route, nobody.recording.arrived)
        recording.sent = time.perf_counter()
        try:
            answer = await self.upstream.ask(asked, route.version.served_name)
        except EngineError as error:
            self._resting[route.engine] = time.monotonic() + REST_SECONDS
            nobody.refusal = nobody.refusal.with_more(f"The upstream could not answer either: {error}.")
            return None
        except asyncio.CancelledError:
            self.recorder.abort(recording, "before the answer began")
            raise
        if answer.status != 200:
            answer.release()
            nobody.refusal = nobody.refusal.with_more(
                f"The upstream refused, too, with status {answer.status}."
            )
            return None
        self.fallbacks += 1
        return recording, answer

    def _upstream_route(self, nobody: Unanswered) -> Route | None:
        asked, route = nobody.recording.asked, nobody.recording.route
        model = self.table.models.get((nobody.recording.caller.project, asked.model))
        if self.upstream is None or model is None or not model.upstream.enabled:
            return None
        name = model.upstream.model or self.upstream.model
        if name is None or asked.is_fallback or asked.endpoint not in SENT:
            return None
        if nobody.refusal.error_class != "infrastructure" or self.upstream.url in self._avoided():
            return None
        answers = Version("", route.version.model, None, name)
        meant = route.instead_of or route.version
        return Route(
            self.upstream.url, answers, policy_version=model.policy_version, instead_of=meant, propensity=1.0
        )

    def _decide(self, asked: Asked, caller: Caller, arrived: float) -> Recording:
        """Choose who answers, and begin to record it.

        Raises:
            ApiError: there is no such model.
            Unanswered: nobody can answer now.
        """
        try:
            route = choose_route(
                self.table, caller, asked.model, asked.unit, busy=self._busy, avoid=self._avoided()
            )
        except NobodyHolds as error:
            nowhere = self._begin(asked, caller, Route(NOWHERE, error.version), arrived)
            raise Unanswered(nowhere, error) from error
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
            refusal = await self._read_refusal(asked, answer)
        except EngineUnreachable as error:
            self._resting[route.engine] = time.monotonic() + REST_SECONDS
            self.suspect(route.engine, None)
            raise TryAnother(not_ready(f"{error}. Try again in a second.")) from error
        except EngineError as error:
            raise _broken(error) from error
        if answer.status == 404 and f"`{route.version.served_name}`" in refusal.message:
            # A replica that restarted has lost its adapters; until it has proven them again, it holds nothing.
            # Only where it says so: what else it does not know (a route, an earlier response) is no fault of theirs.
            self.suspect(route.engine, route.version.adapter_id)
            lost = f"{route.engine} does not hold '{route.version.name}' any more. Try again in a second."
            raise TryAnother(not_ready(lost))
        if answer.status == 503:
            self._resting[route.engine] = time.monotonic() + REST_SECONDS
            raise TryAnother(refusal)
        raise refusal

    async def _read_refusal(self, asked: Asked, answer: Connection) -> ApiError:
        try:
            return engine_refused(answer.status, await answer.read_whole(), asked.endpoint.path, asked.form())
        finally:
            answer.release()

    async def _relay_whole(self, recording: Recording, answer: Answer, reply: Reply) -> None:
        arrived = recording.sent
        try:
            body = await answer.read_whole()
            arrived = time.perf_counter()
            recording.take(body)
            failure = _given_up(recording.asked.endpoint, body)
        except EngineError as error:
            failure = _broken(error)
        if failure is not None:
            self.recorder.fail(recording, failure)
            body = failure.with_more("Send the request again.").body(recording.asked.endpoint.path)
            await reply.whole(failure.status, [*self._headers(recording), JSON], body)
            return
        body = _rewriter(recording).whole(body)
        self.recorder.keep(recording, "ok")
        await reply.whole(200, [*self._headers(recording, time.perf_counter() - arrived), JSON], body)

    async def _relay_stream(self, recording: Recording, answer: Answer, reply: Reply) -> None:
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
            failure = _broken(error)
        if (said := error_said(endpoint, recording.raw)) is not None:
            self.recorder.fail(recording, read_error(said))
            last += endpoint.closing
        elif failure is not None:
            self.recorder.fail(recording, failure)
            last += failure.event(endpoint) + endpoint.closing
        else:
            self.recorder.keep(recording, "ok")
            last += self._feedback_chunk(recording) + rewriter.held
        await reply.end(last)

    def _begin(self, asked: Asked, caller: Caller, route: Route, arrived: float) -> Recording:
        model = self.table.models[caller.project, route.version.model]
        consent = model.consent_default if asked.consent is None else asked.consent
        if route.version.version is None and not model.upstream.train:
            consent = False
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


def _failure(recording: Recording, rewriter: Rewriter) -> ApiError | None:
    """What is wrong with a stream that has ended."""
    if not rewriter.held:
        return engine_failed(f"{recording.route.engine} ended the stream before its end.")
    return _given_up(recording.asked.endpoint, recording.raw)


def _given_up(endpoint: Endpoint, raw: bytes | bytearray) -> ApiError | None:
    reason = gave_up(endpoint, raw)
    if reason is None:
        return None
    if reason in FAILED:
        return engine_failed("The engine could not finish this answer.", code="generation_failed")
    return engine_failed("The engine gave this answer up.", code="engine_gave_up")


def _broken(error: EngineError) -> ApiError:
    """What a client is told of an engine that broke off."""
    if isinstance(error, EngineSilent):
        return engine_failed(f"{error}.", code="engine_timeout", status=504)
    return engine_failed(f"{error}.")


def _rewriter(recording: Recording) -> Rewriter:
    asked, version = recording.asked, recording.route.version
    return Rewriter(
        asked.endpoint,
        served_name=version.served_name,
        name=version.name,
        hide_token_ids=asked.endpoint.tokens and not asked.wants_token_ids,
        hide_usage=asked.endpoint.tokens and asked.stream and not asked.wants_usage,
    )
