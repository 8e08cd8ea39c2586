"""Write what a gateway found on an engine into the record: for people, and for routing tables of other processes.

Only changes are written, and a sign of life now and then. After a restart of the engine its rows go first, in the same
transaction that says it is well: nobody reads a version as ready that has not been proven since.

While the database is away nothing is written, and nothing waits for it; the next report has what was missed.
"""

import logging
import time

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import engines
from feedback.database import Database, notify_registry
from feedback.tables import engine_adapters
from feedback.tables import engines as engines_table
from serving.replica import Replica

logger = logging.getLogger(__name__)

SIGN_OF_LIFE_SECONDS = 30.0
NOTICE = "engine:"


def is_engine_report(payload: str) -> bool:
    """Whether a registry notification only says that an engine was found otherwise than before."""
    return payload.startswith(NOTICE)


class EngineReport:
    """What the record knows from us about one engine."""

    def __init__(self, database: Database, replica: Replica) -> None:
        self.database = database
        self.replica = replica
        self._engine: tuple[bool, str | None, float | None] | None = None
        self._adapters: dict[str, tuple[str, str | None]] = {}
        self._saved_at = 0.0
        self._is_reachable = True

    async def save(self) -> None:
        """Write what changed. Never raises."""
        replica = self.replica
        engine = (replica.healthy, replica.detail, replica.started_at)
        held = replica.standing
        is_quiet = (engine, held) == (self._engine, self._adapters)
        if is_quiet and time.monotonic() - self._saved_at < SIGN_OF_LIFE_SECONDS:
            return
        try:
            async with self.database.begin() as connection:
                await self._save_engine(connection)
                await self._save_adapters(connection, held)
                if not is_quiet:
                    await notify_registry(connection, f"{NOTICE}{replica.url}")
        except Exception as error:
            if self._is_reachable:
                logger.warning("What engine %s holds cannot be recorded now: %s", replica.url, error)
            self._is_reachable = False
        else:
            self._engine, self._adapters = engine, held
            self._saved_at, self._is_reachable = time.monotonic(), True

    async def _save_engine(self, connection: AsyncConnection) -> None:
        replica = self.replica
        query = select(engines_table.c.limits).where(engines_table.c.engine == replica.url).with_for_update()
        known = await connection.scalar(query) or {}
        limits = {**known, "adapters_max": replica.rules.adapters_max}
        if replica.healthy and known.get("started_at") != replica.started_at:
            limits["started_at"] = replica.started_at
            await connection.execute(delete(engine_adapters).where(engine_adapters.c.engine == replica.url))
            self._adapters = {}
        await engines.report(
            connection,
            replica.url,
            base_model=replica.base_model or "",
            healthy=replica.healthy,
            detail=replica.detail,
            limits=limits,
        )

    async def _save_adapters(
        self, connection: AsyncConnection, held: dict[str, tuple[str, str | None]]
    ) -> None:
        url = self.replica.url
        for adapter_id in sorted(self._adapters.keys() - held.keys()):
            await engines.forget_adapter(connection, url, adapter_id)
        for adapter_id, (state, detail) in sorted(held.items()):
            if self._adapters.get(adapter_id) != (state, detail):
                await engines.report_adapter(connection, url, adapter_id, state=state, detail=detail)
