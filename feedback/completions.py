"""Completions: every answered request, once.

`insert_many` may be called again with the same rows after a crash or a lost connection: a completion that is already
there is left as it is. A batch travels as one JSON document, which PostgreSQL takes apart: the gateway records as fast
as it answers, and COPY would cost it four times as much.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.errors import NotFound
from feedback.tables import completions

# PostgreSQL stores every character but NUL; one such byte in an answer would otherwise stop the whole batch.
ESCAPED_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


@dataclass(frozen=True, slots=True)
class Completion:
    """One row, columns in the order of the table; JSON columns hold JSON text."""

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
JSON_COLUMNS = ("request", "message", "metadata")


def _insert() -> str:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped
    types = {column.name: column.type.compile(dialect=dialect) for column in completions.columns}
    names, arriving = ", ".join(COLUMNS), ", ".join(f"{name} {types[name]}" for name in COLUMNS)
    return (
        f"INSERT INTO completions ({names}) SELECT {names} "
        f"FROM json_to_recordset(CAST(:rows AS json)) AS arriving ({arriving}) "
        "ON CONFLICT (completion_id) DO NOTHING"
    )


_INSERT = text(_insert())


async def insert_documents(connection: AsyncConnection, rows: Sequence[bytes]) -> int:
    """Record `rows`, each a JSON object with the columns of the table; returns how many were new."""
    document = (b"[%b]" % b",".join(rows)).decode()
    if "\\u0000" in document:
        document = ESCAPED_NUL.sub(r"\1\\ufffd", document)
    inserted = await connection.execute(_INSERT, {"rows": document})
    return inserted.rowcount


async def insert_many(connection: AsyncConnection, rows: Sequence[Completion]) -> int:
    """Record `rows`; returns how many were new."""
    return await insert_documents(connection, [_document(row) for row in rows])


def _document(row: Completion) -> bytes:
    values: dict[str, Any] = {name: getattr(row, name) for name in COLUMNS}
    for name in JSON_COLUMNS:
        values[name] = None if values[name] is None else orjson.Fragment(values[name])
    return orjson.dumps(values)


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
