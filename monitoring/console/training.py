"""Training: what the next run waits for, what a plan would do, and each run with its progress, log and end."""

from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy import select

from feedback import adapters, datasets, run_requests, runs, searches
from feedback.datasets import Dataset
from feedback.errors import HoneError
from feedback.runs import Run, RunEvent
from feedback.tables import dataset_rows
from feedback.tuning_tables import run_requests as requests
from feedback.tuning_tables import search_trials
from monitoring.console import charts, standing, view
from monitoring.console.decide import composition
from monitoring.console.model_pages import made_from
from monitoring.console.page import Changed, Page, Seen

router = APIRouter(prefix="/training")

REQUESTS_SHOWN = 3
DATASETS_SHOWN = 8
EVENTS_SHOWN = 200
ROWS_SHOWN = 25
LEFT_OUT_SHOWN = 100
SEARCHES_SHOWN = 3
TRIALS_SHOWN = 60


@router.get("")
async def listing(page: Seen) -> Response:
    """What comes next, and the runs so far."""
    model = page.model
    if model is None:
        return page.show("start.html")
    every = await runs.in_project(page.connection, page.project, model=model.model)
    versions = await standing.versions_of(page.connection, model)
    found = await _searches(page, model.model)
    return page.show(
        "training.html",
        runs=every,
        names={one.adapter_id: one for one in versions},
        next_run=await standing.next_run(page.connection, model, page.kept),
        worker=await standing.worker_is_alive(page.connection),
        requests=await _requests(page, model.model),
        searches=found,
        tried={name: len(trials) for name, trials in found},
        frozen=await _frozen(page, model.model),
        policy=model.policy.training,
    )


@router.post("/plan")
async def plan(page: Changed) -> Response:
    """Ask the worker what the next run would do."""
    return await _ask(page, "plan", done="plan")


@router.post("/now")
async def train(page: Changed) -> Response:
    """Ask the worker for a run."""
    return await _ask(page, "now", done="train")


@router.post("/dataset")
async def freeze(page: Changed) -> Response:
    """Ask the worker for a dataset of the rows that the next run would use."""
    return await _ask(page, "dataset", done="dataset")


@router.post("/search")
async def search(page: Changed) -> Response:
    """Ask the worker to search for a recipe."""
    trials = page.form.get("trials", "20")
    if not trials.isdecimal():
        raise HoneError(f"'trials' is '{trials}'; expected a whole number.")
    asked = run_requests.search_of(int(trials), page.form.get("sampler", "bayesian"))
    return await _ask(page, "search", done="search", search=asked)


@router.post("/requests/{request_id}/cancel")
async def cancel_request(request_id: str, page: Changed) -> Response:
    """Withdraw what waits, or end a search."""
    await run_requests.cancel(page.connection, page.project, request_id, by=page.visitor.actor)
    return page.go("/training", done="withdraw")


@router.get("/datasets/{dataset_id}")
async def dataset(dataset_id: str, page: Seen, reason: str = "") -> Response:
    """A frozen dataset: rows to read, and what was left out with the reasons."""
    return await _dataset(page, await datasets.get(page.connection, dataset_id, project=page.project), reason)


@router.get("/{run_id}")
async def detail(run_id: str, page: Seen) -> Response:
    """One run."""
    run = await runs.get(page.connection, page.project, run_id)
    events = await runs.events(page.connection, run_id)
    dataset = await datasets.get(page.connection, run.dataset_id)
    versions = await adapters.of_model(page.connection, page.project, run.model)
    return page.show(
        "run.html",
        run=run,
        version=next((one for one in versions if one.adapter_id == run.adapter_id), None),
        share=progress_share(run),
        loss=loss_curve(events),
        events=events[-EVENTS_SHOWN:],
        dataset=dataset,
        composition=composition({"counts": dataset.counts, "balance": dataset.balance}),
        made_from=await made_from(page, run),
        sentences=dataset.selection.get("sentences", []),
        recipe=[(name.replace("_", " "), value) for name, value in run.recipe.items() if value is not None],
    )


@router.post("/{run_id}/cancel")
async def cancel(run_id: str, page: Changed) -> Response:
    """Stop a run."""
    await runs.request_cancel(page.connection, page.project, run_id, by=page.visitor.actor)
    return page.go(f"/training/{run_id}", done="cancel")


@router.post("/{run_id}/pause")
async def pause(run_id: str, page: Changed) -> Response:
    """Let a run rest at its next checkpoint."""
    await runs.request_pause(page.connection, page.project, run_id, by=page.visitor.actor)
    return page.go(f"/training/{run_id}", done="rest")


@router.post("/{run_id}/resume")
async def resume(run_id: str, page: Changed) -> Response:
    """Let a paused run go on."""
    await runs.resume(page.connection, page.project, run_id, by=page.visitor.actor)
    return page.go(f"/training/{run_id}", done="go_on")


@router.get("/{run_id}/rows")
async def rows(run_id: str, page: Seen, reason: str = "") -> Response:
    """What the run learns from: rows to read, and what was left out with the reasons."""
    run = await runs.get(page.connection, page.project, run_id)
    return await _dataset(page, await datasets.get(page.connection, run.dataset_id), reason, run)


async def _dataset(page: Page, dataset: Dataset, reason: str, run: Run | None = None) -> Response:
    excluded = dataset.counts.get("excluded")
    return page.show(
        "rows.html",
        run=run,
        dataset=dataset,
        composition=composition({"counts": dataset.counts, "balance": dataset.balance}),
        shown=await _rows(page, dataset.dataset_id),
        reason=reason,
        reasons=sorted(excluded) if isinstance(excluded, dict) else [],
        left_out=await datasets.exclusions(
            page.connection, dataset.dataset_id, reason=reason or None, limit=LEFT_OUT_SHOWN
        ),
        most=LEFT_OUT_SHOWN,
    )


def progress_share(run: Run) -> float | None:
    """How much of the phase is done, 0 to 1; None where nothing says."""
    for done, total in (("step", "steps"), ("evaluated", "items")):
        if isinstance(run.progress.get(done), int) and run.progress.get(total):
            return min(1.0, float(run.progress[done]) / float(run.progress[total]))
    return None


def loss_curve(events: list[RunEvent]) -> charts.Line | None:
    """The training loss as the run told it; None before two values."""
    told = [(one.data["step"], one.data["loss"]) for one in events if {"step", "loss"} <= one.data.keys()]
    told = [(step, loss) for step, loss in told if isinstance(loss, int | float)]
    if len(told) < 2:
        return None
    losses = [float(loss) for _, loss in told]
    nothing: list[float | None] = [None] * len(losses)
    return charts.line(
        losses, nothing, nothing, [f"step {step}: {loss:.4f}" for step, loss in told], show=view.number
    )


async def _ask(page: Page, kind: str, *, done: str, search: dict[str, Any] | None = None) -> Response:
    model, method = page.required_model().model, page.form.get("method", "auto")
    recipe: dict[str, Any] = {}
    if kind == "now" and (found := page.form.get("from_search")):
        asked = None if method == "auto" else method
        method, recipe = await searches.best(page.connection, page.project, found, methods=asked)
    await run_requests.create(
        page.connection,
        page.project,
        model,
        kind,
        method=method,
        recipe=recipe,
        search=search,
        by=page.visitor.actor,
    )
    return page.go("/training", done=done)


async def _requests(page: Page, model: str) -> list[Any]:
    query = (
        select(requests)
        .where(requests.c.project == page.project, requests.c.model == model)
        .order_by(requests.c.created_at.desc())
        .limit(REQUESTS_SHOWN)
    )
    return [row._mapping for row in await page.connection.execute(query)]


async def _frozen(page: Page, model: str) -> list[Dataset]:
    every = await datasets.in_project(page.connection, page.project)
    return [one for one in every if one.model == model][:DATASETS_SHOWN]


async def _rows(page: Page, dataset_id: str) -> list[Any]:
    query = (
        select(dataset_rows.c.row_number, dataset_rows.c.split, dataset_rows.c.columns)
        .where(dataset_rows.c.dataset_id == dataset_id)
        .order_by(dataset_rows.c.row_number)
        .limit(ROWS_SHOWN)
    )
    return [row._mapping for row in await page.connection.execute(query)]


async def _searches(page: Page, model: str) -> list[tuple[str, list[Any]]]:
    """The newest searches for a recipe, each with its trials, the best first."""
    query = (
        select(search_trials)
        .where(search_trials.c.project == page.project, search_trials.c.model == model)
        .order_by(search_trials.c.created_at.desc())
        .limit(TRIALS_SHOWN)
    )
    found: dict[str, list[Any]] = {}
    for row in await page.connection.execute(query):
        found.setdefault(row.search_id, []).append(row._mapping)
    return [
        (name, sorted(trials, key=lambda one: (one["loss"] is None, one["loss"], one["number"])))
        for name, trials in list(found.items())[:SEARCHES_SHOWN]
    ]
