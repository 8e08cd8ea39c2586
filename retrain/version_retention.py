"""Remove the files of versions that the policy no longer keeps; the record of them stays.

What is in service, may come into service, or would be restored by a rollback is never touched, and neither is anything
outside the directory that runs publish to.
"""

import asyncio
import shutil
from pathlib import Path

from feedback import models, version_files
from feedback.database import Database


async def tick(database: Database, adapter_root: Path) -> list[str]:
    """Look at every model once; returns what was removed, one sentence each."""
    done: list[str] = []
    async with database.begin() as connection:
        for model in await models.every(connection):
            for adapter in await version_files.superfluous(connection, model):
                if _is_ours(adapter.path, adapter_root):
                    await version_files.mark_removed(connection, adapter)
                    done.append(f"{adapter.name}: its files are removed; newer versions are kept.")
    # Only now, and again after a crash: a rollback that was committed first keeps its files.
    async with database.begin() as connection:
        gone = await version_files.removed(connection)
    for adapter in gone:
        if _is_ours(adapter.path, adapter_root):
            await asyncio.to_thread(shutil.rmtree, Path(adapter.path or ""), ignore_errors=True)
    return done


def _is_ours(path: str | None, adapter_root: Path) -> bool:
    return path is not None and "://" not in path and Path(path).parent == adapter_root
