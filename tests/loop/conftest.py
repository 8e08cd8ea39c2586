"""Fixtures of the acceptance tests: a tiny real model, two adapters that answer differently, a whole service."""

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from feedback import adapters, engines
from feedback.adapters import Adapter
from feedback.database import Database
from feedback.files import files_hash
from tests.builders import PASSED, PROJECT
from tests.loop.service import Service, running_service
from tests.tiny_model import build_adapter, build_tiny_model

BUILD = """
import sys
from pathlib import Path
from deploy.demo.model import build_demo_model
build_demo_model(Path(sys.argv[1]))
"""


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real Llama of random weights."""
    return build_tiny_model(tmp_path_factory.mktemp("base") / "tiny")


@pytest.fixture(scope="session")
def tiny_service(tiny_base: Path, request: pytest.FixtureRequest) -> Iterator[Service]:
    """`hone up` on the tiny model; after a failure, the ends of its logs are shown."""
    directory = Path(tempfile.mkdtemp(prefix="hone-loop-"))
    # As root, the database runs as another user, who must be able to pass through.
    directory.chmod(0o755)
    try:
        with running_service(directory / "state", "--model", str(tiny_base)) as service:
            yield service
            if request.session.testsfailed:
                print(service.log())
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def shop_model() -> Iterator[Path]:
    """The demonstration model, built once from nothing in a process of its own; `SHOP_MODEL` names one built before."""
    directory = Path(tempfile.mkdtemp(prefix="hone-demo-"))
    # As root, the database runs as another user, who must be able to pass through.
    directory.chmod(0o755)
    try:
        if built := os.environ.get("SHOP_MODEL"):
            shutil.copytree(built, directory / "model")
        else:
            command = [sys.executable, "-c", BUILD, str(directory / "model")]
            subprocess.run(command, check=True, timeout=1200)
        yield directory / "model"
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="session")
def two_versions(tiny_service: Service, tiny_base: Path) -> tuple[Adapter, Adapter]:
    """Two approved versions that are loaded, probed and answer differently."""
    first, second = asyncio.run(enter_ready(tiny_service, tiny_base, 11, 12))
    return first, second


async def enter_ready(service: Service, base: Path, *seeds: int) -> list[Adapter]:
    """Publish approved versions that answer as their seeds say; returns when an engine holds them all."""
    async with service.database() as database:
        entered = [await enter(database, service, base, seed) for seed in seeds]
        for adapter in entered:
            await wait_until_ready(database, adapter)
    return entered


async def enter(database: Database, service: Service, base: Path, seed: int) -> Adapter:
    """Publish an approved version that answers as its seed says."""
    async with database.begin() as connection:
        adapter_id, version = await adapters.reserve(connection, PROJECT, "support")
        path = build_adapter(base, service.state_dir / "adapters" / adapter_id, seed=seed)
        champion = await adapters.champion(connection, PROJECT, "support")
        adapter = await adapters.register(
            connection,
            adapter_id=adapter_id,
            project=PROJECT,
            model="support",
            version=version,
            base_model=champion.base_model,
            path=str(path),
            files_hash=files_hash(path),
            run_id=None,
            by="test",
        )
        adapter = await adapters.decide(connection, adapter, report=PASSED, evidence_hash="e" * 64, by="test")
        return await adapters.move(connection, adapter, "approve", by="test")


async def wait_until_ready(database: Database, adapter: Adapter) -> None:
    """Block until an engine holds it with its probe passed."""
    standing: object = None
    for _ in range(300):
        async with database.begin() as connection:
            if await engines.holders(connection, adapter.adapter_id):
                return
            standing = await engines.standing(connection, adapter.adapter_id)
        await asyncio.sleep(0.2)
    raise AssertionError(f"{adapter.name} did not become ready: {standing}")
