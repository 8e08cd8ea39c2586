"""Ask an OpenAI-compatible API elsewhere, while no engine of ours can answer.

Its answer is put into the words of our engines before anybody sees it: our id, our name, compact JSON; so everything
behind it (relay, record, token counts) is the same. It is sent what OpenAI's API knows of the question and nothing
about who asked: no rater, no metadata, no ids of ours, and no wish that it keep anything.

Refuses to take part in a circle: a request that is itself somebody's fallback never falls back again, so gateways that
are each other's upstream answer 503 and do not pass it round. Refuses embeddings (vectors of two models cannot be
compared) and the Responses and Messages APIs. What the upstream says when it refuses stays here: it may hold its key.
"""

from typing import Any
from urllib.parse import urlsplit

import orjson

from feedback.errors import HoneError
from serving.asked import Asked
from serving.endpoints import CHAT, DONE, TEXT
from serving.engines import Connection, Engine, EngineError, Timeouts
from serving.settings import ServingSettings

HOP = b"x-hone-hop"
"""Header of a request that one Hone sends another as its upstream."""

_BOTH = (
    "frequency_penalty", "logit_bias", "logprobs", "max_tokens", "n", "presence_penalty", "seed", "stop", "temperature",
    "top_p",
)  # fmt: skip
_CHAT = (
    "audio", "function_call", "functions", "max_completion_tokens", "messages", "modalities", "parallel_tool_calls",
    "prediction", "reasoning_effort", "response_format", "tool_choice", "tools", "top_logprobs", "verbosity",
)  # fmt: skip
SENT = {CHAT: {*_BOTH, *_CHAT}, TEXT: {*_BOTH, "best_of", "echo", "prompt", "suffix"}}
"""What is sent of a question: OpenAI's API refuses a request with fields it does not know."""

SELF = ("127.0.0.1", "localhost", "::1", "0.0.0.0", "::")
EVENT_BYTES_MAX = 4 * 1024 * 1024


class Upstream:
    """The one API that this gateway may ask."""

    def __init__(self, engine: Engine, model: str | None = None) -> None:
        self.engine = engine
        self.model = model

    @property
    def url(self) -> str:
        """Where it is."""
        return self.engine.url

    async def ask(self, asked: Asked, model: str) -> "UpstreamAnswer":
        """Put the question to it; the answer's status is here when this returns. Release what you get.

        Raises:
            EngineError: it cannot be reached, or said nothing in time.
        """
        path = asked.endpoint.path.removeprefix(b"/v1")
        answer = await self.engine.ask(path, [(HOP, b"1")], body_for(asked, model), adapter="")
        return UpstreamAnswer(answer, asked.completion_id, model)


class UpstreamAnswer:
    """An answer that reads like one of our engines'. A stand-in for their `Connection`."""

    def __init__(self, connection: Connection, completion_id: str, model: str) -> None:
        self.status = connection.status
        self._connection = connection
        self._ours = {"id": completion_id, "model": model}
        self._waiting = b""
        self._ended = False

    async def read(self) -> bytes:
        """The events that have come since the last call; `b""` at the end.

        Raises:
            EngineError: it ended early, was silent too long, or sent what is no event.
        """
        while not self._ended:
            piece = await self._connection.read()
            if not piece:
                self._ended = True
            whole, _, self._waiting = (self._waiting + piece).replace(b"\r\n", b"\n").rpartition(b"\n\n")
            if len(self._waiting) > EVENT_BYTES_MAX:
                raise EngineError("The upstream sent an event that does not end")
            if said := b"".join(self._event(one) for one in whole.split(b"\n\n")):
                return said
        return b""

    async def read_whole(self) -> bytes:
        """The whole answer.

        Raises:
            EngineError: it ended early, was silent too long, or sent what is no answer.
        """
        return orjson.dumps(self._renamed(await self._connection.read_whole()))

    def release(self) -> None:
        """Give the connection back."""
        self._connection.release()

    def _event(self, event: bytes) -> bytes:
        lines = [line[5:].strip() for line in event.split(b"\n") if line.startswith(b"data:")]
        if not lines:
            return b""
        if lines == [b"[DONE]"]:
            return DONE
        return b"data: %b\n\n" % orjson.dumps(self._renamed(b"\n".join(lines)))

    def _renamed(self, said: bytes) -> dict[str, Any]:
        try:
            answer = orjson.loads(said)
        except orjson.JSONDecodeError as error:
            raise EngineError("The upstream sent what is not JSON") from error
        if not isinstance(answer, dict) or not isinstance(answer.get("choices"), list):
            raise EngineError("The upstream failed during the answer")
        usage = answer.pop("usage", None)
        # Usage comes last, behind the choices, where our engines have it.
        return {**answer, **self._ours, **({} if usage is None else {"usage": usage})}


def body_for(asked: Asked, model: str) -> bytes:
    """The question as an OpenAI-compatible API takes it."""
    fields = orjson.loads(asked.body_as_asked())
    sent = {name: value for name, value in fields.items() if name in SENT[asked.endpoint]}
    sent |= {"model": model, "stream": asked.stream}
    if asked.stream:
        sent["stream_options"] = {"include_usage": True}
    return orjson.dumps(sent)


def connect_upstream(settings: ServingSettings, public_url: str | None = None) -> Upstream | None:
    """The upstream of the settings, if there is one.

    Raises:
        HoneError: it is this gateway.
    """
    if settings.upstream_url is None:
        return None
    parts = urlsplit(settings.upstream_url)
    own = parts.port == settings.gateway_port and parts.hostname in {*SELF, settings.gateway_host}
    if own or (public_url is not None and urlsplit(public_url).netloc == parts.netloc):
        raise HoneError(
            f"upstream_url = '{settings.upstream_url}' is this gateway itself. Name another API, or leave it unset."
        )
    headers = {"user-agent": "hone", "accept-encoding": "identity"}
    if settings.upstream_api_key is not None:
        headers["authorization"] = f"Bearer {settings.upstream_api_key.get_secret_value()}"
    timeouts = Timeouts(
        connect=settings.upstream_connect_timeout_seconds,
        first_byte=settings.upstream_first_byte_timeout_seconds,
        idle_stream=settings.engine_idle_stream_timeout_seconds,
    )
    return Upstream(Engine(settings.upstream_url, timeouts, headers), settings.upstream_model)
