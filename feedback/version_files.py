"""Which versions keep their files, and which may no longer answer because theirs were removed."""

from datetime import datetime

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import adapters, audit
from feedback.adapters import AUTOMATIC_ACTOR, Adapter
from feedback.errors import IllegalMove
from feedback.models import Model
from feedback.tables import adapters as adapters_table
from feedback.watch_tables import removed_files


async def superfluous(connection: AsyncConnection, model: Model) -> list[Adapter]:
    """Retired and rejected versions beyond the newest that the policy keeps; nothing that an engine should hold."""
    wanted = {one.adapter_id for one in await adapters.wanted_on_engines(connection)}
    gone = {one.adapter_id for one in await removed(connection)}
    versions = [
        one
        for one in await adapters.of_model(connection, model.project, model.model)
        if one.version and one.path and one.adapter_id not in gone
    ]
    beyond: list[Adapter] = []
    for state in ("retired", "rejected"):
        of_state = sorted(
            (one for one in versions if one.state == state), key=lambda one: one.updated_at, reverse=True
        )
        beyond += of_state[model.policy.rollout.versions_kept :]
    return [one for one in beyond if one.adapter_id not in wanted]


async def mark_removed(connection: AsyncConnection, adapter: Adapter) -> None:
    """Write down that a version's files go, before they do."""
    await connection.execute(
        insert(removed_files).values(adapter_id=adapter.adapter_id).on_conflict_do_nothing()
    )
    await audit.write(
        connection,
        project=adapter.project,
        actor=AUTOMATIC_ACTOR,
        action="adapter.remove_files",
        subject=adapter.name,
        detail={"path": adapter.path, "files_hash": adapter.files_hash},
    )


async def removed(connection: AsyncConnection) -> list[Adapter]:
    """Every version without files."""
    query = select(adapters_table).join(
        removed_files, removed_files.c.adapter_id == adapters_table.c.adapter_id
    )
    return [Adapter(**row._mapping) for row in await connection.execute(query)]


async def require(connection: AsyncConnection, adapter: Adapter) -> None:
    """Refuse a version that cannot answer any more.

    Raises:
        IllegalMove: its files were removed.
    """
    removed_at: datetime | None = await connection.scalar(
        select(removed_files.c.removed_at).where(removed_files.c.adapter_id == adapter.adapter_id)
    )
    if removed_at is not None:
        raise IllegalMove(
            f"{adapter.name} cannot answer: its files were removed on {removed_at:%Y-%m-%d}, as the policy keeps "
            "rollout.versions_kept of the versions that left service. Train it again from its run's recipe and dataset."
        )
