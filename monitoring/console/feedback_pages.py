"""Feedback: what was asked and answered, what people said of it, and why this answer: which version, run and rows."""

from dataclasses import asdict
from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from sqlalchemy import select

from feedback import adapters, completions, datasets, runs
from feedback.completions import with_text
from feedback.tables import completions as rows
from feedback.tables import dataset_rows, feedback
from monitoring.console.finding import DAYS, RATINGS, Asked, find
from monitoring.console.page import Page, Seen

router = APIRouter(prefix="/feedback")

PAGE_ROWS = 50


@router.get("")
async def listing(
    page: Seen,
    q: Annotated[str, Query(max_length=200)] = "",
    version: Annotated[str, Query(max_length=12)] = "",
    rating: str = "",
    arm: str = "",
    status: str = "",
    days: int = 7,
    before: str = "",
) -> Response:
    """Completions, newest first, by what was asked for."""
    if page.model is None:
        return page.show("start.html")
    asked = Asked(q, version, rating, arm, status, days)
    found = await find(page.connection, page.project, page.model.model, asked, before, most=PAGE_ROWS)
    return page.show(
        "feedback.html",
        asked=asked,
        filters={name: value for name, value in asdict(asked).items() if value},
        shown=found.rows,
        older=found.older,
        reached=found.reached,
        said=await _said(page, [row["completion_id"] for row in found.rows]),
        versions=[
            one.version for one in await adapters.of_model(page.connection, page.project, page.model.model)
        ],
        ratings=RATINGS,
        periods=DAYS,
    )


@router.get("/{completion_id}")
async def detail(completion_id: str, page: Seen) -> Response:
    """One completion: the conversation, what was said, and what it came from and went into."""
    row = await completions.get(page.connection, page.project, completion_id)
    version = await adapters.by_id(page.connection, row["adapter_id"]) if row["adapter_id"] else None
    run = await runs.by_id(page.connection, version.run_id) if version and version.run_id else None
    query = (
        select(feedback)
        .where(feedback.c.project == page.project, feedback.c.completion_id == completion_id)
        .order_by(feedback.c.created_at)
    )
    return page.show(
        "completion.html",
        row=row,
        version=version,
        run=run,
        similar=await _rows_like(page, row, run),
        said=[dict(one._mapping) for one in await page.connection.execute(query)],
        trained=await datasets.adapters_trained_on(page.connection, completion_id),
        conversation=await _conversation(page, row),
    )


async def _said(page: Page, ids: list[str]) -> dict[str, list[dict[str, Any]]]:
    query = select(feedback.c.completion_id, feedback.c.kind, feedback.c.value, feedback.c.comment).where(
        feedback.c.project == page.project, feedback.c.completion_id.in_(ids), feedback.c.effective
    )
    found: dict[str, list[dict[str, Any]]] = {}
    for row in await page.connection.execute(query):
        found.setdefault(row.completion_id, []).append(dict(row._mapping))
    return found


async def _conversation(page: Page, row: dict[str, Any]) -> list[dict[str, Any]]:
    """The other answers of the same session, oldest first."""
    if not row["session"]:
        return []
    query = (
        with_text()
        .where(
            rows.c.project == page.project,
            rows.c.session == row["session"],
            rows.c.model == row["model"],
            rows.c.created_at.between(
                row["created_at"] - timedelta(days=1), row["created_at"] + timedelta(days=1)
            ),
            rows.c.day.between(row["day"] - timedelta(days=1), row["day"] + timedelta(days=1)),
        )
        .order_by(rows.c.created_at)
        .limit(PAGE_ROWS)
    )
    return [dict(one._mapping) for one in await page.connection.execute(query)]


async def _rows_like(page: Page, row: dict[str, Any], run: runs.Run | None) -> list[dict[str, Any]]:
    """Some rows that trained the version that answered, those of the same rater first."""
    if run is None:
        return []
    query = (
        select(dataset_rows.c.row_number, dataset_rows.c.columns, dataset_rows.c.completion_ids)
        .where(dataset_rows.c.dataset_id == run.dataset_id, dataset_rows.c.split == "train")
        .order_by((dataset_rows.c.rater == row["rater"]).desc().nulls_last(), dataset_rows.c.row_number)
        .limit(5)
    )
    return [dict(one._mapping) for one in await page.connection.execute(query)]
