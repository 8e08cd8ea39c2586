"""HTTP as clients really speak it, through both lanes: kept-alive, pipelined, chunked, old, slow."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from feedback.database import Database
from serving import fast_lane
from serving.engines import Connection
from tests import fakes
from tests.fakes import answer_well, fake_engine
from tests.serving.running import Running, running_gateway

Start = Callable[..., AbstractAsyncContextManager[Running]]

BODY = orjson.dumps({"model": "support", "messages": [{"role": "user", "content": "How long?"}]})


@pytest.fixture(params=[True, False], ids=["fast lane", "asgi"])
def start(request: pytest.FixtureRequest, database: Database, database_url: str, state_dir: Path) -> Start:
    """Starts a gateway in front of some engines."""

    def start(*engine_urls: str, **settings: Any) -> AbstractAsyncContextManager[Running]:
        settings = {"gateway_fast_lane": request.param, **settings}
        return running_gateway(database, database_url, state_dir, *engine_urls, **settings)

    return start


@pytest.fixture
def fast(database: Database, database_url: str, state_dir: Path) -> Start:
    """The same in the fast lane, for what uvicorn itself does otherwise."""

    def start(*engine_urls: str, **settings: Any) -> AbstractAsyncContextManager[Running]:
        return running_gateway(database, database_url, state_dir, *engine_urls, **settings)

    return start


class Raw:
    """A client that says exactly what it is told."""

    def __init__(self, running: Running) -> None:
        self.running = running
        url = httpx.URL(running.url)
        self.address = (url.host, url.port)

    async def __aenter__(self) -> "Raw":
        self.reader, self.writer = await asyncio.open_connection(*self.address)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.writer.close()

    def send(self, body: bytes = BODY, *headers: str, version: str = "1.1", length: bool = True) -> None:
        lines = [
            f"POST /v1/chat/completions HTTP/{version}",
            "host: x",
            f"authorization: Bearer {self.running.key}",
        ]
        lines += [f"content-length: {len(body)}"] if length else []
        self.writer.write("\r\n".join([*lines, *headers, "", ""]).encode() + body)

    async def answer(self) -> tuple[int, bytes]:
        """Status and body of the next answer."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).lower()
        status = int(head.split()[1])
        if b"content-length: " in head:
            return status, await self.reader.readexactly(int(head.split(b"content-length: ")[1].split()[0]))
        body = b""
        while size := int(await self.reader.readline(), 16):
            body += await self.reader.readexactly(size)
            await self.reader.readline()
        await self.reader.readline()
        return status, body


async def test_one_connection_serves_many_requests_of_both_kinds(start: Start) -> None:
    async with fake_engine() as engine, start(engine.url) as running, Raw(running) as raw:
        for _ in range(3):
            raw.send()
            assert (await raw.answer())[0] == 200
            raw.send(BODY[:-1] + b',"stream":true}')
            status, body = await raw.answer()
            assert (status, body[-14:]) == (200, b"data: [DONE]\n\n")
        raw.send(b"{")
        assert (await raw.answer())[0] == 400
        raw.send()
        assert (await raw.answer())[0] == 200


async def test_pipelined_requests_are_answered_in_order(start: Start) -> None:
    async with (
        fake_engine(answer_well(gap_seconds=0.02)) as engine,
        start(engine.url) as running,
        Raw(running) as raw,
    ):
        for number in range(3):
            raw.send(orjson.dumps({**orjson.loads(BODY), "metadata": {"n": str(number)}}))
        answers = [await raw.answer() for _ in range(3)]
        ids = [orjson.loads(body)["id"] for _, body in answers]
        rows = {row["completion_id"]: row["metadata"]["n"] for row in await running.rows(3)}
    assert [rows[one] for one in ids] == ["0", "1", "2"]


async def test_a_chunked_body_in_pieces_is_read_whole(start: Start) -> None:
    async with fake_engine() as engine, start(engine.url) as running, Raw(running) as raw:
        raw.send(b"", "transfer-encoding: chunked", length=False)
        for at in range(0, len(BODY), 7):
            piece = BODY[at : at + 7]
            raw.writer.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            await asyncio.sleep(0)
        raw.writer.write(b"0\r\n\r\n")
        assert (await raw.answer())[0] == 200
    assert engine.asked[0].body["messages"][0]["content"] == "How long?"


async def test_a_client_that_expects_to_be_asked_is_asked(start: Start) -> None:
    async with fake_engine() as engine, start(engine.url) as running, Raw(running) as raw:
        raw.send(b"", "expect: 100-continue", f"content-length: {len(BODY)}", length=False)
        assert b"100 Continue" in await raw.reader.readuntil(b"\r\n\r\n")
        raw.writer.write(BODY)
        assert (await raw.answer())[0] == 200


async def test_a_client_of_http_1_0_gets_a_stream_that_ends_with_the_connection(start: Start) -> None:
    async with fake_engine() as engine, start(engine.url) as running, Raw(running) as raw:
        raw.send(BODY[:-1] + b',"stream":true}', version="1.0")
        everything = await raw.reader.read()
    assert everything.startswith(b"HTTP/1.1 200")
    assert b"data: [DONE]\n\n" in everything


async def test_a_client_that_asks_to_close_is_closed(start: Start) -> None:
    async with fake_engine() as engine, start(engine.url) as running, Raw(running) as raw:
        raw.send(BODY, "connection: close")
        everything = await raw.reader.read()
    assert everything.startswith(b"HTTP/1.1 200")


async def test_a_large_conversation_passes_unchanged(start: Start) -> None:
    messages = [{"role": "user", "content": "x" * 1000 + str(number)} for number in range(2000)]
    async with fake_engine() as engine, start(engine.url) as running:
        assert (await running.ask(messages=messages, temperature=0.5, logit_bias={"7": 1})).status_code == 200
        [row] = await running.rows(1)
    assert engine.asked[0].body["messages"] == messages == row["request"]["messages"]
    assert engine.asked[0].body["logit_bias"] == {"7": 1}


async def test_a_slow_client_slows_the_engine_instead_of_filling_memory(start: Start) -> None:
    """The engine could send 64 MB; the client does not read: what is held between them stays small."""
    said = 0

    async def flood(asked: fakes.Asked) -> None:
        nonlocal said
        fakes.start_stream(asked)
        event = fakes.stream_events(asked, ("x" * 64_000,))[1]
        for _ in range(1000):
            fakes.send_chunk(asked, event)
            said += len(event)
            await asked.writer.drain()
        fakes.send_chunk(asked, b"data: [DONE]\n\n")
        fakes.end_stream(asked)

    async with fake_engine(flood) as engine, start(engine.url) as running, Raw(running) as raw:
        raw.send(BODY[:-1] + b',"stream":true}')
        held = -1
        async with asyncio.timeout(60):
            while said != held:
                held = said
                await asyncio.sleep(0.5)
        assert held < 24_000_000
        _, body = await raw.answer()
    assert said > 60_000_000
    assert body.endswith(b"data: [DONE]\n\n")


async def test_requests_under_way_while_the_gateway_stops_are_answered(start: Start) -> None:
    async with fake_engine(answer_well(gap_seconds=0.1)) as engine:
        async with start(engine.url) as running:
            raw = await Raw(running).__aenter__()
            raw.send(BODY[:-1] + b',"stream":true}')
            while not engine.asked:
                await asyncio.sleep(0.01)
        status, body = await raw.answer()
        raw.writer.close()
    assert (status, body[-14:]) == (200, b"data: [DONE]\n\n")


async def test_a_body_that_is_too_long_is_read_to_its_end_so_that_the_refusal_is_too(start: Start) -> None:
    async with (
        fake_engine() as engine,
        start(engine.url, request_bytes_max=1000) as running,
        Raw(running) as raw,
    ):
        raw.send(b"x" * 5_000_000)
        await raw.writer.drain()
        status, body = await raw.answer()
    assert status == 413
    assert orjson.loads(body)["error"]["code"] == "request_too_large"


async def test_a_request_on_its_way_to_a_gateway_that_stops_is_answered(fast: Start) -> None:
    async with fake_engine() as engine, fast(engine.url) as running, Raw(running) as raw:
        raw.send()
        assert (await raw.answer())[0] == 200
        for connection in list(running.server.server_state.connections):
            connection.shutdown()
        raw.send()
        assert (await raw.answer())[0] == 200
        assert await raw.reader.read() == b""


async def test_a_handler_that_fails_after_its_answer_costs_nobody_the_next_one(
    fast: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(connection: Connection) -> None:
        raise RuntimeError("after the answer")

    async with fake_engine() as engine, fast(engine.url) as running, Raw(running) as raw:
        monkeypatch.setattr(Connection, "release", fail)
        for _ in range(2):
            raw.send()
            assert (await raw.answer())[0] == 200


async def test_a_body_without_end_is_not_read_for_ever(fast: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_lane, "READ_ON_BYTES", 1_000_000)
    async with (
        fake_engine() as engine,
        fast(engine.url, request_bytes_max=1000) as running,
        Raw(running) as raw,
    ):
        raw.writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n"
        )
        with pytest.raises(ConnectionError):
            for _ in range(2000):
                raw.writer.write(b"10000\r\n%b\r\n" % (b"x" * 65536))
                await raw.writer.drain()
