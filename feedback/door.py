"""The door in front of the feedback routes: how long a body may be, whether it is JSON, which pages may come in.

ASGI middleware that looks at feedback paths only. What goes through it is a body of bounded length that is JSON which
the record can hold: no NUL, no half of a character, no number that is none. A preflight names no project, so a page is
let in when any project allows its origin; whether it may send to this one is decided at the desk.
"""

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Any

import orjson

from feedback.completions import ESCAPED_NUL
from feedback.desk import ORIGIN_REFUSED
from feedback.origins import HEADERS, METHODS, PREFLIGHT_SECONDS, is_allowed
from feedback.refusals import LANGFUSE_PREFIX, TENSORZERO_PATH, error_body

Message = dict[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[dict[str, Any], Receive, Send], Awaitable[None]]

FEEDBACK_PATH = "/v1/feedback"
BATCH_BYTES_MAX = 4_500_000
"""Longest batch that Langfuse's clients send."""


class FeedbackDoor:
    """Guards the feedback routes of `app`; `origins` gives the allowed origins of all projects."""

    def __init__(self, app: Application, origins: Callable[[], Collection[str]], body_bytes_max: int) -> None:
        self.app = app
        self._origins = origins
        self._body_bytes_max = body_bytes_max

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Let a request in, or answer it here."""
        if scope["type"] != "http" or not _is_guarded(scope["path"]):
            await self.app(scope, receive, send)
            return
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        send = self._telling_the_page(scope, headers.get(b"origin"), send)
        if scope["method"] == "OPTIONS" and b"access-control-request-method" in headers:
            await self._answer_preflight(scope, headers.get(b"origin", ""), send)
        elif scope["method"] == "POST":
            await self._pass_body(scope, headers, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _pass_body(
        self, scope: dict[str, Any], headers: dict[bytes, str], receive: Receive, send: Send
    ) -> None:
        path: str = scope["path"]
        limit = BATCH_BYTES_MAX if path.startswith(LANGFUSE_PREFIX) else self._body_bytes_max
        body, length = bytearray(), headers.get(b"content-length", "0")
        too_long, more = length.isdecimal() and int(length) > limit, True
        while more and not too_long:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            too_long = len(body) > limit
        if too_long:
            sentence = (
                f"The body is longer than {limit} bytes, the most that is read of feedback. Shorten it."
            )
            await _refuse(scope, send, 413, sentence, code="request_too_large")
            return
        try:
            clean = _clean(bytes(body))
        except (orjson.JSONDecodeError, orjson.JSONEncodeError) as error:
            sentence = f"The body is not JSON that can be kept: {error}. Send one JSON object in UTF-8."
            await _refuse(scope, send, 400, sentence, code="invalid_json")
            return
        # A page may have sent it as text, to spare its browser a preflight.
        kept = [one for one in scope["headers"] if one[0] not in (b"content-type", b"content-length")]
        scope["headers"] = [*kept, (b"content-type", b"application/json")]
        await self.app(scope, _once(clean, receive), send)

    async def _answer_preflight(self, scope: dict[str, Any], origin: str, send: Send) -> None:
        if not is_allowed(origin, self._origins()):
            sentence = (
                f"Pages of '{origin}' may not send feedback here. Add the origin to feedback.allowed_origins in the "
                "policy of a model of your project."
            )
            await _refuse(scope, send, 403, sentence, code="origin_not_allowed")
            return
        headers = [
            (b"access-control-allow-methods", METHODS.encode()),
            (b"access-control-allow-headers", HEADERS.encode()),
            (b"access-control-max-age", b"%d" % PREFLIGHT_SECONDS),
        ]
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    def _telling_the_page(self, scope: dict[str, Any], origin: str | None, send: Send) -> Send:
        """Say in the answer whether the page may read it."""

        async def tell(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), (b"vary", b"origin")]
                if origin and not scope.get(ORIGIN_REFUSED) and is_allowed(origin, self._origins()):
                    headers.append((b"access-control-allow-origin", origin.encode("latin-1")))
                    headers.append((b"access-control-expose-headers", b"retry-after"))
                message = {**message, "headers": headers}
            await send(message)

        return tell


def is_read_at_door(scope: Mapping[str, Any]) -> bool:
    """Whether the body of this request is read, bounded and cleaned by the door."""
    return scope["method"] == "POST" and _is_guarded(scope["path"])


def _is_guarded(path: str) -> bool:
    ours = path == FEEDBACK_PATH or path.startswith(f"{FEEDBACK_PATH}/")
    return ours or path == TENSORZERO_PATH or path.startswith(LANGFUSE_PREFIX)


def _clean(body: bytes) -> bytes:
    """The same JSON without what PostgreSQL cannot hold."""
    written = orjson.dumps(orjson.loads(body))
    if b"\\u0000" in written:
        written = ESCAPED_NUL.sub(r"\1\\ufffd", written.decode()).encode()
    return written


def _once(body: bytes, receive: Receive) -> Receive:
    waiting = [{"type": "http.request", "body": body, "more_body": False}]

    async def again() -> Message:
        return waiting.pop() if waiting else await receive()

    return again


async def _refuse(scope: dict[str, Any], send: Send, status: int, sentence: str, *, code: str) -> None:
    status, body = error_body(scope["path"], status, sentence, code)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
