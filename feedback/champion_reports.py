"""What was found of each champion since its promotion, for people and for alerts; the newest report of each."""

from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.watch_tables import champion_watches


async def of_champion(connection: AsyncConnection, adapter_id: str) -> dict[str, Any] | None:
    """The newest report on a version, None before there is one."""
    query = select(champion_watches).where(champion_watches.c.adapter_id == adapter_id)
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else {str(name): value for name, value in row._mapping.items()}


async def store(
    connection: AsyncConnection, adapter_id: str, report: dict[str, Any], *, since: datetime
) -> None:
    """Keep the newest report on a version that was promoted at `since`."""
    values = {"since": since, "report": report, "checked_at": func.now()}
    await connection.execute(
        insert(champion_watches)
        .values(adapter_id=adapter_id, **values)
        .on_conflict_do_update(index_elements=[champion_watches.c.adapter_id], set_=values)
    )


async def note_rolled_back(connection: AsyncConnection, adapter_id: str) -> None:
    """Write down that a version was taken out of service by itself."""
    await connection.execute(
        champion_watches.update()
        .where(champion_watches.c.adapter_id == adapter_id)
        .values(rolled_back_at=func.now())
    )
