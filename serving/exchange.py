"""One HTTP exchange as a relayed route sees it: a request that has arrived whole, and a reply to write.

Two servers stand behind it with the same behaviour: `AsgiReply` for any ASGI server, and `serving.fast_lane` for
uvicorn. A handler never learns which. When the client leaves, the handler's task is cancelled, whatever it waits for.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

from serving.errors import JSON, ApiError, Headers, too_large

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


@dataclass(slots=True)
class Request:
    """What arrived. Header names are lower case; `arrived` is `time.perf_counter()` when the body was complete."""

    path: bytes
    headers: dict[bytes, bytes]
    body: bytes
    arrived: float


class Reply(Protocol):
    """What goes back. Writing waits while the client is slower than the engine."""

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer with a complete body."""

    async def start(self, status: int, headers: Headers) -> None:
        """Begin a body of unknown length."""

    async def write(self, piece: bytes) -> None:
        """Send a piece of it."""

    async def end(self, piece: bytes = b"") -> None:
        """Send the last piece."""


Handler = Callable[[Request, Reply], Awaitable[None]]


class AsgiReply:
    """A reply over an ASGI server's `send`."""

    def __init__(self, send: Send) -> None:
        self._send = send

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer with a complete body."""
        await self.start(status, [*headers, (b"content-length", b"%d" % len(body))])
        await self.end(body)

    async def start(self, status: int, headers: Headers) -> None:
        """Begin a body of unknown length."""
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def write(self, piece: bytes) -> None:
        """Send a piece of it."""
        if piece:
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})

    async def end(self, piece: bytes = b"") -> None:
        """Send the last piece."""
        await self._send({"type": "http.response.body", "body": piece, "more_body": False})


class AsgiRoute:
    """Handlers as an ASGI application, to be mounted at their paths."""

    def __init__(self, handlers: Callable[[], Mapping[bytes, Handler]], body_bytes_max: int) -> None:
        """`handlers` gives them by path; called per request, as they exist only once the application runs."""
        self._handlers = handlers
        self._body_bytes_max = body_bytes_max

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        """Read the body, run the handler, and stop it when the client leaves first."""
        reply = AsgiReply(send)
        try:
            body = await read_body(receive, self._body_bytes_max)
        except ApiError as error:
            await reply.whole(error.status, [*error.headers, JSON], error.body(scope["path"].encode()))
            return
        path = scope["path"].encode()
        request = Request(path, dict(scope["headers"]), body, time.perf_counter())
        answering = asyncio.ensure_future(self._handlers()[path](request, reply))
        leaving = asyncio.ensure_future(receive())
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if answering.done():
                answering.result()
        finally:
            leaving.cancel()
            answering.cancel()
            await asyncio.wait({answering})


async def read_body(receive: Receive, bytes_max: int) -> bytes:
    """The whole request body.

    Raises:
        ApiError: 413, when it is longer than `bytes_max`.
    """
    body = bytearray()
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > bytes_max:
            raise too_large(len(body), bytes_max)
        more = message.get("more_body", False)
    return bytes(body)
