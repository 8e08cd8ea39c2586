"""Completions: every answered request, once, in three tables that live for different times.

`insert_documents` may be called again with the same rows after a crash or a lost connection: a completion that is
already there is left as it is, and what was erased stays out. A batch travels as one JSON document, which PostgreSQL
takes apart: the gateway records as fast as it answers, and COPY would cost it four times as much. A partition that is
missing is made, and the batch goes in.

Readers of what was said go through `with_text` or `for_training`: text may be there as it was said, redacted, or no
longer.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from typing import Any

import asyncpg
import orjson
from sqlalchemy import ColumnElement, RowMapping, Select, Table, and_, func, select, text
from sqlalchemy.dialects import postgresql
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.errors import NotFound
from feedback.tables import completion_redacted, completion_texts, completions

# PostgreSQL stores every character but NUL; one such byte in an answer would otherwise stop the whole batch.
ESCAPED_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")


@dataclass(frozen=True, slots=True)
class Completion:
    """One row, columns in the order of the table; JSON columns hold JSON text."""

    completion_id: str
    project: str
    model: str
    adapter_id: str | None
    version: int | None
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
    policy_version: str | None = None
    allocation: int | None = None
    error_class: str | None = None
    fallback_for: int | None = None
    upstream: str | None = None


COLUMNS = tuple(field.name for field in fields(Completion))
JSON_COLUMNS = ("request", "message", "metadata")
TEXT_COLUMNS = ("request", "output_text", "message", "metadata")
"""What was said: in `completion_texts` as it was, in `completion_redacted` without what the redaction found."""
TOKEN_COLUMNS = ("prompt_token_ids", "output_token_ids")

DECLINES = (
    r"^\W*(((i['\u2019]m|i am) )?(very |so |truly )?sorry\W+(but )?)?"
    r"(i (can(['\u2019]t|not| not)|won['\u2019]t|will not|am (un|not )able to|['\u2019]m (un|not )able to)|"
    r"i['\u2019]m (un|not )able to|as an ai\M)|^\W*(es tut mir leid|leider kann ich|je suis désolée?|lo siento)\M"
)
"""First words of an answer that declines, as PostgreSQL reads patterns; a quotation further on does not count."""
_REFUSED = "coalesce(finish_reason = 'content_filter', false) OR coalesce(output_text ~* :declines, false)"
_ERROR_CLASS = "CASE WHEN status <> 'ok' THEN coalesce(error_class, 'unknown') END"

UPSTREAM = "upstream"
"""What stands where a version's number would, when no version of ours answered: `support@upstream`."""

EPOCH = date(1970, 1, 1)
UUID7 = re.compile(r"-(0[0-9a-f]{11})7[0-9a-f]{19}\Z")


def day_of(completion_id: str) -> date:
    """The day, in UTC, that an id carries, which is its partition's; the epoch for an id that carries none."""
    found = UUID7.search(completion_id)
    return EPOCH + timedelta(days=int(found[1], 16) // 86_400_000) if found else EPOCH


def is_one(table: Table, completion_id: str) -> ColumnElement[bool]:
    """The condition that finds one id in `completions` or a table of its texts, in one partition."""
    return and_(table.c.completion_id == completion_id, table.c.day == day_of(completion_id))


def _insert() -> str:
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # SQLAlchemy leaves it untyped
    types = {
        column.name: column.type.compile(dialect=dialect)
        for table in (completions, completion_texts, completion_redacted)
        for column in table.columns
    }
    arriving = ", ".join(f"{name} {types[name]}" for name in COLUMNS)
    kept = ", ".join(name for name in (*COLUMNS, "day") if name in completions.c)
    values = kept.replace("error_class", _ERROR_CLASS)
    said = ", ".join(("completion_id", "day", *TEXT_COLUMNS, *TOKEN_COLUMNS))
    redacted = ", ".join((*TEXT_COLUMNS, "found"))
    copied = ", ".join(f"{name} {types[name]}" for name in (*TEXT_COLUMNS, "found"))
    once = "ON CONFLICT (completion_id, day) DO NOTHING"
    return f"""
        WITH arriving AS MATERIALIZED (
            SELECT *, completion_day(completion_id) AS day
            FROM json_to_recordset(CAST(:rows AS json)) AS arriving ({arriving}, redacted json)
            WHERE NOT EXISTS (SELECT FROM tombstones) OR NOT EXISTS (
                SELECT FROM tombstones AS stone WHERE arriving.created_at <= stone.until AND stone.hash IN (
                    erasure_hash(completion_id),
                    erasure_hash('rater/' || project || '/' || rater),
                    CASE WHEN rater IS NULL THEN erasure_hash('session/' || project || '/' || session) END
                )
            )
        ), said AS (
            INSERT INTO completion_texts ({said}) SELECT {said} FROM arriving WHERE request IS NOT NULL {once}
        ), redacted AS (
            INSERT INTO completion_redacted (completion_id, day, {redacted})
            SELECT completion_id, day, {", ".join(f"copied.{name}" for name in (*TEXT_COLUMNS, "found"))}
            FROM arriving, json_to_record(arriving.redacted) AS copied ({copied})
            WHERE arriving.redacted IS NOT NULL {once}
        ), kept AS (
            INSERT INTO completions ({kept}, refused) SELECT {values}, {_REFUSED} FROM arriving {once} RETURNING 1
        )
        SELECT count(*) FROM kept"""


_INSERT = text(_insert()).bindparams(declines=DECLINES)


_MAKE_PARTITIONS = text("""
    SELECT sum(make_partitions(day, day)) FROM (
        SELECT DISTINCT completion_day(completion_id) AS day
        FROM json_to_recordset(CAST(:rows AS json)) AS arriving (completion_id text)
    ) AS days""")


async def insert_documents(connection: AsyncConnection, rows: Sequence[bytes]) -> int:
    """Record `rows`; returns how many were new.

    Each is a JSON object: the columns of `Completion`, and `redacted` (the text columns again, and `found`) where a
    redacted copy is kept. A row without `request` keeps no text as it was said.
    """
    arriving = (b"[%b]" % b",".join(rows)).decode()
    if "\\u0000" in arriving:
        arriving = ESCAPED_NUL.sub(r"\1\\ufffd", arriving)
    try:
        async with connection.begin_nested():
            return int(await connection.scalar(_INSERT, {"rows": arriving}) or 0)
    except IntegrityError as error:
        if not _wants_partition(error):
            raise
    await connection.execute(_MAKE_PARTITIONS, {"rows": arriving})
    return int(await connection.scalar(_INSERT, {"rows": arriving}) or 0)


def _wants_partition(error: IntegrityError) -> bool:
    cause = error.orig.__cause__ if error.orig else None
    # A failed CHECK has the same code, and names its constraint.
    return isinstance(cause, asyncpg.CheckViolationError) and not cause.constraint_name


async def insert_many(connection: AsyncConnection, rows: Sequence[Completion]) -> int:
    """Record `rows`; returns how many were new."""
    return await insert_documents(connection, [document(row) for row in rows])


def document(row: Completion) -> bytes:
    """The row as `insert_documents` takes it."""
    values: dict[str, Any] = {name: getattr(row, name) for name in COLUMNS}
    for name in JSON_COLUMNS:
        values[name] = None if values[name] is None else orjson.Fragment(values[name])
    return orjson.dumps(values)


def with_text() -> Select[Any]:
    """Select completions with what was said in them: as it was said, else redacted, else NULL."""
    return _select(completion_texts, completion_redacted)


def for_training() -> Select[Any]:
    """Select completions with what may be trained on: the redacted copy where there is one, else as it was said."""
    return _select(completion_redacted, completion_texts)


def _select(first: Table, second: Table) -> Select[Any]:
    here = completions.c
    return (
        select(
            completions,
            *(func.coalesce(first.c[name], second.c[name]).label(name) for name in TEXT_COLUMNS),
            *(completion_texts.c[name] for name in TOKEN_COLUMNS),
            completion_redacted.c.found.label("redacted"),
        )
        .select_from(completions)
        .outerjoin(first, (first.c.completion_id == here.completion_id) & (first.c.day == here.day))
        .outerjoin(second, (second.c.completion_id == here.completion_id) & (second.c.day == here.day))
    )


async def get(connection: AsyncConnection, project: str, completion_id: str) -> dict[str, Any]:
    """One completion with all its columns; `request` is None once its text was deleted.

    Raises:
        NotFound: the project has no such completion (yet: rows arrive within a second or so).
    """
    query = with_text().where(completions.c.project == project, is_one(completions, completion_id))
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise NotFound(f"Project '{project}' has no completion '{completion_id}'.")
    return plain(row._mapping)


def answered_by(row: Mapping[str, Any]) -> str:
    """The name of what answered a completion: `support@7`, or `support@upstream`."""
    version = row["version"]
    return f"{row['model']}@{UPSTREAM if version is None else version}"


def plain(row: Mapping[str, Any] | RowMapping) -> dict[str, Any]:
    """A row as a dictionary. SQLAlchemy names computed columns with strings of its own, no keys for orjson."""
    return {str(name): value for name, value in row.items()}


async def project_of(connection: AsyncConnection, completion_id: str) -> str | None:
    """The project that a completion is recorded in."""
    project: str | None = await connection.scalar(
        select(completions.c.project).where(is_one(completions, completion_id))
    )
    return project
