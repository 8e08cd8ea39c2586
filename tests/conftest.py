"""Fixtures that every test may use: a real PostgreSQL, and a fresh database of the newest schema for each test."""

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, settings

from deploy.postgres import EmbeddedPostgres
from feedback.database import Database, migrate, parse_url
from tests.browser_fixture import browser as browser
from tests.engine_fixture import engine as engine
from tests.engine_fixture import tiny_adapters as tiny_adapters
from tests.engine_fixture import tiny_model as tiny_model
from tests.guards import no_network as no_network

os.environ.setdefault("OMP_NUM_THREADS", "1")
# A busy machine is no counterexample.
settings.register_profile("hone", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("hone")


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """The session's PostgreSQL server, with the newest schema in its template database."""
    unsafe = {"fsync": "off", "synchronous_commit": "off"}
    with open_directory() as directory, EmbeddedPostgres(directory / "postgres", settings=unsafe) as server:
        migrate(server.url)
        yield server


@pytest.fixture
def reachable_directory() -> Iterator[Path]:
    """A temporary directory that PostgreSQL's own user can reach."""
    with open_directory() as directory:
        yield directory


@contextmanager
def open_directory() -> Iterator[Path]:
    """A temporary directory that every user can reach: pytest's own are closed to the user PostgreSQL runs as."""
    with TemporaryDirectory(prefix="hone-test-") as name:
        directory = Path(name)
        directory.chmod(0o711)
        yield directory


@pytest.fixture
def database_url(postgres: EmbeddedPostgres) -> Iterator[str]:
    """The address of a fresh database; dropped after the test."""
    with copied_database(postgres.url) as url:
        yield url


@contextmanager
def copied_database(url: str) -> Iterator[str]:
    """The address of a copy of the database at `url`, beside it; dropped at the end. Nobody may be connected to it."""
    template, name = parse_url(url).database, f"test_{uuid4().hex}"
    asyncio.run(_execute(url, f'CREATE DATABASE "{name}" TEMPLATE "{template}"'))
    try:
        yield parse_url(url).set(database=name).render_as_string(hide_password=False)
    finally:
        asyncio.run(_execute(url, f'DROP DATABASE "{name}" WITH (FORCE)'))


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A fresh record."""
    async with Database(database_url) as database:
        yield database


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """An empty state directory."""
    directory = tmp_path / "state"
    directory.mkdir()
    return directory


async def _execute(url: str, statement: str) -> None:
    # Connected to "postgres": a template with an open connection cannot be copied.
    address = parse_url(url).set(drivername="postgresql", database="postgres")
    connection = await asyncpg.connect(address.render_as_string(hide_password=False))
    try:
        await connection.execute(statement)
    finally:
        await connection.close()
