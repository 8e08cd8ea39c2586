"""Where exports went, so that an erasure finds them: their paths, never what is in them."""

import socket
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.ids import new_id
from feedback.privacy_tables import exports


async def note(connection: AsyncConnection, project: str, path: Path, *, by: str) -> None:
    """Remember that a file with what people said is being written: `path` is absolute."""
    await connection.execute(
        exports.insert().values(
            export_id=new_id("export"),
            project=project,
            path=str(path),
            host=socket.gethostname(),
            made_by=by,
        )
    )


async def on_this_machine(connection: AsyncConnection, project: str) -> dict[str, Path]:
    """The files on this machine that exports of the project wrote and no erasure deleted, by export id."""
    query = select(exports.c.export_id, exports.c.path).where(
        exports.c.project == project, exports.c.host == socket.gethostname(), exports.c.deleted_at.is_(None)
    )
    return {row.export_id: Path(row.path) for row in await connection.execute(query)}


async def elsewhere(connection: AsyncConnection, project: str) -> list[str]:
    """The files that other machines wrote, as host:path; an erasure here cannot delete them."""
    query = select(exports.c.host, exports.c.path).where(
        exports.c.project == project, exports.c.host != socket.gethostname(), exports.c.deleted_at.is_(None)
    )
    return [f"{row.host}:{row.path}" for row in await connection.execute(query.order_by(exports.c.path))]


async def mark_deleted(connection: AsyncConnection, export_ids: Sequence[str]) -> None:
    """Say that these files are gone."""
    await connection.execute(
        update(exports).where(exports.c.export_id.in_(export_ids)).values(deleted_at=func.now())
    )
