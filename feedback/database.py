"""The one road to PostgreSQL: connections, migrations, notifications, the leader's lock.

Other databases are refused: the record relies on partial unique indexes, LISTEN and advisory locks.
"""

import asyncio
import errno
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import asyncpg
import orjson
from sqlalchemy import text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, OperationalError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from feedback.errors import HoneError

REGISTRY_CHANNEL = "hone_registry"
SCHEMA_LOCK = 0x686F6E65
WORKER_LOCK = 0x686F6E66


UNUSABLE = ("08", "28", "3D", "53", "57")
"""Classes of SQLSTATE: connection, who may log in, which database, resources, operator intervention."""
AWAY = ("08", "57", "53", "40")
"""Classes of SQLSTATE: connection, operator intervention, resources, and a transaction to be tried again."""
NO_TEXT = ("22021", "22P05")
"""SQLSTATE of a text with a character that no text may have, as it is and within JSON."""
TOO_LARGE = "22003"


class Database:
    """A pool of connections to the record."""

    def __init__(self, url: str, *, pool_size: int = 5) -> None:
        self.url = parse_url(url)
        self.engine: AsyncEngine = create_async_engine(
            self.url,
            pool_size=pool_size,
            max_overflow=pool_size,
            pool_pre_ping=True,
            # An error that quotes the rows of its statement carries what people wrote into every log.
            hide_parameters=True,
            json_serializer=lambda value: orjson.dumps(value).decode(),
            json_deserializer=orjson.loads,
            connect_args={"timeout": 10, "server_settings": {"application_name": "hone"}},
        )

    @asynccontextmanager
    async def begin(self) -> AsyncIterator[AsyncConnection]:
        """A connection in a transaction: committed at the end of the block, rolled back on an exception."""
        async with self.engine.begin() as connection:
            yield connection

    async def close(self) -> None:
        """Close every connection of the pool."""
        await self.engine.dispose()

    async def __aenter__(self) -> "Database":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def connect_raw(self) -> asyncpg.Connection:
        """A connection of asyncpg's own outside the pool, for LISTEN and for locks held long."""
        return await asyncpg.connect(
            dsn=self.url.set(drivername="postgresql").render_as_string(False), timeout=10
        )

    async def listen(self, channel: str) -> AsyncIterator[str]:
        """Payloads of NOTIFY on `channel`, for ever; ends by raising when the connection is lost."""
        connection = await self.connect_raw()
        queue: asyncio.Queue[str | None] = asyncio.Queue()
        try:
            await connection.add_listener(channel, lambda *call: queue.put_nowait(call[3]))
            connection.add_termination_listener(lambda _: queue.put_nowait(None))
            while (payload := await queue.get()) is not None:
                yield payload
            raise ConnectionError(f"The database closed the connection that listened on '{channel}'.")
        finally:
            with suppress(Exception):
                await connection.close(timeout=2)


def parse_url(url: str) -> URL:
    """The address in SQLAlchemy's form with asyncpg as driver.

    Raises:
        HoneError: it is not a PostgreSQL address.
    """
    try:
        parsed = make_url(url)
    except ArgumentError as error:
        raise HoneError(
            f"The database address cannot be read: {error}. Expected postgresql://user:password@host/name."
        ) from error
    if parsed.get_backend_name() not in ("postgresql", "postgres"):
        raise HoneError(
            f"HONE_DATABASE_URL names a '{parsed.get_backend_name()}' database. "
            "Hone keeps its record in PostgreSQL 15 or newer: postgresql://user:password@host/name."
        )
    return parsed.set(drivername="postgresql+asyncpg")


def is_outage(error: BaseException) -> bool:
    """Whether the database was out of reach or overtaxed, rather than refusing what it was told."""
    if isinstance(error, DBAPIError):
        sqlstate = getattr(error.orig, "sqlstate", None)
        return error.connection_invalidated or sqlstate is None or sqlstate[:2] in AWAY
    if isinstance(error, asyncpg.PostgresError):
        return (getattr(error, "sqlstate", None) or "")[:2] in AWAY
    if isinstance(error, OSError) and (
        error.filename is not None or error.errno in (errno.ENOSPC, errno.EDQUOT)
    ):
        return False  # A file's trouble, not a connection's.
    return not isinstance(error, HoneError)


def is_away(error: BaseException) -> bool:
    """Whether any exception at all says that the database was out of reach or overtaxed: see `is_outage`."""
    kinds = (OSError, DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError)
    return isinstance(error, kinds) and is_outage(error)


def why_unusable(error: OSError | DBAPIError) -> str | None:
    """What keeps the database from being used at all; None where it refused no more than what it was asked."""
    if isinstance(error, OSError):
        return str(error) or "it did not answer in time"
    sqlstate = getattr(error.orig, "sqlstate", None) or ""
    if not isinstance(error, OperationalError) and sqlstate[:2] not in UNUSABLE:
        return None
    return str((error.orig.__cause__ or error.orig) if error.orig else error)


def unstorable(error: BaseException) -> HoneError | None:
    """The caller's mistake, where a value came that PostgreSQL cannot hold; None where the mistake may be ours."""
    if not isinstance(error, DBAPIError):
        return None
    sqlstate, said = getattr(error.orig, "sqlstate", None), str(error.orig)
    if sqlstate in NO_TEXT or "codec can't encode" in said:
        return HoneError(
            "A text in this request has a character that the record cannot hold: a NUL, or half of one. Take it out."
        )
    if sqlstate == TOO_LARGE or "value out of int" in said:
        return HoneError("A number in this request is larger than the record can hold. Send a smaller one.")
    return None


async def notify_registry(connection: AsyncConnection, payload: str) -> None:
    """Tell every gateway, when this transaction commits, that keys, models, adapters or experiments changed."""
    await connection.execute(
        text("SELECT pg_notify(:channel, :payload)"), {"channel": REGISTRY_CHANNEL, "payload": payload}
    )


def migrate(url: str) -> None:
    """Bring the schema to the newest version; safe to run from several processes at once.

    Blocks, and runs its own event loop: call it from a process or thread that has none.
    """
    from alembic import command

    command.upgrade(alembic_config(url), "head")


def alembic_config(url: str) -> Any:
    """Alembic's configuration for `url`, without an ini file."""
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["url"] = parse_url(url)
    return config


async def schema_is_current(database: Database) -> bool:
    """Whether the newest migration has been applied."""
    from alembic.script import ScriptDirectory

    head = ScriptDirectory.from_config(
        alembic_config(database.url.render_as_string(False))
    ).get_current_head()
    async with database.begin() as connection:
        exists = await connection.scalar(text("SELECT to_regclass('alembic_version') IS NOT NULL"))
        return (
            bool(exists) and await connection.scalar(text("SELECT version_num FROM alembic_version")) == head
        )
