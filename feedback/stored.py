"""Completions that an application stored: labelled, and taken out of the record again.

Labels go through the same redaction as the text they belong to. Taking a completion out deletes the row, its text as it
was said and redacted, everything said of it, and what waits for review; a frozen dataset that holds it stays as it is,
and is named, because what was trained cannot be untrained by a deletion.
"""

from collections.abc import Mapping
from typing import Any

import orjson
from sqlalchemy import ARRAY, Text, cast, delete, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import audit, models
from feedback.completions import get, is_one
from feedback.errors import NotFound
from feedback.redact import Conversation
from feedback.review_tables import reviews
from feedback.tables import completion_redacted, completion_texts, completions, dataset_rows, feedback
from feedback.vote_tables import token_raters


async def one(connection: AsyncConnection, project: str, completion_id: str) -> dict[str, Any]:
    """A stored completion with its text.

    Raises:
        NotFound: the project has none of that id, or did not store it, or its text was deleted.
    """
    row = await get(connection, project, completion_id)
    if not row["consent"]:
        raise NotFound(
            f"Completion '{completion_id}' was not stored. Send `store: true` with the request to find it here later."
        )
    if row["request"] is None:
        raise NotFound(f"The text of completion '{completion_id}' was deleted when its time was over.")
    return row


async def label(
    connection: AsyncConnection, project: str, completion_id: str, metadata: Mapping[str, str] | None
) -> dict[str, Any]:
    """Give a stored completion other metadata, or none; returns it.

    Raises:
        NotFound: as `one`.
    """
    row = await one(connection, project, completion_id)
    privacy = (await models.get(connection, project, row["model"])).policy.privacy
    redacted = dict(metadata) if metadata is not None else None
    if privacy.redaction != "off":
        conversation = Conversation(presidio=privacy.presidio)
        conversation.reserve(orjson.dumps(row["request"]).decode())
        redacted = conversation.value(redacted)
    plain = redacted if privacy.redaction == "everything" else metadata
    for table, value in ((completion_texts, plain), (completion_redacted, redacted)):
        await connection.execute(update(table).where(is_one(table, completion_id)).values(metadata=value))
    return row | {"metadata": plain}


async def remove(connection: AsyncConnection, project: str, completion_id: str, *, by: str) -> list[str]:
    """Delete a completion and what was said of it; returns the frozen datasets that still hold it.

    Raises:
        NotFound: the project has none of that id.
    """
    await get(connection, project, completion_id)
    counts: dict[str, int] = {}
    for table in (completion_texts, completion_redacted, completions):
        done = await connection.execute(delete(table).where(is_one(table, completion_id)))
        counts[str(table.name)] = done.rowcount
    for table in (feedback, reviews, token_raters):
        done = await connection.execute(
            delete(table).where(table.c.project == project, table.c.completion_id == completion_id)
        )
        counts[str(table.name)] = done.rowcount
    holding = await connection.scalars(
        select(dataset_rows.c.dataset_id)
        .where(dataset_rows.c.completion_ids.op("@>")(cast([completion_id], ARRAY(Text))))
        .distinct()
        .order_by(dataset_rows.c.dataset_id)
    )
    remain = list(holding)
    await audit.write(
        connection,
        project=project,
        actor=by,
        action="completion.delete",
        subject=completion_id,
        detail={"deleted": counts, "remains_in": remain},
    )
    return remain
