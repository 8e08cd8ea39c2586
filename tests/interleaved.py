"""Two transactions at the same moment: one acts while the other has written, and has not committed."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.database import Database

T = TypeVar("T")
_WAITING = text(
    "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
)


async def meanwhile(database: Database, act: Callable[[AsyncConnection], Awaitable[T]]) -> asyncio.Task[T]:
    """Somebody else's transaction, once it has ended or waits for the one that is open here."""

    async def work() -> T:
        async with database.begin() as connection:
            return await act(connection)

    task = asyncio.create_task(work())
    async with asyncio.timeout(30):
        while not task.done():
            async with database.begin() as connection:
                if await connection.scalar(_WAITING):
                    break
            await asyncio.sleep(0.01)
    return task
