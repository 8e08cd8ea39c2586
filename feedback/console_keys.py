"""The key with which the console asks and rates for the operators who use its playground, one a project.

It is an application's key like any other: it is listed, it can be revoked, and making it has an audit row. It is not
drawn but derived from a secret of this service, so that every console of the service has the same one and none keeps
it. Its id begins with `CONSOLE_KEYS`, and so does the `key_id` of every completion and rating that came with it: what
people say in the playground is told apart by that.
"""

import base64
import hashlib
import hmac

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import audit
from feedback.database import notify_registry
from feedback.errors import Conflict
from feedback.keys import PREFIX_LENGTH, hash_key, service_secret
from feedback.tables import keys, projects

CONSOLE_KEYS = "console-"


async def of_project(connection: AsyncConnection, project: str, *, by: str) -> str:
    """The key itself, made on first use.

    Raises:
        Conflict: an administrator has revoked it.
    """
    query = (
        select(keys.c.key_id, keys.c.revoked_at)
        .where(keys.c.project == project, keys.c.key_id.startswith(CONSOLE_KEYS, autoescape=True))
        .order_by(keys.c.created_at.desc(), keys.c.key_id.desc())
        .limit(1)
    )
    newest = (await connection.execute(query)).one_or_none()
    if newest is None:
        return await make(connection, project, by=by)
    if newest.revoked_at is not None:
        raise Conflict(
            f"The console's own key {newest.key_id} was revoked, so nothing can be asked from here. "
            "An administrator makes a new one on this page."
        )
    return await _derive(connection, str(newest.key_id))


async def make(connection: AsyncConnection, project: str, *, by: str) -> str:
    """Make the first key of a project, or the next one after a revoked one; returns it. Safe to repeat."""
    mine = keys.c.key_id.startswith(CONSOLE_KEYS, autoescape=True) & (keys.c.project == project)
    revoked = await connection.scalar(
        select(func.count()).where(mine, keys.c.revoked_at.is_not(None)).select_from(keys)
    )
    key_id = f"{CONSOLE_KEYS}{project}-{int(revoked or 0) + 1}"
    key = await _derive(connection, key_id)
    await connection.execute(insert(projects).values(project=project).on_conflict_do_nothing())
    made = await connection.execute(
        insert(keys)
        .values(
            key_id=key_id,
            project=project,
            role="app",
            name="the console's playground",
            prefix=key[:PREFIX_LENGTH],
            key_hash=hash_key(key),
        )
        .on_conflict_do_nothing()
        .returning(keys.c.key_id)
    )
    if made.one_or_none() is not None:
        detail = {"role": "app", "name": "the console's playground", "prefix": key[:PREFIX_LENGTH]}
        await audit.write(
            connection, project=project, actor=by, action="key.create", subject=key_id, detail=detail
        )
        await notify_registry(connection, "keys")
    return key


async def _derive(connection: AsyncConnection, key_id: str) -> str:
    secret = await service_secret(connection, "console_key")
    digest = hmac.digest(secret, key_id.encode(), hashlib.sha256)
    return f"hk_{base64.urlsafe_b64encode(digest[:24]).decode()}"
