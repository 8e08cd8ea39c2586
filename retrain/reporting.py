"""Tell the record how a training stands, from beside it: training never waits for the database.

Of progress only the newest is kept, and written at most once an interval; a database that is away costs progress
rows, not the run.
"""

import asyncio
import threading
from dataclasses import asdict
from typing import Any

import structlog
from sqlalchemy.exc import DBAPIError

from feedback import runs
from feedback.database import Database
from retrain.context import Progress

log = structlog.get_logger(__name__)


class Reporter:
    """Writes the progress of one run from a thread of its own."""

    def __init__(self, database_url: str, run_id: str, *, interval_seconds: float) -> None:
        self._url = database_url
        self._run_id = run_id
        self._interval_seconds = interval_seconds
        self._newest: Progress | None = None
        self._closing = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._write()), daemon=True)

    def __enter__(self) -> "Reporter":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._thread.join(timeout=15)

    def report(self, progress: Progress) -> None:
        """Take the newest progress; returns at once."""
        self._newest = progress

    async def _write(self) -> None:
        async with Database(self._url, pool_size=1) as database:
            written: Progress | None = None
            while True:
                closing = await asyncio.to_thread(self._closing.wait, self._interval_seconds)
                newest = self._newest
                if newest is not None and newest is not written:
                    written = newest
                    await self._store(database, newest)
                if closing:
                    return

    async def _store(self, database: Database, progress: Progress) -> None:
        values: dict[str, Any] = asdict(progress)
        stage = f", stage {progress.stage}" if progress.stage else ""
        message = f"Step {progress.step} of {progress.steps}{stage}, loss {progress.loss:.4f}"
        try:
            async with database.begin() as connection:
                await runs.change(connection, self._run_id, progress=values)
                await runs.add_event(connection, self._run_id, message, data=values)
        except (OSError, DBAPIError, ValueError) as error:
            log.warning("progress not stored", run_id=self._run_id, error=str(error))
