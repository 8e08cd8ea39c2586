"""Engine replicas as the gateways see them: what each serves, which versions it holds, which passed the probe."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.tables import engine_adapters, engines


@dataclass(frozen=True, slots=True)
class Engine:
    """One replica."""

    engine: str
    base_model: str
    healthy: bool
    detail: str | None
    limits: dict[str, Any]
    checked_at: datetime


@dataclass(frozen=True, slots=True)
class EngineAdapter:
    """One version on one replica."""

    engine: str
    adapter_id: str
    state: str
    detail: str | None
    checked_at: datetime


async def report(
    connection: AsyncConnection,
    engine: str,
    *,
    base_model: str,
    healthy: bool,
    detail: str | None = None,
    limits: dict[str, Any] | None = None,
) -> None:
    """Say how a replica was found."""
    values = {
        "base_model": base_model,
        "healthy": healthy,
        "detail": detail,
        "limits": limits or {},
        "checked_at": func.now(),
    }
    await connection.execute(
        insert(engines)
        .values(engine=engine, **values)
        .on_conflict_do_update(index_elements=["engine"], set_=values)
    )


async def report_adapter(
    connection: AsyncConnection, engine: str, adapter_id: str, *, state: str, detail: str | None = None
) -> None:
    """Say how a version stands on a replica: `loaded`, `ready` (passed the probe) or `failed` with a reason."""
    values = {"state": state, "detail": detail, "checked_at": func.now()}
    await connection.execute(
        insert(engine_adapters)
        .values(engine=engine, adapter_id=adapter_id, **values)
        .on_conflict_do_update(index_elements=["engine", "adapter_id"], set_=values)
    )


async def forget_adapter(connection: AsyncConnection, engine: str, adapter_id: str) -> None:
    """The replica no longer holds the version."""
    await connection.execute(
        delete(engine_adapters).where(
            engine_adapters.c.engine == engine, engine_adapters.c.adapter_id == adapter_id
        )
    )


async def every(connection: AsyncConnection) -> list[Engine]:
    """All replicas ever reported."""
    return [
        Engine(**row._mapping) for row in await connection.execute(select(engines).order_by(engines.c.engine))
    ]


async def standing(connection: AsyncConnection, adapter_id: str) -> list[EngineAdapter]:
    """How a version stands on each replica that tried it."""
    query = (
        select(engine_adapters)
        .where(engine_adapters.c.adapter_id == adapter_id)
        .order_by(engine_adapters.c.engine)
    )
    return [EngineAdapter(**row._mapping) for row in await connection.execute(query)]


async def holders(connection: AsyncConnection, adapter_id: str) -> list[str]:
    """Base URLs of the healthy replicas on which the version is ready."""
    query = (
        select(engine_adapters.c.engine)
        .join(engines, engines.c.engine == engine_adapters.c.engine)
        .where(
            engine_adapters.c.adapter_id == adapter_id, engine_adapters.c.state == "ready", engines.c.healthy
        )
        .order_by(engine_adapters.c.engine)
    )
    return list((await connection.execute(query)).scalars())


async def ready(connection: AsyncConnection) -> list[EngineAdapter]:
    """Every version on every healthy replica on which it may answer."""
    query = (
        select(engine_adapters)
        .join(engines, engines.c.engine == engine_adapters.c.engine)
        .where(engine_adapters.c.state == "ready", engines.c.healthy)
        .order_by(engine_adapters.c.engine)
    )
    return [EngineAdapter(**row._mapping) for row in await connection.execute(query)]
