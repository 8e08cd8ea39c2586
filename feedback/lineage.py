"""Where an adapter comes from: its run, its dataset with every row, the people behind them, and its relatives.

From the version back to what people said; `datasets.adapters_trained_on` goes the other way. Names of people are
pseudonyms here as everywhere; no prompt and no answer is shown, only what they can be found by.
"""

from dataclasses import asdict
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import datasets, runs
from feedback.adapters import Adapter
from feedback.errors import NotFound
from feedback.privacy_tables import tainted_adapters
from feedback.runs import Run
from feedback.tables import adapters, dataset_rows
from feedback.tables import runs as run_rows
from feedback.tuning_tables import fine_tuning_jobs


async def of_adapter(connection: AsyncConnection, adapter: Adapter, *, rows: bool = False) -> dict[str, Any]:
    """Everything that made an adapter; with `rows`, every row with its completions and feedback."""
    found: dict[str, Any] = {
        "name": adapter.name,
        "adapter_id": adapter.adapter_id,
        "state": adapter.state,
        "base_model": adapter.base_model,
        "files_hash": adapter.files_hash,
        "parents": [one.name for one in await ancestors(connection, adapter)],
        "children": await _children(connection, adapter),
        "erased_from_its_data": await _taints(connection, adapter),
        "run": None,
        "dataset": None,
    }
    run = await run_of(connection, adapter)
    if run is None:
        return found
    dataset = await datasets.get(connection, run.dataset_id)
    found["run"] = {
        "run_id": run.run_id,
        "method": run.method,
        "recipe_hash": run.recipe_hash,
        "seed": run.recipe.get("seed"),
        "requested_by": run.requested_by,
        "fine_tuning_job": await _job(connection, run.run_id),
    }
    found["dataset"] = {
        "dataset_id": dataset.dataset_id,
        "content_hash": dataset.content_hash,
        **await _counts(connection, dataset.dataset_id),
    }
    if rows:
        found["rows"] = [
            {
                "row_hash": row.row_hash,
                **{name: value for name, value in asdict(row).items() if name != "columns"},
            }
            for row in await datasets.rows(connection, run.dataset_id)
        ]
    return found


async def run_of(connection: AsyncConnection, adapter: Adapter) -> Run | None:
    """The run that made an adapter; None for the base model."""
    if adapter.run_id is None:
        return None
    try:
        return await runs.by_id(connection, adapter.run_id)
    except NotFound:
        return None


async def ancestors(connection: AsyncConnection, adapter: Adapter) -> list[Adapter]:
    """The versions that an adapter was continued from, nearest first."""
    found: list[Adapter] = []
    while (parent := await _parent(connection, adapter)) is not None and parent not in found:
        found.append(parent)
        adapter = parent
    return found


async def _parent(connection: AsyncConnection, adapter: Adapter) -> Adapter | None:
    run = await run_of(connection, adapter)
    if run is None or run.recipe.get("start_from") is None:
        return None
    query = select(adapters).where(
        adapters.c.project == adapter.project, adapters.c.path == run.recipe["start_from"]
    )
    row = (await connection.execute(query)).one_or_none()
    return None if row is None else Adapter(**row._mapping)


async def _children(connection: AsyncConnection, adapter: Adapter) -> list[str]:
    if adapter.path is None:
        return []
    query = (
        select(adapters.c.model, adapters.c.version)
        .join(run_rows, run_rows.c.run_id == adapters.c.run_id)
        .where(adapters.c.project == adapter.project, run_rows.c.recipe["start_from"].astext == adapter.path)
        .order_by(adapters.c.version)
    )
    return [f"{model}@{version}" for model, version in await connection.execute(query)]


async def _taints(connection: AsyncConnection, adapter: Adapter) -> list[str]:
    query = select(tainted_adapters.c.erasure_id).where(tainted_adapters.c.adapter_id == adapter.adapter_id)
    return list(await connection.scalars(query.order_by(tainted_adapters.c.erasure_id)))


async def _job(connection: AsyncConnection, run_id: str) -> str | None:
    query = select(fine_tuning_jobs.c.job_id).where(fine_tuning_jobs.c.run_id == run_id)
    return await connection.scalar(query)


async def _counts(connection: AsyncConnection, dataset_id: str) -> dict[str, Any]:
    of_dataset = dataset_rows.c.dataset_id == dataset_id
    splits = await connection.execute(
        select(dataset_rows.c.split, func.count()).where(of_dataset).group_by(dataset_rows.c.split)
    )
    people = select(func.count(dataset_rows.c.rater.distinct())).where(
        of_dataset, dataset_rows.c.split == "train"
    )
    return {
        "rows": {split: number for split, number in splits},
        "people_trained_on": await connection.scalar(people),
        "completions": await connection.scalar(
            select(func.count()).select_from(
                select(func.unnest(dataset_rows.c.completion_ids)).where(of_dataset).distinct().subquery()
            )
        ),
    }
