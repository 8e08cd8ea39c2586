"""Every completion whose end a client saw is in the record exactly once, whatever was killed meanwhile."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import orjson
import pytest
from sqlalchemy import text

from feedback import submissions
from feedback.database import Database
from serving.drain import Drain
from serving.feedback_desk import keep_feedback
from serving.spool import COMPLETION, Spool
from tests.builders import PROJECT
from tests.fakes import answer_well, fake_engine
from tests.serving.running import a_service, running_gateway
from tests.serving.test_transcript import HEAD


def a_record(completion_id: str, said: str = "Yes.", **head: object) -> bytes:
    """A spooled completion, as the recorder writes it."""
    answer = orjson.dumps({"choices": [{"message": {"role": "assistant", "content": said}}]})
    return orjson.dumps({**HEAD, "completion_id": completion_id, **head}) + b"\n" + answer


async def recorded(database: Database) -> list[str]:
    """The ids in the record."""
    async with database.begin() as connection:
        rows = await connection.execute(text("SELECT completion_id FROM completions ORDER BY created_at"))
        return list(rows.scalars())


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    """An empty spool."""
    return Spool(tmp_path / "spool")


async def test_draining_twice_records_once(database: Database, spool: Spool) -> None:
    for number in range(5):
        spool.append(COMPLETION, a_record(f"chatcmpl-{number}"))
    drain = Drain(spool, database)
    batch = spool.next_batch()
    assert batch is not None
    await drain._store(
        batch
    )  # The process is killed here: the batch is stored, and the cursor does not know.
    await drain.flush()
    assert sorted(await recorded(database)) == [f"chatcmpl-{number}" for number in range(5)]
    assert drain.recorded == 5
    assert spool.depth_bytes == 0


async def test_one_record_that_cannot_be_stored_does_not_stop_the_others(
    database: Database, spool: Spool
) -> None:
    spool.append(COMPLETION, a_record("chatcmpl-1"))
    spool.append(COMPLETION, b"not a record at all")
    spool.append(COMPLETION, a_record("chatcmpl-2", status="no such status"))
    spool.append(COMPLETION, a_record("chatcmpl-3", said="with \x00 in it"))
    drain = Drain(spool, database)
    await drain.flush()
    assert sorted(await recorded(database)) == ["chatcmpl-1", "chatcmpl-3"]
    assert drain.refused == 2
    assert len(list((spool.root / "refused").iterdir())) == 2


async def test_feedback_given_while_the_database_was_away_is_stored(database: Database, spool: Spool) -> None:
    given = submissions.submission(
        project=PROJECT,
        completion_id="chatcmpl-1",
        rater="rater-a",
        kind="rating",
        value=True,
        comment="good",
    )
    await keep_feedback(spool, [given.to_json(), given.to_json()])
    await Drain(spool, database).flush()
    async with database.begin() as connection:
        [kept] = await submissions.of_completion(connection, PROJECT, "chatcmpl-1")
    assert (kept["feedback_id"], kept["value"], kept["comment"]) == (given.feedback_id, True, "good")


async def test_serving_goes_on_while_the_database_is_away_and_nothing_is_lost(
    database: Database, database_url: str, state_dir: Path
) -> None:
    async with (
        fake_engine() as engine,
        a_breakable_way(database) as (url, cut, mend),
        running_gateway(database, url, state_dir, engine.url) as running,
    ):
        before = (await running.ask()).json()["id"]
        await running.rows(1)
        await cut()
        during = [
            (await running.ask(stream=number % 2 == 0)).headers["x-hone-request-id"] for number in range(6)
        ]
        assert (await running.client.get("/health")).json()["status"] == "degraded"
        assert len(await recorded(database)) == 1
        await mend()
        rows = await running.rows(7, seconds=15)
    assert {row["completion_id"] for row in rows} == {before, *during}


async def test_a_completion_is_safe_before_its_client_sees_the_end(
    database: Database, database_url: str, state_dir: Path
) -> None:
    """A gateway process is killed with -9 again and again under load; another adopts what it left."""
    async with fake_engine(answer_well(("a", "b", "c"), gap_seconds=0.002)) as engine:
        key = await a_service(database, engine.url)
        seen: set[str] = set()
        for _ in range(3):
            async with a_gateway_process(database_url, state_dir, engine.url) as (process, url):
                asking = [
                    asyncio.create_task(ask_until_it_dies(url, key, seen, stream=n % 2 == 0))
                    for n in range(4)
                ]
                enough = len(seen) + 10
                while len(seen) < enough:
                    await asyncio.sleep(0.01)
                process.kill()
                await asyncio.gather(*asking)
        ids: list[str] = []
        async with running_gateway(database, database_url, state_dir, engine.url):
            for _ in range(100):
                ids = await recorded(database)
                if seen <= set(ids):
                    break
                await asyncio.sleep(0.1)
    assert seen <= set(ids)
    assert len(ids) == len(set(ids))


async def test_sigterm_lets_streams_finish(database: Database, database_url: str, state_dir: Path) -> None:
    async with fake_engine(answer_well(("a",) * 10, gap_seconds=0.05)) as engine:
        key = await a_service(database, engine.url)
        async with (
            a_gateway_process(database_url, state_dir, engine.url) as (process, url),
            httpx.AsyncClient(timeout=10) as client,
        ):
            asking = asyncio.create_task(ask(client, url, key, stream=True))
            await asyncio.sleep(0.2)
            process.send_signal(signal.SIGTERM)
            answer = await asking
            assert answer.text.endswith("data: [DONE]\n\n")
            assert await asyncio.to_thread(process.wait, 10) == 0
    assert await recorded(database) == [answer.headers["x-hone-request-id"]]


async def test_a_gateway_open_to_others_needs_a_key_first(
    database: Database, database_url: str, state_dir: Path
) -> None:
    env = {**os.environ, "HONE_DATABASE_URL": database_url, "HONE_STATE_DIR": str(state_dir)}
    command = [sys.executable, "-m", "deploy.cli", "gateway", "--host", "0.0.0.0", "--port", "0"]
    done = await asyncio.to_thread(
        subprocess.run, command, env=env, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "hone key create" in done.stderr
    assert "Traceback" not in done.stderr


async def ask(client: httpx.AsyncClient, url: str, key: str, *, stream: bool) -> httpx.Response:
    """One completion, read to its end."""
    fields = {"model": "support", "messages": [{"role": "user", "content": "?"}], "stream": stream}
    headers = {"authorization": f"Bearer {key}"}
    return await client.post(f"{url}/v1/chat/completions", json=fields, headers=headers)


async def ask_until_it_dies(url: str, key: str, seen: set[str], *, stream: bool) -> None:
    """Ask in a row; note every completion whose end was seen."""
    async with httpx.AsyncClient(timeout=10) as client:
        while True:
            try:
                answer = await ask(client, url, key, stream=stream)
            except httpx.TransportError:
                return
            if answer.status_code == 200:
                seen.add(answer.headers["x-hone-request-id"])


@asynccontextmanager
async def a_gateway_process(
    database_url: str, state_dir: Path, engine_url: str
) -> AsyncIterator[tuple["subprocess.Popen[bytes]", str]]:
    """`hone gateway` as a process of its own."""
    env = {
        **os.environ,
        "HONE_DATABASE_URL": database_url,
        "HONE_STATE_DIR": str(state_dir),
        "HONE_ENGINE_URLS": orjson.dumps([engine_url]).decode(),
        "HONE_ENGINE_WATCH": "false",
    }
    reserved = await asyncio.start_server(lambda *_: None, "127.0.0.1", 0)
    port = reserved.sockets[0].getsockname()[1]
    reserved.close()
    await reserved.wait_closed()
    command = [sys.executable, "-m", "deploy.cli", "gateway", "--port", str(port)]
    process = await asyncio.to_thread(subprocess.Popen, command, env=env)
    with process:
        try:
            async with httpx.AsyncClient() as client:
                for _ in range(600):
                    try:
                        await client.get(f"http://127.0.0.1:{port}/status")
                        break
                    except httpx.TransportError:
                        assert process.poll() is None, "the gateway did not start"
                        await asyncio.sleep(0.05)
            yield process, f"http://127.0.0.1:{port}"
        finally:
            process.kill()


@asynccontextmanager
async def a_breakable_way(database: Database):  # type: ignore[no-untyped-def]
    """The database behind a TCP relay that can be cut and mended: its address, cut, mend."""
    target = (database.url.host or "127.0.0.1", database.url.port or 5432)
    open_ways: set[asyncio.StreamWriter] = set()

    async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there_reader, there_writer = await asyncio.open_connection(*target)
        open_ways.update((writer, there_writer))

        async def pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            while data := await source.read(65536):
                sink.write(data)
            sink.close()

        await asyncio.gather(pump(reader, there_writer), pump(there_reader, writer), return_exceptions=True)

    server = await asyncio.start_server(relay, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def cut() -> None:
        server.close()
        for writer in open_ways:
            writer.transport.abort()

    async def mend() -> None:
        nonlocal server
        server = await asyncio.start_server(relay, "127.0.0.1", port)

    try:
        yield database.url.set(host="127.0.0.1", port=port).render_as_string(False), cut, mend
    finally:
        await cut()
