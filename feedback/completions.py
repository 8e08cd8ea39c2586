"""Completions: every answered request, once.

`insert_many` may be called again with the same rows after a crash or a lost connection: a completion that is already
there is left as it is. Rows arrive by COPY, because a gateway records as fast as it answers.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from operator import attrgetter
from typing import Any

from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.errors import NotFound
from feedback.tables import completions

# PostgreSQL stores every character but NUL; one such byte in an answer would otherwise stop the whole batch.
ESCAPED_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


@dataclass(slots=True)
class Completion:
    """One row, columns in the order of the table; JSON columns hold JSON text.

    Not frozen: a frozen dataclass of thirty fields takes three times as long to make, and gateways make them all day.
    """

    completion_id: str
    project: str
    model: str
    adapter_id: str
    version: int
    experiment_id: str | None
    arm: str | None
    propensity: float | None
    unit: str
    rater: str | None
    session: str | None
    key_id: str
    engine: str
    endpoint: str
    consent: bool
    status: str
    error: str | None
    finish_reason: str | None
    request: str
    output_text: str
    message: str | None
    prompt_token_ids: list[int] | None
    output_token_ids: list[int] | None
    prompt_tokens: int | None
    output_tokens: int | None
    metadata: str | None
    time_to_first_token_seconds: float | None
    time_per_output_token_seconds: float | None
    duration_seconds: float
    created_at: datetime


COLUMNS = tuple(field.name for field in fields(Completion))
_values = attrgetter(*COLUMNS)
_STAGE = (
    "CREATE TEMP TABLE IF NOT EXISTS arriving (LIKE completions INCLUDING DEFAULTS) ON COMMIT DELETE ROWS"
)
_KEEP_NEW = (
    f"INSERT INTO completions ({', '.join(COLUMNS)}) SELECT {', '.join(COLUMNS)} FROM arriving "
    "ON CONFLICT (completion_id) DO NOTHING"
)


async def insert_many(connection: AsyncConnection, rows: Sequence[Completion]) -> int:
    """Record `rows`; returns how many were new."""
    await connection.execute(text(_STAGE))
    driver = (await connection.get_raw_connection()).driver_connection
    assert driver is not None
    await driver.copy_records_to_table("arriving", records=[_storable(row) for row in rows], columns=COLUMNS)
    inserted = await connection.execute(text(_KEEP_NEW))
    return inserted.rowcount


async def get(connection: AsyncConnection, project: str, completion_id: str) -> dict[str, Any]:
    """One completion with all its columns.

    Raises:
        NotFound: the project has no such completion (yet: rows arrive within a second or so).
    """
    row = (
        await connection.execute(
            select(completions).where(
                completions.c.project == project, completions.c.completion_id == completion_id
            )
        )
    ).one_or_none()
    if row is None:
        raise NotFound(f"Project '{project}' has no completion '{completion_id}'.")
    return dict(row._mapping)


def _storable(row: Completion) -> tuple[Any, ...]:
    # Not dataclasses.astuple: it copies every token id list, item by item.
    return tuple(
        _without_nul(value) if isinstance(value, str) and ("\x00" in value or "\\u0000" in value) else value
        for value in _values(row)
    )


def _without_nul(value: str) -> str:
    return ESCAPED_NUL.sub(r"\1\\ufffd", value.replace("\x00", "\ufffd"))
