"""The process that drains the spool: killed, it comes back; told to end, it stores what is there; nothing is lost."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import psutil
import pytest
from sqlalchemy import text
from sqlalchemy.exc import TimeoutError as PoolTimeout

from feedback.database import Database
from serving.drain_process import DrainProcess
from serving.spool import COMPLETION, FRAME, Spool
from tests.fakes import fake_engine
from tests.serving.running import running_gateway
from tests.serving.test_record import a_record, recorded


@asynccontextmanager
async def draining(spool: Spool, database: Database) -> AsyncIterator[DrainProcess]:
    """A drain process beside this one; not told to end by this."""
    drain = DrainProcess(spool, database, interval_seconds=0.02)
    running = asyncio.create_task(drain.run())
    try:
        yield drain
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def until_recorded(database: Database, count: int, *, seconds: float = 60.0) -> list[str]:
    async with asyncio.timeout(seconds):
        while len(found := await recorded(database)) < count:
            await asyncio.sleep(0.05)
    return found


async def test_the_drain_comes_back_when_it_is_killed_and_stores_all_when_it_is_told_to_end(
    database: Database, tmp_path: Path
) -> None:
    spool = Spool(tmp_path / "spool", segment_bytes=2000, read_elsewhere=True)
    names = [f"chatcmpl-{number:02}" for number in range(30)]
    async with draining(spool, database) as drain:
        for name in names[:10]:
            spool.append(COMPLETION, a_record(name))
        await until_recorded(database, 10)
        assert drain.process is not None
        drain.process.send_signal(signal.SIGKILL)
        for name in names[10:20]:
            spool.append(COMPLETION, a_record(name))
        await until_recorded(database, 20)
    for name in names[20:]:
        spool.append(COMPLETION, a_record(name))
    await drain.flush()
    assert sorted(await recorded(database)) == names
    assert drain.process.returncode == 0
    assert spool.depth_bytes == 0
    spool.close()
    assert list(spool.root.iterdir()) == []


async def test_a_writer_that_is_full_has_room_again_once_the_other_process_stored(
    database: Database, tmp_path: Path
) -> None:
    size = FRAME.size + len(a_record("chatcmpl-00"))
    spool = Spool(tmp_path / "spool", bytes_max=10 * size, read_elsewhere=True)
    async with draining(spool, database) as drain:
        for number in range(30):
            if number % 10 == 0:
                await until_recorded(database, number)
                async with asyncio.timeout(60):
                    while spool.depth_bytes:
                        await asyncio.sleep(0.01)
            spool.append(COMPLETION, a_record(f"chatcmpl-{number:02}"))
        await until_recorded(database, 30)
    await drain.flush()
    assert drain.recorded == 30


async def test_a_gateway_records_through_its_process_and_leaves_none_behind(
    database: Database, database_url: str, state_dir: Path
) -> None:
    settings = {"record_in_own_process": True}
    async with (
        fake_engine() as engine,
        running_gateway(database, database_url, state_dir, engine.url, **settings) as running,
    ):
        answers = [await running.ask() for _ in range(3)]
        rows = await running.rows(3, seconds=60)
        drain = running.gateway.drain
        assert isinstance(drain, DrainProcess) and drain.process is not None
        pid = drain.process.pid
        assert psutil.pid_exists(pid)
    assert {answer.json()["id"] for answer in answers} == {row["completion_id"] for row in rows}
    assert not psutil.pid_exists(pid)


async def test_it_ends_when_its_gateway_is_gone_and_its_last_rows_are_stored(
    database: Database, tmp_path: Path
) -> None:
    spool = Spool(tmp_path / "spool", read_elsewhere=True)
    async with draining(spool, database) as drain:
        spool.append(COMPLETION, a_record("chatcmpl-1"))
        await until_recorded(database, 1)
    spool.append(COMPLETION, a_record("chatcmpl-2"))
    assert drain.process is not None and drain.process.stdin is not None
    drain.process.stdin.close()  # What the kernel does for a gateway that is killed.
    async with asyncio.timeout(30):
        assert await drain.process.wait() == 0
    assert await recorded(database) == ["chatcmpl-1", "chatcmpl-2"]


async def test_the_directory_stays_locked_while_the_process_reads_it(
    database: Database, tmp_path: Path
) -> None:
    spool = Spool(tmp_path / "spool", read_elsewhere=True)
    async with draining(spool, database) as drain:
        spool.append(COMPLETION, a_record("chatcmpl-1"))
        await until_recorded(database, 1)
        os.close(spool.own.lock)  # The gateway is gone, its drain is not.
        assert Spool(tmp_path / "spool").adopted == []
    await drain.flush()
    assert len(Spool(tmp_path / "spool").adopted) >= 1
    async with database.begin() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM completions")) == 1


async def test_what_goes_wrong_while_looking_for_erasures_does_not_end_the_recording(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def no_room(connection: object) -> None:
        raise PoolTimeout("QueuePool limit of size 5 overflow 5 reached")

    monkeypatch.setattr("serving.drain.erasures.newest_request", no_room)
    monkeypatch.setattr("serving.drain_process.ADOPT_SECONDS", 0.01)
    spool = Spool(tmp_path / "spool", read_elsewhere=True)
    async with draining(spool, database) as drain:
        await asyncio.sleep(0.2)
        spool.append(COMPLETION, a_record("chatcmpl-1"))
        await until_recorded(database, 1)
        assert drain.process is not None
        drain.process.send_signal(signal.SIGKILL)
        spool.append(COMPLETION, a_record("chatcmpl-2"))
        await until_recorded(database, 2)
    await drain.flush()
