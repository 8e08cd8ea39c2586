"""Feedback: what was asked and answered, what people said of it, and why this answer: which version, run and rows."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response
from sqlalchemy import Select, exists, func, or_, select

from feedback import adapters, completions, datasets, runs
from feedback.completions import with_text
from feedback.errors import HoneError, NotFound
from feedback.tables import completion_redacted, completion_texts, dataset_rows, feedback
from feedback.tables import completions as rows
from monitoring.console.page import Page, Seen

router = APIRouter(prefix="/feedback")

PAGE_ROWS = 50
SEARCHED_ROWS = 20_000
"""Words are looked for in so many of the newest completions that the other filters leave."""
DAYS = (1, 7, 30, 365)
RATINGS = ("up", "down", "corrected", "commented", "none")


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
    asked = {"q": q, "version": version, "rating": rating, "arm": arm, "status": status, "days": days}
    query = _filtered(page, asked, before).order_by(rows.c.created_at.desc(), rows.c.completion_id.desc())
    found = [dict(row._mapping) for row in await page.connection.execute(query.limit(PAGE_ROWS + 1))]
    shown = found[:PAGE_ROWS]
    return page.show(
        "feedback.html",
        asked=asked,
        shown=shown,
        said=await _said(page, [row["completion_id"] for row in shown]),
        older=shown[-1]["created_at"].isoformat() if len(found) > PAGE_ROWS else None,
        versions=[
            one.version for one in await adapters.of_model(page.connection, page.project, page.model.model)
        ],
        ratings=RATINGS,
        periods=DAYS,
        searched=SEARCHED_ROWS,
    )


@router.get("/{completion_id}")
async def detail(completion_id: str, page: Seen) -> Response:
    """One completion: the conversation, what was said, and what it came from and went into."""
    row = await completions.get(page.connection, page.project, completion_id)
    version = await adapters.by_id(page.connection, row["adapter_id"])
    run = await runs.by_id(page.connection, version.run_id) if version.run_id else None
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


def _filtered(page: Page, asked: dict[str, Any], before: str) -> Select[Any]:
    conditions = list(_conditions(page, asked, before))
    query = with_text().where(*conditions)
    if not asked["q"]:
        return query
    newest = (
        select(rows.c.completion_id)
        .where(*conditions)
        .order_by(rows.c.created_at.desc())
        .limit(SEARCHED_ROWS)
    )
    return query.where(rows.c.completion_id.in_(newest), _says(asked["q"]))


def _conditions(page: Page, asked: dict[str, Any], before: str) -> Iterator[Any]:
    since = datetime.now(UTC) - timedelta(days=asked["days"] if asked["days"] in DAYS else DAYS[1])
    yield rows.c.project == page.project
    yield rows.c.model == page.required_model().model
    yield rows.c.created_at >= since
    # A completion's day is its partition: named, the older partitions are not opened.
    yield rows.c.day >= (since - timedelta(days=1)).date()
    if before:
        yield rows.c.created_at < _moment(before)
    if asked["version"]:
        yield rows.c.version == _number(asked["version"])
    if asked["arm"]:
        yield rows.c.arm == asked["arm"]
    if asked["status"]:
        yield rows.c.status == asked["status"]
    if asked["rating"]:
        yield _rated(asked["rating"])


def _says(words: str) -> Any:
    """Whether the answer or the conversation has these words, as they were said or redacted."""
    pattern = "%" + words.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_") + "%"
    said = [func.coalesce(one.c.output_text, "") for one in (completion_texts, completion_redacted)]
    asked = [one.c.request["messages"].astext for one in (completion_texts, completion_redacted)]
    return or_(*(one.ilike(pattern) for one in (*said, *asked)), rows.c.completion_id == words)


def _rated(rating: str) -> Any:
    effective = exists().where(
        feedback.c.completion_id == rows.c.completion_id,
        feedback.c.project == rows.c.project,
        feedback.c.effective,
    )
    thumbs = effective.where(feedback.c.kind == "rating", feedback.c.name == "thumbs")
    conditions = {
        "up": thumbs.where(feedback.c.value == func.to_jsonb(True)),
        "down": thumbs.where(feedback.c.value == func.to_jsonb(False)),
        "corrected": effective.where(feedback.c.kind == "demonstration"),
        "commented": effective.where(or_(feedback.c.kind == "comment", feedback.c.comment.is_not(None))),
        "none": ~effective,
    }
    if rating not in conditions:
        raise HoneError(f"rating is '{rating}'; expected one of {', '.join(conditions)}.")
    return conditions[rating]


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


def _moment(value: str) -> datetime:
    try:
        return datetime.fromisoformat(value)
    except ValueError as error:
        raise NotFound(f"before is '{value}'; expected a time such as 2026-11-21T08:00:00+00:00.") from error


def _number(value: str) -> int:
    if not value.isdecimal():
        raise HoneError(f"version is '{value}'; expected a number, such as 7.")
    return int(value)
