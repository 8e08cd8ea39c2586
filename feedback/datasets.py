"""Datasets: the frozen rows of one run, each with the completions and feedback it came from.

A dataset's id is derived from its content: equal rows, equal hash, in whatever order they were selected. Rows are
numbered by their hash, which shuffles them the same way each time. They are frozen as they come, so memory does not
grow with their number.
"""

import hashlib
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Any

import orjson
from sqlalchemy import Text, cast, func, select, text
from sqlalchemy.dialects.postgresql import ARRAY, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.errors import NotFound
from feedback.review_tables import dataset_exclusions
from feedback.tables import adapters, dataset_rows, datasets, runs

BATCH = 1000
EVALUATED = ("held_out", "time_forward", "golden")
"""Splits that are never trained on."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row; `columns` are TRL's for the method."""

    split: str
    columns: dict[str, Any]
    rater: str | None
    completion_ids: tuple[str, ...]
    feedback_ids: tuple[str, ...]
    method: str | None = None
    """Whose columns, where it is not the dataset's."""

    @property
    def row_hash(self) -> str:
        """SHA-256 of split and columns."""
        return hashlib.sha256(
            orjson.dumps([self.split, self.columns], option=orjson.OPT_SORT_KEYS)
        ).hexdigest()


@dataclass(frozen=True, slots=True)
class Dataset:
    """What is known of a frozen dataset without its rows."""

    dataset_id: str
    project: str
    model: str
    method: str
    content_hash: str
    selection: dict[str, Any]
    counts: dict[str, Any]
    created_at: datetime
    balance: dict[str, Any]


def content_hash(method: str, rows: Iterable[Row]) -> str:
    """SHA-256 over method and row hashes, sorted."""
    return hashlib.sha256("\n".join([method, *sorted(row.row_hash for row in rows)]).encode()).hexdigest()


async def freeze(
    connection: AsyncConnection,
    *,
    project: str,
    model: str,
    method: str,
    rows: Iterable[Row] | AsyncIterator[Sequence[Row]],
    selection: dict[str, Any],
    counts: dict[str, Any],
    balance: dict[str, Any] | None = None,
) -> Dataset:
    """Store the rows; the same rows of the same model give the dataset that is already there."""
    await connection.execute(text(_CREATE_FROZEN))
    async for batch in _batches(rows):
        await _copy(connection, batch, method)
    full_hash = await _hash_of_frozen(connection, method)
    scope = hashlib.sha256(f"{project}/{model}/{full_hash}".encode()).hexdigest()
    dataset_id = f"ds-{scope[:24]}"
    created = (
        await connection.execute(
            insert(datasets)
            .values(
                dataset_id=dataset_id,
                project=project,
                model=model,
                method=method,
                content_hash=full_hash,
                selection=selection,
                counts=counts,
                balance=balance or {},
            )
            .on_conflict_do_nothing()
            .returning(datasets.c.dataset_id)
        )
    ).one_or_none()
    if created is not None:
        await connection.execute(text(_KEEP_FROZEN), {"dataset_id": dataset_id})
    # A server-side cursor that was read to its end stays open until it is closed, and holds its table.
    await connection.execute(text("CLOSE ALL"))
    await connection.execute(text("DROP TABLE frozen"))
    return await get(connection, dataset_id)


_CREATE_FROZEN = """
    CREATE TEMPORARY TABLE frozen (
        split text, method text, row_hash text COLLATE "C", columns jsonb, rater text, completion_ids text[],
        feedback_ids text[]
    ) ON COMMIT DROP"""
_KEEP_FROZEN = """
    INSERT INTO dataset_rows
        (dataset_id, row_number, split, method, row_hash, columns, rater, completion_ids, feedback_ids)
    SELECT :dataset_id, row_number() OVER (ORDER BY row_hash, completion_ids, feedback_ids) - 1, split, method,
        row_hash, columns, rater, completion_ids, feedback_ids FROM frozen"""
_FROZEN = ("split", "method", "row_hash", "columns", "rater", "completion_ids", "feedback_ids")


async def _batches(rows: Iterable[Row] | AsyncIterator[Sequence[Row]]) -> AsyncIterator[Sequence[Row]]:
    if isinstance(rows, AsyncIterator):
        async for batch in rows:
            yield batch
        return
    waiting = iter(rows)
    while batch := list(islice(waiting, BATCH)):
        yield batch


async def _copy(connection: AsyncConnection, batch: Sequence[Row], method: str) -> None:
    raw = await connection.get_raw_connection()
    assert raw.driver_connection is not None
    records = [
        (
            row.split,
            row.method or method,
            row.row_hash,
            orjson.dumps(row.columns).decode(),
            row.rater,
            list(row.completion_ids),
            list(row.feedback_ids),
        )
        for row in batch
    ]
    await raw.driver_connection.copy_records_to_table("frozen", records=records, columns=list(_FROZEN))


async def _hash_of_frozen(connection: AsyncConnection, method: str) -> str:
    digest = hashlib.sha256(method.encode())
    query = text("SELECT row_hash FROM frozen ORDER BY row_hash")
    async with connection.stream(query, execution_options={"yield_per": BATCH}) as hashes:
        async for row in hashes:
            digest.update(b"\n" + row.row_hash.encode())
    return digest.hexdigest()


async def get(connection: AsyncConnection, dataset_id: str, *, project: str | None = None) -> Dataset:
    """One dataset, of a project where one is named.

    Raises:
        NotFound: there is none of this id.
    """
    row = (
        await connection.execute(select(datasets).where(datasets.c.dataset_id == dataset_id))
    ).one_or_none()
    if row is None or project not in (None, row.project):
        raise NotFound(f"No dataset has the id '{dataset_id}'. `hone dataset list` shows those there are.")
    return Dataset(**row._mapping)


async def in_project(connection: AsyncConnection, project: str) -> list[Dataset]:
    """The datasets of a project, newest first."""
    query = select(datasets).where(datasets.c.project == project).order_by(datasets.c.created_at.desc())
    return [Dataset(**row._mapping) for row in await connection.execute(query)]


async def rows(connection: AsyncConnection, dataset_id: str, *, split: str | None = None) -> list[Row]:
    """The rows in order, all or of one split (`train`, `held_out`, `time_forward`, `golden`)."""
    return [row async for row in stream_rows(connection, dataset_id, split=split)]


async def stream_rows(
    connection: AsyncConnection, dataset_id: str, *, split: str | None = None
) -> AsyncIterator[Row]:
    """The rows in order, one at a time through a server-side cursor."""
    query = (
        select(dataset_rows)
        .where(dataset_rows.c.dataset_id == dataset_id)
        .order_by(dataset_rows.c.row_number)
    )
    if split is not None:
        query = query.where(dataset_rows.c.split == split)
    async with connection.stream(query, execution_options={"yield_per": BATCH}) as found:
        async for r in found:
            yield Row(r.split, r.columns, r.rater, tuple(r.completion_ids), tuple(r.feedback_ids), r.method)


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Something that was said and did not become a row."""

    reason: str
    completion_id: str
    feedback_id: str | None


async def exclusions(
    connection: AsyncConnection,
    dataset_id: str,
    *,
    reason: str | None = None,
    limit: int = 1000,
    after: int = -1,
) -> list[Exclusion]:
    """What was left out of a dataset, in order of completions; `reason` may be the beginning of one.

    Raises:
        NotFound: there is no such dataset.
    """
    await get(connection, dataset_id)
    out = dataset_exclusions.c
    query = (
        select(out.reason, out.completion_id, out.feedback_id)
        .where(out.dataset_id == dataset_id, out.number > after)
        .order_by(out.number)
        .limit(limit)
    )
    if reason is not None:
        query = query.where(func.starts_with(out.reason, reason))
    return [Exclusion(*row) for row in await connection.execute(query)]


async def adapters_trained_on(connection: AsyncConnection, completion_id: str) -> list[str]:
    """Names (`support@7`) of the versions that were trained on this completion or on what was said of it."""
    query = (
        select(adapters.c.model, adapters.c.version)
        .join(runs, runs.c.adapter_id == adapters.c.adapter_id)
        .join(dataset_rows, dataset_rows.c.dataset_id == runs.c.dataset_id)
        .where(
            dataset_rows.c.completion_ids.op("@>")(cast([completion_id], ARRAY(Text))),
            dataset_rows.c.split == "train",
        )
        .distinct()
        .order_by(adapters.c.model, adapters.c.version)
    )
    return [f"{model}@{version}" for model, version in await connection.execute(query)]
