"""Drain the spool in a process of its own, so that the gateway's core answers and does not parse what it answered.

The process holds the lock of the gateway's spool directory too, so nobody adopts what it still reads. It is started
again whenever it ends; it ends with its gateway, however that ends, because its standard input does, and stores
before that what it can. It reports what it did on its standard output.

It holds nothing: what it knows is in the spool and in the record, so killing it costs a pause. It runs at a lower
priority than the gateway: on a machine of one core, answers come first.
"""

import asyncio
import logging
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from feedback.database import Database
from monitoring.logs import set_up
from serving.drain import ADOPT_SECONDS, Drain
from serving.spool import Queue, Reader, Spool

logger = logging.getLogger(__name__)

NICENESS = 5
RESTART_SECONDS = 1.0
LAST_FLUSH_SECONDS = 4.0


class DrainProcess:
    """The gateway's side: starts the process, listens to what it reports, ends it."""

    def __init__(
        self, spool: Spool, database: Database, *, batch_rows_max: int = 1024, interval_seconds: float = 0.2
    ) -> None:
        self.spool = spool
        self.recorded = 0
        self.refused = 0
        self.last_error: str | None = None
        self.process: Process | None = None
        self._writer = Drain(spool, database)
        self._order = {
            "directory": str(spool.own.directory),
            "lock": spool.own.lock,
            "database_url": database.url.render_as_string(hide_password=False),
            "batch_rows_max": batch_rows_max,
            "interval_seconds": interval_seconds,
        }

    async def run(self) -> None:
        """Keep the process running until cancelled; it goes on until `flush`."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._keep_running())
            group.create_task(self._let_go_for_ever())

    async def flush(self) -> None:
        """Let the process store what is there, and end."""
        process = self.process
        if process is not None and process.stdin is not None:
            process.stdin.close()
            try:
                await process.wait()
            finally:
                with suppress(ProcessLookupError):
                    process.kill()

    async def _keep_running(self) -> None:
        while True:
            try:
                process = self.process
                if process is None or process.returncode is not None:
                    process = self.process = await self._start()
                await self._listen(process)
                logger.warning("The drain ended with status %s; starting it again.", await process.wait())
            except OSError as error:
                logger.warning("The drain cannot be started; completions wait in the spool: %s", error)
            await asyncio.sleep(RESTART_SECONDS)

    async def _listen(self, process: Process) -> None:
        assert process.stdout is not None
        recorded, refused = self.recorded, self.refused
        while line := await process.stdout.readline():
            report: dict[str, Any] = orjson.loads(line)
            self.recorded = recorded + report["recorded"]
            self.refused = refused + report["refused"]
            self.last_error = report["last_error"]

    async def _start(self) -> Process:
        process = await asyncio.create_subprocess_exec(
            # -P: a folder named `serving` where the gateway happens to run must not be taken for ours.
            *(sys.executable, "-P", "-m", "serving.drain_process"),
            stdin=PIPE,
            stdout=PIPE,
            pass_fds=(self.spool.own.lock,),
        )
        assert process.stdin is not None
        process.stdin.write(orjson.dumps(self._order) + b"\n")
        return process

    async def _let_go_for_ever(self) -> None:
        while True:
            await asyncio.sleep(ADOPT_SECONDS)
            await self._writer.let_go()


async def drain_until_told(order: dict[str, Any]) -> None:
    """The process's side: drain until standard input ends, then once more."""
    reader = Reader(Queue(Path(order["directory"]), order["lock"]))
    reader.adopt()
    async with Database(order["database_url"], pool_size=1) as database:
        drain = Drain(
            reader,
            database,
            batch_rows_max=order["batch_rows_max"],
            interval_seconds=order["interval_seconds"],
            shares_loop=False,
        )
        tasks = [asyncio.create_task(duty) for duty in (_end_of_input(), drain.run(), _report(drain))]
        done, others = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)
        with suppress(Exception):
            async with asyncio.timeout(LAST_FLUSH_SECONDS):
                await drain.flush()
        for task in done:
            task.result()


async def _report(drain: Drain) -> None:
    told = b""
    while True:
        known = {"recorded": drain.recorded, "refused": drain.refused, "last_error": drain.last_error}
        if (line := orjson.dumps(known) + b"\n") != told:
            os.write(sys.stdout.fileno(), line)
            told = line
        await asyncio.sleep(drain.interval_seconds)


async def _end_of_input() -> None:
    stream = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), sys.stdin
    )
    await stream.read()


def main() -> None:
    """Do what the first line of standard input says."""
    # Ctrl-C reaches the whole group: the gateway decides when this ends, by closing the pipe.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    os.nice(NICENESS)
    set_up("recorder")
    order = orjson.loads(sys.stdin.buffer.readline())
    with suppress(BrokenPipeError):
        asyncio.run(drain_until_told(order))


if __name__ == "__main__":
    main()
