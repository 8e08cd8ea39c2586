"""Serve the relayed routes inside uvicorn's HTTP protocol, without an ASGI cycle per request.

The numbers decide: an ASGI scope, cycle and message per piece cost more than everything else a gateway does for a short
answer. This subclass takes `POST` to a relayed path when nothing is unusual about it; whatever is (a pipelined
request, `Expect`, an upgrade, a query string) and every other route goes the ordinary way to the application, which
answers the same. Keep-alive and limits stay uvicorn's own.

A connection is closed under nobody's request: a body that is too long is read on, to its end or for `READ_ON_BYTES`,
before its refusal closes the connection (a socket closed with unread bytes is reset, and the client never reads why),
and a gateway that stops waits a moment for a request that is already on its way on an idle connection.

It leans on uvicorn's `HttpToolsProtocol`: the attributes `cycle`, `flow`, `parser`, `tasks`, `url` and `headers`. The
tests run every behaviour through both lanes, so an upgrade of uvicorn that moves them fails there.
"""

import asyncio
import time
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving.errors import JSON, ApiError, Headers, engine_failed, too_large
from serving.exchange import Handler, Request

CHUNKED = (b"transfer-encoding", b"chunked")
SWITCH = "relayed"
"""Key of the lifespan state under which the application puts a `Relayed`."""

READ_ON_BYTES = 64 * 1024 * 1024
"""Of a body that is refused for its length; whoever sends more than this may not read why."""
LINGER_SECONDS = 0.25
"""How long a gateway that stops leaves an idle connection open."""


class Relayed:
    """What the application hands to the lane: handlers by path, and the longest body they read."""

    def __init__(self, handlers: dict[bytes, Handler], body_bytes_max: int) -> None:
        self.handlers = handlers
        self.body_bytes_max = body_bytes_max


class _Exchange:
    """One request and its reply. uvicorn keeps it where it keeps its own cycle, and reads the first four fields."""

    def __init__(self, protocol: "FastLane", handler: Handler, keep_alive: bool) -> None:
        self.response_complete = False
        self.disconnected = False
        self.keep_alive = keep_alive
        self.message_event = _NOBODY_WAITS
        self._handler = handler
        self.body: list[bytes] = []
        self.body_bytes = 0
        self.body_ended = False
        self.started = False
        self._protocol = protocol
        self._chunked = False
        self._unsent_head = b""

    async def run(self, request: Request) -> None:
        """Answer; a handler that fails leaves a closed connection, never a half answer that looks whole."""
        try:
            await self._handler(request, self)
        except asyncio.CancelledError:
            self._protocol.transport.close()
        except Exception:
            self._protocol.logger.exception("The handler of %s failed", request.path.decode())
            if self.response_complete:
                return  # The client has its answer, and may have sent its next request already.
            if self.started:
                self._protocol.transport.close()
            else:
                message = "The gateway failed; its log says why."
                await self.refuse(engine_failed(message, code="internal_error", status=500))
        finally:
            self._protocol.tasks.discard(self._protocol.answering)

    async def refuse(self, error: ApiError) -> None:
        """Answer with an error and close the connection."""
        self.keep_alive = False
        await self.whole(error.status, [*error.headers, JSON], error.body(self._protocol.url))

    # What serving.exchange.Reply promises.

    async def whole(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer with a complete body."""
        await self._send(self._head(status, [*headers, (b"content-length", b"%d" % len(body))]) + body)
        self._finish()

    async def start(self, status: int, headers: Headers) -> None:
        """Begin a body of unknown length."""
        self._chunked = self._protocol.parser.get_http_version() != "1.0"
        self.keep_alive = self.keep_alive and self._chunked
        # Sent with the first piece: a packet of its own costs as much as a piece does.
        self._unsent_head = self._head(status, [*headers, CHUNKED] if self._chunked else headers)

    async def write(self, piece: bytes) -> None:
        """Send a piece of it."""
        if piece:
            await self._send(b"%x\r\n%b\r\n" % (len(piece), piece) if self._chunked else piece)

    async def end(self, piece: bytes = b"") -> None:
        """Send the last piece."""
        if self._chunked:
            piece = b"%x\r\n%b\r\n0\r\n\r\n" % (len(piece), piece) if piece else b"0\r\n\r\n"
        await self._send(piece)
        self._finish()

    def _head(self, status: int, headers: Headers) -> bytes:
        self.started = True
        every = (*self._protocol.server_state.default_headers, *headers)
        lines = [STATUS_LINE[status], *[name + b": " + value + b"\r\n" for name, value in every]]
        lines.append(b"\r\n" if self.keep_alive else b"connection: close\r\n\r\n")
        return b"".join(lines)

    async def _send(self, data: bytes) -> None:
        if self._unsent_head:
            data, self._unsent_head = self._unsent_head + data, b""
        flow = self._protocol.flow
        if flow.write_paused:
            await flow.drain()
        self._protocol.transport.write(data)

    def _finish(self) -> None:
        self.response_complete = True
        if not self.keep_alive and self.body_ended:
            self._protocol.transport.close()
        self._protocol.on_response_complete()


class _NobodyWaits:
    def set(self) -> None:
        """Stand in for the event on which an ASGI cycle waits."""


_NOBODY_WAITS = _NobodyWaits()


class FastLane(HttpToolsProtocol):
    """uvicorn's protocol with a short way for the relayed routes."""

    cycle: Any
    exchange: _Exchange | None = None
    answering: "asyncio.Task[None] | None" = None
    stopping = False

    def on_message_begin(self) -> None:
        """Begin a request, without the ASGI scope that most never need."""
        self.url = b""
        self.expect_100_continue = False
        self.headers = []

    def on_headers_complete(self) -> None:
        """Take the request here, or let uvicorn build an ASGI scope and cycle for it."""
        relayed: Relayed | None = self.app_state.get(SWITCH)
        handler = relayed.handlers.get(self.url) if relayed else None
        if handler is None or self._is_unusual():
            self.exchange = None
            url, headers, expect = self.url, self.headers, self.expect_100_continue
            super().on_message_begin()
            self.url, self.expect_100_continue = url, expect
            self.headers.extend(headers)
            super().on_headers_complete()
        else:
            parser: Any = self.parser
            keep_alive = parser.get_http_version() != "1.0" and parser.should_keep_alive()
            self.exchange = self.cycle = _Exchange(self, handler, keep_alive)
        if self.stopping:
            self.cycle.keep_alive = False

    def _is_unusual(self) -> bool:
        busy = self.cycle is not None and not self.cycle.response_complete
        odd = self.expect_100_continue or self.parser.should_upgrade()
        return busy or odd or self.parser.get_method() != b"POST" or self.limit_concurrency is not None

    def on_body(self, body: bytes) -> None:
        """Collect the body, and refuse one that is too long before it is here."""
        exchange = self.exchange
        if exchange is None:
            super().on_body(body)
            return
        exchange.body_bytes += len(body)
        limit = self.app_state[SWITCH].body_bytes_max
        if exchange.body_bytes <= limit:
            exchange.body.append(body)
        elif not exchange.started:
            exchange.started = True
            self.answering = self.loop.create_task(exchange.refuse(too_large(exchange.body_bytes, limit)))
        elif exchange.body_bytes > limit + READ_ON_BYTES:
            self.transport.close()

    def on_message_complete(self) -> None:
        """Start the handler: the request is here."""
        exchange = self.exchange
        if exchange is None:
            super().on_message_complete()
            return
        exchange.body_ended = True
        if exchange.response_complete:
            self.transport.close()
        elif not exchange.started:
            body = exchange.body[0] if len(exchange.body) == 1 else b"".join(exchange.body)
            exchange.body.clear()
            request = Request(self.url, dict(self.headers), body, time.perf_counter())
            self.answering = self.loop.create_task(exchange.run(request))
            self.tasks.add(self.answering)

    def shutdown(self) -> None:
        """Stop: let an answer under way finish, and a request on its way arrive."""
        self.stopping = True
        if self.cycle is None or self.cycle.response_complete:
            self.loop.call_later(LINGER_SECONDS, super().shutdown)
        else:
            super().shutdown()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the handler of a client that is gone."""
        super().connection_lost(exc)
        if self.answering is not None and not self.answering.done():
            self.answering.cancel()
