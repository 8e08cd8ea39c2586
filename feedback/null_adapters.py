"""Null adapters: zeros in the shape of a candidate, that answer as the base model at the price of an adapter.

Where the champion is the base model alone, a candidate would look slower than it is: it carries what LoRA costs, the
base does not. A null adapter in the base's place makes the comparison one of like with like. Its answers are the
base's, to the last digit, and are recorded and shown as those of version 0.

It is loaded and probed like any version, and is none: its name (`support@0-null1`) cannot be asked for, no list of
versions has it, and no move leads out of its state.
"""

from sqlalchemy import func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import audit
from feedback.adapters import AUTOMATIC_ACTOR, CONTROL, Adapter, by_id, champion, every
from feedback.database import notify_registry
from feedback.experiments import CHAMPION_ARM
from feedback.exposure_tables import null_adapters
from feedback.tables import adapters, arms, experiments

MET = ("candidate", "approved", "canary")
"""States in which a version meets the champion, or soon may."""


async def missing(connection: AsyncConnection) -> list[Adapter]:
    """Versions that are, or may be, compared with a bare base model."""
    base = adapters.alias("base")
    query = (
        select(adapters)
        .join(base, (base.c.project == adapters.c.project) & (base.c.model == adapters.c.model))
        .outerjoin(null_adapters, null_adapters.c.adapter_id == adapters.c.adapter_id)
        .where(
            base.c.state == "champion",
            base.c.version == 0,
            adapters.c.state.in_(MET),
            adapters.c.path.is_not(None),
            null_adapters.c.null_id.is_(None),
        )
        .order_by(adapters.c.version)
    )
    return [Adapter(**row._mapping) for row in await connection.execute(query)]


async def enter(
    connection: AsyncConnection, beside: Adapter, *, null_id: str, path: str, files_hash: str
) -> Adapter:
    """Register the null adapter `null_id`, if it is new, as what stands for the base beside a version.

    A canary that runs already gets it, too. Safe to repeat.
    """
    await connection.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"),
        {"name": f"{beside.project}/{beside.model}"},
    )
    last = select(func.least(0, func.min(adapters.c.version))).where(
        adapters.c.project == beside.project, adapters.c.model == beside.model
    )
    made = await connection.scalar(
        insert(adapters)
        .values(
            adapter_id=null_id,
            project=beside.project,
            model=beside.model,
            version=last.scalar_subquery() - 1,
            state=CONTROL,
            base_model=beside.base_model,
            path=path,
            files_hash=files_hash,
        )
        .on_conflict_do_nothing(index_elements=["adapter_id"])
        .returning(adapters.c.adapter_id)
    )
    null = await by_id(connection, null_id)
    await connection.execute(
        insert(null_adapters).values(adapter_id=beside.adapter_id, null_id=null_id).on_conflict_do_nothing()
    )
    await _take_place(connection, beside, null)
    if made is not None:
        detail = {"beside": beside.name, "files_hash": files_hash}
        await _audit(connection, null, "adapter.register_null", detail)
    await notify_registry(connection, f"adapter:{null_id}")
    return null


async def of(connection: AsyncConnection, adapter_id: str) -> str | None:
    """The null adapter that stands for the base beside a version."""
    found: str | None = await connection.scalar(
        select(null_adapters.c.null_id).where(null_adapters.c.adapter_id == adapter_id)
    )
    return found


async def of_model(connection: AsyncConnection, project: str, model: str) -> list[str]:
    """Every null adapter of a model."""
    query = select(adapters.c.adapter_id).where(
        adapters.c.project == project, adapters.c.model == model, adapters.c.state == CONTROL
    )
    return list(await connection.scalars(query))


async def names(connection: AsyncConnection, project: str, model: str) -> dict[str, str]:
    """The name of everything that may answer for a model, versions and null adapters, by adapter id."""
    everything = await every(connection)
    return {one.adapter_id: one.name for one in everything if (one.project, one.model) == (project, model)}


async def _take_place(connection: AsyncConnection, beside: Adapter, null: Adapter) -> None:
    base = await champion(connection, beside.project, beside.model)
    running = (
        select(arms.c.experiment_id)
        .join(experiments, experiments.c.experiment_id == arms.c.experiment_id)
        .where(experiments.c.status == "running", arms.c.adapter_id == beside.adapter_id)
    )
    changed = await connection.scalar(
        update(arms)
        .where(
            arms.c.experiment_id.in_(running),
            arms.c.arm == CHAMPION_ARM,
            arms.c.adapter_id == base.adapter_id,
        )
        .values(adapter_id=null.adapter_id)
        .returning(arms.c.experiment_id)
    )
    if changed is not None:
        await _audit(
            connection, null, "experiment.control", {"experiment_id": changed, "beside": beside.name}
        )


async def _audit(connection: AsyncConnection, null: Adapter, action: str, detail: dict[str, str]) -> None:
    await audit.write(
        connection,
        project=null.project,
        actor=AUTOMATIC_ACTOR,
        action=action,
        subject=null.name,
        detail=dict(detail),
    )
