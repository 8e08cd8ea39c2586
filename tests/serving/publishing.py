"""Versions with real files, published and registered as training does it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from feedback import adapters, models
from feedback.adapters import Adapter
from feedback.database import Database
from feedback.files import files_hash
from tests.builders import PASSED, PROJECT
from tests.tiny_model import copy_adapter


async def published(
    database: Database,
    base: Path,
    make: Callable[[Path], Any],
    parent: Path,
    *,
    state: str = "approved",
    url: str = "{directory}",
) -> Adapter:
    """A version with real files, in the registry."""
    async with database.begin() as connection:
        if not await models.in_project(connection, PROJECT):
            await models.create(connection, project=PROJECT, model="support", base_model=str(base), by="test")
        adapter_id, version = await adapters.reserve(connection, PROJECT, "support")
        directory = parent / adapter_id
        make(directory)
        adapter = await adapters.register(
            connection,
            adapter_id=adapter_id,
            project=PROJECT,
            model="support",
            version=version,
            base_model=str(base),
            path=url.format(directory=directory),
            files_hash=files_hash(directory),
            run_id=None,
            by="test",
        )
        if state != "trained":
            adapter = await adapters.decide(
                connection, adapter, report=PASSED, evidence_hash="e" * 64, by="test"
            )
        if state in ("approved", "champion"):
            adapter = await adapters.move(connection, adapter, "approve", by="ada")
        if state == "champion":
            adapter = await adapters.promote(connection, adapter, by="ada", reason="test")
        return adapter


def copy_of(adapter: Path) -> Callable[[Path], Path]:
    return lambda directory: copy_adapter(adapter, directory)
