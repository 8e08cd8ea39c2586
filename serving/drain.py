"""Move the spool into the record, in batches.

A batch is forgotten by the spool only once its transaction has committed;
inserting one twice is harmless, so every completion is in the record exactly once, whatever was killed. While the
database is away the spool grows and the drain tries again with a growing pause.

One row the database refuses for what it holds must not stop those behind it: it is set aside in `refused/`, counted and
logged, and the rest go on.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import NamedTuple

import asyncpg
from sqlalchemy.exc import DBAPIError

from feedback import completions, erasures, submissions
from feedback.database import Database
from feedback.ids import new_id
from feedback.submissions import Spooled
from serving.redaction import read_completion, read_redacted
from serving.spool import COMPLETION, FEEDBACK, ROW, Batch, Reader, Record, Spool

logger = logging.getLogger(__name__)

SLICE_SECONDS = 0.001
PAUSE_PER_SLICE = 4.0
"""Where the event loop also answers, reading takes a fifth of it at most, in slices: a peak of requests waits on disk,
not in line."""
PAUSE_SECONDS_MAX = 10.0
FEEDBACK_ROWS = 32
ADOPT_SECONDS = 30.0


READ: dict[int, Callable[[bytes], bytes | Spooled]] = {
    COMPLETION: read_completion,
    ROW: read_redacted,
    FEEDBACK: submissions.read_spooled,
}


class Item(NamedTuple):
    """A spooled record, and the row or feedback that it holds."""

    record: Record
    row: bytes | Spooled


class Drain:
    """The task that empties one gateway's spool.

    With `shares_loop` the same event loop answers requests.
    """

    def __init__(
        self,
        spool: Reader,
        database: Database,
        *,
        batch_rows_max: int = 1024,
        interval_seconds: float = 0.2,
        sync_seconds: float = 1.0,
        shares_loop: bool = True,
    ) -> None:
        self.spool = spool
        self.shares_loop = shares_loop
        self.database = database
        self.batch_rows_max = batch_rows_max
        self.interval_seconds = interval_seconds
        self.sync_seconds = sync_seconds
        self.recorded = 0
        self.refused = 0
        self.last_error: str | None = None
        self._renewed_at = datetime.now(UTC)

    async def run(self) -> None:
        """Drain until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._drain_for_ever())
            group.create_task(self._sync_for_ever())

    async def flush(self) -> None:
        """Drain what is there now, once; raises when the database does not take it."""
        while (batch := self.spool.next_batch(records_max=self.batch_rows_max)) is not None:
            await self._store(batch)
            self.spool.advance(batch)

    async def _drain_for_ever(self) -> None:
        pause = self.interval_seconds
        adopted_at = time.monotonic()
        while True:
            try:
                await self.flush()
            except Exception as error:
                pause = min(pause * 2, PAUSE_SECONDS_MAX)
                if self.last_error is None:
                    logger.warning(
                        "The database does not take completions; they wait in the spool: %s", error
                    )
                self.last_error = f"{error}"
            else:
                if self.last_error is not None:
                    logger.info("The database takes completions again.")
                pause, self.last_error = self.interval_seconds, None
            if time.monotonic() - adopted_at > ADOPT_SECONDS:
                adopted_at = time.monotonic()
                self.spool.adopt()
                await self.let_go()
            await asyncio.sleep(pause)

    async def let_go(self) -> None:
        """Drop from the disk what was stored before somebody asked to be forgotten; the writer's process can."""
        if not isinstance(self.spool, Spool):
            return
        # Whatever it is, recording goes on: this is asked again every half minute.
        with suppress(Exception):
            async with self.database.begin() as connection:
                asked = await erasures.newest_request(connection)
            now = datetime.now(UTC)
            if asked is not None and asked >= self._renewed_at and self.spool.renew():
                self._renewed_at = now

    async def _sync_for_ever(self) -> None:
        while True:
            await asyncio.sleep(self.sync_seconds)
            with suppress(OSError):
                await asyncio.to_thread(self.spool.sync)

    async def _store(self, batch: Batch) -> None:
        items = await self._read(batch.records)
        try:
            await self._insert(items)
        except Exception as error:
            if not _is_about_a_row(error):
                raise
            await self._insert_one_by_one(items)

    async def _read(self, records: list[Record]) -> list[Item]:
        items: list[Item] = []
        began = time.perf_counter()
        for record in records:
            try:
                items.append(Item(record, READ[record.kind](record.payload)))
            except Exception as error:  # Whatever an engine sent, the records behind it must get through.
                self._set_aside(record, error)
            if self.shares_loop and (spent := time.perf_counter() - began) > SLICE_SECONDS:
                await asyncio.sleep(spent * PAUSE_PER_SLICE)
                began = time.perf_counter()
        return items

    async def _insert(self, items: list[Item]) -> None:
        rows = [item.row for item in items if isinstance(item.row, bytes)]
        given = [item.row for item in items if not isinstance(item.row, bytes)]
        if rows:
            async with self.database.begin() as connection:
                new = await completions.insert_documents(connection, rows)
            self.recorded += new
        # A few at a time: their locks make callers wait who send feedback now.
        for start in range(0, len(given), FEEDBACK_ROWS):
            async with self.database.begin() as connection:
                await submissions.apply_all(connection, given[start : start + FEEDBACK_ROWS])

    async def _insert_one_by_one(self, items: list[Item]) -> None:
        for item in items:
            try:
                await self._insert([item])
            except Exception as error:
                if not _is_about_a_row(error):
                    raise
                self._set_aside(item.record, error)

    def _set_aside(self, record: Record, error: Exception) -> None:
        self.refused += 1
        directory = self.spool.root / "refused"
        directory.mkdir(exist_ok=True)
        path = directory / f"{new_id('record')}.bin"
        path.write_bytes(record.payload)
        logger.error("A record cannot be stored and was set aside in %s: %s", path, _reason(error))


def _reason(error: Exception) -> str:
    """What is wrong with a record, without what stands in it: a log outlives every retention and erasure."""
    cause = _cause(error)
    where = getattr(cause, "constraint_name", None) or getattr(cause, "column_name", None)
    return f"{type(cause).__name__} of {where}" if where else type(cause).__name__


def _cause(error: Exception) -> BaseException | None:
    return error.orig.__cause__ if isinstance(error, DBAPIError) and error.orig else error


def _is_about_a_row(error: Exception) -> bool:
    """Whether the database, or its driver, refuses what a row holds; anything else is an outage."""
    cause = _cause(error)
    about_values = (
        asyncpg.DataError,
        asyncpg.IntegrityConstraintViolationError,
        TypeError,
        ValueError,
        OverflowError,
    )
    return isinstance(cause, about_values)
