"""API keys and the service's own secrets.

A key is shown once, when it is made; the record keeps its SHA-256 and first characters. Keys are 192 random bits,
so a fast hash is enough: there is nothing to guess.
"""

import hashlib
import os
import re
import secrets as random_secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import audit
from feedback.database import notify_registry
from feedback.errors import HoneError, NotFound
from feedback.ids import new_id
from feedback.moments import check_days
from feedback.tables import ROLES, keys, projects, secrets

DEFAULT_PROJECT = "default"
PROJECT_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
PREFIX_LENGTH = 11


@dataclass(frozen=True, slots=True)
class Key:
    """What the record knows of a key."""

    key_id: str
    project: str
    role: str
    name: str
    prefix: str
    key_hash: bytes
    requests_per_minute: int | None
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


def hash_key(key: str | bytes) -> bytes:
    """SHA-256 of a key as the client sends it."""
    return hashlib.sha256(key if isinstance(key, bytes) else key.encode()).digest()


async def create(
    connection: AsyncConnection,
    *,
    role: str,
    name: str,
    project: str = DEFAULT_PROJECT,
    requests_per_minute: int | None = None,
    lifetime_days: float | None = None,
    by: str,
) -> tuple[Key, str]:
    """Make a key; the second value is the key itself, which nobody can read again.

    Raises:
        HoneError: the role is unknown, a limit is not positive, or the lifetime is past all planning.
    """
    if role not in ROLES:
        raise HoneError(f"Role '{role}' is unknown; expected one of {', '.join(ROLES)}.")
    if requests_per_minute is not None and requests_per_minute < 1:
        raise HoneError(
            f"requests_per_minute = {requests_per_minute}; expected a positive number, or none for no limit."
        )
    check_days("The lifetime of the key", lifetime_days)
    if not PROJECT_NAME.fullmatch(project):
        raise HoneError(
            f"Project name '{project}' cannot be used: expected 1-63 characters of a-z, 0-9, '_' and '-'."
        )
    await connection.execute(insert(projects).values(project=project).on_conflict_do_nothing())
    secret = f"hk_{random_secrets.token_urlsafe(24)}"
    expires_at = None if lifetime_days is None else datetime.now(UTC) + timedelta(days=lifetime_days)
    row = (
        await connection.execute(
            insert(keys)
            .values(
                key_id=new_id("key"),
                project=project,
                role=role,
                name=name,
                prefix=secret[:PREFIX_LENGTH],
                key_hash=hash_key(secret),
                requests_per_minute=requests_per_minute,
                expires_at=expires_at,
            )
            .returning(keys)
        )
    ).one()
    key = Key(**row._mapping)
    await audit.write(
        connection,
        project=project,
        actor=by,
        action="key.create",
        subject=key.key_id,
        detail={"role": role, "name": name, "prefix": key.prefix},
    )
    await notify_registry(connection, "keys")
    return key, secret


async def revoke(connection: AsyncConnection, project: str, key_id: str, *, by: str) -> Key:
    """Stop a key from working, from the next second on; revoking twice changes nothing.

    Raises:
        NotFound: the project has no such key.
    """
    row = (
        await connection.execute(
            update(keys)
            .where(keys.c.project == project, keys.c.key_id == key_id)
            .values(revoked_at=func.coalesce(keys.c.revoked_at, func.now()))
            .returning(keys)
        )
    ).one_or_none()
    if row is None:
        raise NotFound(f"Project '{project}' has no key '{key_id}'. `hone key list` shows its keys.")
    await audit.write(connection, project=project, actor=by, action="key.revoke", subject=key_id, detail={})
    await notify_registry(connection, "keys")
    return Key(**row._mapping)


async def in_project(connection: AsyncConnection, project: str) -> list[Key]:
    """Every key of a project, newest first, revoked ones included."""
    query = select(keys).where(keys.c.project == project).order_by(keys.c.created_at.desc())
    return [Key(**row._mapping) for row in await connection.execute(query)]


async def active(connection: AsyncConnection) -> list[Key]:
    """Every key that works now, of all projects."""
    query = select(keys).where(
        keys.c.revoked_at.is_(None), or_(keys.c.expires_at.is_(None), keys.c.expires_at > func.now())
    )
    return [Key(**row._mapping) for row in await connection.execute(query)]


async def working(connection: AsyncConnection, key_id: str) -> Key | None:
    """The key of this id, if it works now."""
    return next((key for key in await active(connection) if key.key_id == key_id), None)


async def service_secret(connection: AsyncConnection, name: str) -> bytes:
    """A secret of 32 bytes that all processes share, made on first use (`feedback_token`, `pseudonym`)."""
    await connection.execute(insert(secrets).values(name=name, value=os.urandom(32)).on_conflict_do_nothing())
    value = await connection.scalar(select(secrets.c.value).where(secrets.c.name == name))
    assert isinstance(value, bytes)
    return value
