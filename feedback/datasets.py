"""Datasets: the frozen rows of one run, each with the completions and feedback it came from.

A dataset's id is derived from its content: equal rows, equal hash, whenever and wherever they were selected.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.errors import NotFound
from feedback.tables import adapters, dataset_rows, datasets, runs


@dataclass(frozen=True, slots=True)
class Row:
    """One row; `columns` are TRL's for the method."""

    split: str
    columns: dict[str, Any]
    rater: str | None
    completion_ids: tuple[str, ...]
    feedback_ids: tuple[str, ...]

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


def content_hash(method: str, rows: Sequence[Row]) -> str:
    """SHA-256 over method and row hashes, in row order."""
    return hashlib.sha256("\n".join([method, *(row.row_hash for row in rows)]).encode()).hexdigest()


async def freeze(
    connection: AsyncConnection,
    *,
    project: str,
    model: str,
    method: str,
    rows: Sequence[Row],
    selection: dict[str, Any],
    counts: dict[str, Any],
) -> Dataset:
    """Store the rows; the same rows of the same model give the dataset that is already there."""
    full_hash = content_hash(method, rows)
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
            )
            .on_conflict_do_nothing()
            .returning(datasets.c.dataset_id)
        )
    ).one_or_none()
    if created is not None and rows:
        await connection.execute(
            dataset_rows.insert(),
            [
                {
                    "dataset_id": dataset_id,
                    "row_number": number,
                    "split": row.split,
                    "method": method,
                    "row_hash": row.row_hash,
                    "columns": row.columns,
                    "rater": row.rater,
                    "completion_ids": list(row.completion_ids),
                    "feedback_ids": list(row.feedback_ids),
                }
                for number, row in enumerate(rows)
            ],
        )
    return await get(connection, dataset_id)


async def get(connection: AsyncConnection, dataset_id: str) -> Dataset:
    """One dataset.

    Raises:
        NotFound: there is none of this id.
    """
    row = (
        await connection.execute(select(datasets).where(datasets.c.dataset_id == dataset_id))
    ).one_or_none()
    if row is None:
        raise NotFound(f"No dataset has the id '{dataset_id}'. `hone dataset list` shows those there are.")
    return Dataset(**row._mapping)


async def in_project(connection: AsyncConnection, project: str) -> list[Dataset]:
    """The datasets of a project, newest first."""
    query = select(datasets).where(datasets.c.project == project).order_by(datasets.c.created_at.desc())
    return [Dataset(**row._mapping) for row in await connection.execute(query)]


async def rows(connection: AsyncConnection, dataset_id: str, *, split: str | None = None) -> list[Row]:
    """The rows in order, all or of one split (`train`, `held_out`)."""
    query = (
        select(dataset_rows)
        .where(dataset_rows.c.dataset_id == dataset_id)
        .order_by(dataset_rows.c.row_number)
    )
    if split is not None:
        query = query.where(dataset_rows.c.split == split)
    return [
        Row(r.split, r.columns, r.rater, tuple(r.completion_ids), tuple(r.feedback_ids))
        for r in await connection.execute(query)
    ]


async def adapters_trained_on(connection: AsyncConnection, completion_id: str) -> list[str]:
    """Names (`support@7`) of the versions that were trained on this completion or on what was said of it."""
    query = (
        select(adapters.c.model, adapters.c.version)
        .join(runs, runs.c.adapter_id == adapters.c.adapter_id)
        .join(dataset_rows, dataset_rows.c.dataset_id == runs.c.dataset_id)
        .where(dataset_rows.c.completion_ids.any(completion_id), dataset_rows.c.split == "train")
        .distinct()
        .order_by(adapters.c.model, adapters.c.version)
    )
    return [f"{model}@{version}" for model, version in await connection.execute(query)]
