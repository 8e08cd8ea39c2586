"""Which adapters learned from what was erased, what to do about each, and retiring them when their time is over.

An adapter is tainted when rows of its own training split were erased, or when it continues one that is. Deleting rows
does not make weights forget: training again from the base model, without the rows, does.
"""

from collections.abc import Collection
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import adapters, audit, lineage, models, shipping, version_files
from feedback.adapters import AUTOMATIC_ACTOR, Adapter
from feedback.privacy_tables import erasures, tainted_adapters
from feedback.tables import adapters as adapter_rows
from feedback.tables import runs

OUT_OF_SERVICE = ("retired", "rejected")


async def mark(
    connection: AsyncConnection, erasure_id: str, project: str, dataset_ids: Collection[str]
) -> list[str]:
    """Mark every adapter that was trained on these datasets, or continues one that was; returns their ids."""
    query = (
        select(adapter_rows.c.adapter_id)
        .join(runs, runs.c.run_id == adapter_rows.c.run_id)
        .where(adapter_rows.c.project == project, runs.c.dataset_id.in_(sorted(dataset_ids)))
    )
    rows = [{"erasure_id": erasure_id, "adapter_id": one} for one in await connection.scalars(query)]
    if rows:
        await connection.execute(insert(tainted_adapters).on_conflict_do_nothing(), rows)
        await spread(connection)
    of_erasure = select(tainted_adapters.c.adapter_id).where(tainted_adapters.c.erasure_id == erasure_id)
    return sorted(await connection.scalars(of_erasure))


async def spread(connection: AsyncConnection) -> None:
    """Mark the adapters that continue a tainted one, those trained since included."""
    tainted: dict[str, set[str]] = {}
    for row in await connection.execute(select(tainted_adapters.c.adapter_id, tainted_adapters.c.erasure_id)):
        tainted.setdefault(row.adapter_id, set()).add(row.erasure_id)
    if not tainted:
        return
    rows = []
    for adapter in await adapters.every(connection):
        for parent in await lineage.ancestors(connection, adapter):
            erasure_ids = tainted.get(parent.adapter_id, set()) - tainted.get(adapter.adapter_id, set())
            rows += [
                {"erasure_id": one, "adapter_id": adapter.adapter_id, "through": parent.adapter_id}
                for one in sorted(erasure_ids)
            ]
            tainted.setdefault(adapter.adapter_id, set()).update(erasure_ids)
    if rows:
        await connection.execute(insert(tainted_adapters).on_conflict_do_nothing(), rows)


async def plan(connection: AsyncConnection, erasure_id: str) -> list[dict[str, Any]]:
    """Each tainted adapter: where it stands, and what to do so that nothing which learned from the rows answers."""
    query = (
        select(adapter_rows, tainted_adapters.c.through, tainted_adapters.c.retired_at)
        .join(tainted_adapters, tainted_adapters.c.adapter_id == adapter_rows.c.adapter_id)
        .where(tainted_adapters.c.erasure_id == erasure_id)
        .order_by(adapter_rows.c.model, adapter_rows.c.version)
    )
    steps = []
    for row in await connection.execute(query):
        fields = dict(row._mapping)
        through, retired_at = fields.pop("through"), fields.pop("retired_at")
        adapter = Adapter(**fields)
        steps.append(
            {
                "name": adapter.name,
                "adapter_id": adapter.adapter_id,
                "state": adapter.state,
                "through": through,
                "retired_at": retired_at,
                "to_do": await _to_do(connection, adapter),
            }
        )
    return steps


async def _to_do(connection: AsyncConnection, adapter: Adapter) -> str:
    if adapter.state in OUT_OF_SERVICE:
        return "It is out of service. Its files still hold what it learned until the deadline, or `adapter` removal."
    again = f"train again from the base model without the rows: `hone retrain now --model {adapter.model}`"
    if adapter.state != "champion":
        return f"`hone reject {adapter.name}`, then {again}."
    fallback = await untainted(connection, adapter)
    return f"{again[0].upper()}{again[1:]}; promote that, or `hone rollback --to {fallback.name}`."


async def every_tainted(connection: AsyncConnection) -> set[str]:
    """The ids of all tainted adapters."""
    return set(await connection.scalars(select(tainted_adapters.c.adapter_id)))


async def untainted(connection: AsyncConnection, champion: Adapter) -> Adapter:
    """The champion before this one that no erasure taints; in the end the base model, which learned from nobody."""
    tainted = await every_tainted(connection)
    removed = {one.adapter_id for one in await version_files.removed(connection)}
    versions = await adapters.of_model(connection, champion.project, champion.model)
    able = [one for one in versions if one.state == "retired" and one.adapter_id not in tainted | removed]
    return max(able, key=lambda one: (one.version > 0, one.updated_at))


async def retire_overdue(connection: AsyncConnection) -> list[str]:
    """Take out of service what is tainted past its erasure's deadline; returns one sentence each."""
    query = (
        select(
            tainted_adapters.c.erasure_id,
            adapter_rows.c.adapter_id,
            adapter_rows.c.project,
            adapter_rows.c.model,
        )
        .join(erasures, erasures.c.erasure_id == tainted_adapters.c.erasure_id)
        .join(adapter_rows, adapter_rows.c.adapter_id == tainted_adapters.c.adapter_id)
        .where(erasures.c.retire_by <= func.now(), tainted_adapters.c.retired_at.is_(None))
        .order_by(tainted_adapters.c.adapter_id)
    )
    overdue = (await connection.execute(query)).all()
    # Before the first entry of the trail: who decides takes the model first, and the other order would be a deadlock.
    for project, model in sorted({(one.project, one.model) for one in overdue}):
        await models.hold(connection, project, model)
    done = []
    for erasure_id, adapter_id, *_ in overdue:
        adapter = await adapters.by_id(connection, adapter_id)
        if adapter.state == "trained":
            continue  # Its evaluation ends soon; what it becomes then can be taken back.
        done.append(await _retire(connection, adapter, f"Erasure {erasure_id} retires what it taints."))
        await connection.execute(
            update(tainted_adapters)
            .where(tainted_adapters.c.erasure_id == erasure_id, tainted_adapters.c.adapter_id == adapter_id)
            .values(retired_at=func.now())
        )
    return done


async def _retire(connection: AsyncConnection, adapter: Adapter, reason: str) -> str:
    project, by = adapter.project, AUTOMATIC_ACTOR
    sentence = f"{adapter.name} is out of service: its data was erased."
    if adapter.state == "champion":
        fallback = await untainted(connection, adapter)
        await shipping.roll_back(connection, project, adapter.model, to=fallback.name, by=by, reason=reason)
        sentence = f"{sentence} {fallback.name} answers in its place."
    if adapter.state == "canary":
        await shipping.abort(connection, project, adapter.model, only=adapter.name, by=by, reason=reason)
    if adapter.state in ("canary", "candidate", "approved"):
        await shipping.reject(connection, project, adapter.name, by=by, reason=reason)
    if adapter.adapter_id not in {one.adapter_id for one in await version_files.removed(connection)}:
        # Whoever pins the version must not get it either, and the weights are a copy of what they learned.
        await version_files.mark_removed(connection, adapter)
    await audit.write(
        connection,
        project=project,
        actor=by,
        action="adapter.retire_tainted",
        subject=adapter.name,
        detail={"reason": reason},
    )
    return sentence
