"""Talk HTTP/1.1 to one engine replica: a pool of keep-alive connections that relays bytes as they come.

The request path spends its time here, so this is a protocol of httptools' parser on an event loop transport and no
more: no redirects, no cookies, no decompression, no HTTP/2. A connection answers one request at a time. It belongs to
whoever asked until `release`, which puts it back into the pool when the answer was read to its end and closes it
otherwise: the engine aborts a request whose connection closes.

A request is sent a second time in one case only: on a reused connection that the engine had closed before the first
byte of an answer. Silence ends in a timeout: one clock per replica looks at all its open connections.
"""

import asyncio
import ssl
from collections import Counter, deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast
from urllib.parse import urlsplit

import httptools

from serving.errors import Headers

READ_AHEAD_BYTES = 256 * 1024
"""What one connection holds for a slow client before it stops reading from the engine."""

CLOCK_SECONDS = 0.25
NEVER = float("inf")


class EngineError(Exception):
    """The replica did not give a whole answer."""


class EngineUnreachable(EngineError):
    """The connection could not be made, or closed before the first byte of an answer: another replica may be asked."""


class EngineSilent(EngineError):
    """Nothing came for longer than the timeouts allow."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long to wait for an engine, in seconds."""

    connect: float = 2.0
    first_byte: float = 300.0
    idle_stream: float = 60.0
    keep_alive: float = 4.0


class Connection(asyncio.Protocol):
    """One connection to a replica, and the answer that is arriving on it."""

    def __init__(self, engine: "Engine") -> None:
        self.engine = engine
        self.transport: asyncio.Transport | None = None
        self.adapter = ""
        self.idle_since = 0.0
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[None] | None = None
        self._begin()

    def _begin(self) -> None:
        self.status = 0
        self.deadline = NEVER
        self._pieces: list[bytes] = []
        self._waiting_bytes = 0
        self._complete = False
        self._keep_alive = False
        self._read_paused = False
        self._error: EngineError | None = None

    async def ask(self, request: bytes) -> None:
        """Send one request; returns when the answer's status is here.

        Raises:
            EngineError: the connection ended, or nothing came in time.
        """
        self._begin()
        if self.transport is None:
            raise EngineUnreachable(f"{self.engine.url} closed the connection")
        self.transport.write(request)
        self.deadline = self.engine.loop.time() + self.engine.timeouts.first_byte
        while not self.status:
            if self._error is not None:
                raise self._error
            await self._wait()

    async def read(self) -> bytes:
        """All bytes of the body that have come since the last call; `b""` at its end.

        Raises:
            EngineError: the connection ended before the body did, or was silent too long.
        """
        while not self._pieces:
            if self._complete:
                return b""
            if self._error is not None:
                raise self._error
            await self._wait()
        piece = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        self._pieces.clear()
        self._waiting_bytes = 0
        if self._read_paused and self.transport is not None:
            self._read_paused = False
            self._set_deadline()
            self.transport.resume_reading()
        return piece

    async def read_whole(self) -> bytes:
        """The rest of the body."""
        pieces = []
        while piece := await self.read():
            pieces.append(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def release(self) -> None:
        """Give the connection back; closes it unless the answer was complete and the engine keeps it open."""
        transport = self.transport
        self.engine.in_flight[self.adapter] -= 1
        if self._keep_alive and self._error is None and transport is not None:
            if self._read_paused:  # Whoever left had not read it all: the next answer must be heard.
                transport.resume_reading()
            self.deadline = NEVER
            self.idle_since = self.engine.loop.time()
            self.engine.idle.append(self)
        elif transport is not None:
            transport.abort()

    def fail(self, error: EngineError) -> None:
        """End this exchange: whoever waits for the answer gets `error`."""
        if self._error is None:
            self._error = error
        self._wake()

    async def _wait(self) -> None:
        self._waiter = waiter = self.engine.loop.create_future()
        await waiter

    def _wake(self) -> None:
        waiter = self._waiter
        if waiter is not None:
            self._waiter = None
            if not waiter.done():
                waiter.set_result(None)

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The engine accepted."""
        self.transport = cast(asyncio.Transport, transport)
        self.engine.open.add(self)

    def data_received(self, data: bytes) -> None:
        """Bytes of an answer: parse, then wake whoever waits, once."""
        assert self.transport is not None
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.fail(EngineError(f"{self.engine.url} answered what is not HTTP/1.1: {error}"))
            self.transport.abort()
            return
        if self._waiting_bytes > READ_AHEAD_BYTES and not self._read_paused:
            self._read_paused = True
            self.transport.pause_reading()
        self._set_deadline()
        self._wake()

    def _set_deadline(self) -> None:
        # A client that reads slowly, or an answer that is complete, is no reason to lose patience with the engine.
        quiet = self._complete or self._read_paused
        self.deadline = NEVER if quiet else self.engine.loop.time() + self.engine.timeouts.idle_stream

    def connection_lost(self, exc: Exception | None) -> None:
        """Either side closed."""
        self.transport = None
        self.engine.open.discard(self)
        with suppress(ValueError):
            self.engine.idle.remove(self)
        kind = EngineError if self.status else EngineUnreachable
        self.fail(kind(f"{self.engine.url} closed the connection{f' ({exc})' if exc else ''}"))

    # What the parser calls.

    def on_headers_complete(self) -> None:
        """The status is known from here on."""
        self.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        """A piece of the body, free of chunked framing."""
        self._pieces.append(body)
        self._waiting_bytes += len(body)

    def on_message_complete(self) -> None:
        """The answer has ended as HTTP says it must."""
        self._complete = True
        self._keep_alive = self._parser.should_keep_alive()  # The parser knows this only here.


class Engine:
    """One replica: its address, its connections, and how many requests each adapter has under way on it."""

    def __init__(
        self, url: str, timeouts: Timeouts | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        """`url` is the replica's base address; `headers` go with every request (an engine's own API key)."""
        parts = urlsplit(url)
        self.url = url
        self.timeouts = timeouts or Timeouts()
        self.idle: deque[Connection] = deque()
        self.open: set[Connection] = set()
        self.in_flight: Counter[str] = Counter()
        self.loop = asyncio.get_running_loop()
        self._host, self._tls = parts.hostname or "", parts.scheme == "https"
        self._port = parts.port or (443 if self._tls else 80)
        self._path = parts.path.rstrip("/").encode()
        lines = {"host": parts.netloc, "content-type": "application/json", **(headers or {})}
        self._head = b"".join(f"{name}: {value}\r\n".encode() for name, value in lines.items())
        self._clock = self.loop.call_later(CLOCK_SECONDS, self._tick)

    @property
    def busy(self) -> int:
        """Requests under way."""
        return len(self.open) - len(self.idle)

    async def ask(self, path: bytes, headers: Headers, body: bytes, *, adapter: str) -> Connection:
        """POST `body`; the answer's status is here when this returns. Release what you get.

        Args:
            adapter: under which the request is counted until its release.

        Raises:
            EngineUnreachable: another replica may be asked instead.
            EngineSilent: nothing came in time.
        """
        lines = b"".join([name + b": " + value + b"\r\n" for name, value in headers])
        request = b"POST %b%b HTTP/1.1\r\n%b%bcontent-length: %d\r\n\r\n%b" % (
            self._path,
            path,
            self._head,
            lines,
            len(body),
            body,
        )
        self.in_flight[adapter] += 1
        try:
            connection = await self._exchange(request)
        except BaseException:
            self.in_flight[adapter] -= 1
            raise
        connection.adapter = adapter
        return connection

    def close(self) -> None:
        """Close every connection and stop the clock."""
        self._clock.cancel()
        for connection in list(self.open):
            if connection.transport is not None:
                connection.transport.abort()

    async def _exchange(self, request: bytes) -> Connection:
        if self.idle:
            try:
                return await self._ask_on(self.idle.pop(), request)
            except EngineUnreachable:
                # The engine closed this idle connection while the request was on its way. The others are no younger.
                self._close_idle(self.loop.time())
        return await self._ask_on(await self._connect(), request)

    async def _ask_on(self, connection: Connection, request: bytes) -> Connection:
        try:
            await connection.ask(request)
        except BaseException:
            if connection.transport is not None:
                connection.transport.abort()
            raise
        return connection

    async def _connect(self) -> Connection:
        context: Any = ssl.create_default_context() if self._tls else None
        try:
            async with asyncio.timeout(self.timeouts.connect):
                _, connection = await self.loop.create_connection(
                    lambda: Connection(self), self._host, self._port, ssl=context
                )
        except (OSError, TimeoutError) as error:
            reason = str(error) or f"no connection within {self.timeouts.connect} s"
            raise EngineUnreachable(f"{self.url} cannot be reached: {reason}") from error
        return connection

    def _tick(self) -> None:
        now = self.loop.time()
        for connection in list(self.open):
            if connection.deadline < now:
                connection.fail(EngineSilent(f"{self.url} sent nothing for too long"))
        self._close_idle(now - self.timeouts.keep_alive)
        self._clock = self.loop.call_later(CLOCK_SECONDS, self._tick)

    def _close_idle(self, since: float) -> None:
        while self.idle and self.idle[0].idle_since <= since:
            connection = self.idle.popleft()
            if connection.transport is not None:
                connection.transport.abort()
