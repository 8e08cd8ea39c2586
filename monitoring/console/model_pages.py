"""Model: its versions as a timeline, each with where it came from, what the gate said and where it stands."""

from pathlib import Path
from typing import Any

from fastapi import APIRouter, Response

from feedback import adapters, audit, datasets, engines, null_adapters, runs
from feedback.adapters import Adapter
from feedback.runs import Run
from monitoring.console import standing
from monitoring.console.page import Page, Seen
from monitoring.console.view import NOT_KNOWN, span, words

router = APIRouter(prefix="/model")

CARD = "README.md"
CARD_BYTES_MAX = 64 * 1024


@router.get("")
async def timeline(page: Seen) -> Response:
    """Every version, newest first."""
    if page.model is None:
        return page.show("start.html")
    versions = await standing.versions_of(page.connection, page.model)
    champion = next(one for one in versions if one.state == "champion")
    return page.show(
        "model.html",
        versions=versions,
        names=await null_adapters.names(page.connection, page.project, page.model.model),
        back=next((one for one in versions if one.adapter_id == champion.replaces), None),
    )


@router.get("/{reference}")
async def version(reference: str, page: Seen) -> Response:
    """One version with its evidence."""
    found = await adapters.get(page.connection, page.project, reference)
    versions = await adapters.of_model(page.connection, page.project, found.model)
    run = await runs.by_id(page.connection, found.run_id) if found.run_id else None
    return page.show(
        "version.html",
        version=found,
        names={one.adapter_id: one.name for one in versions},
        run=run,
        made_from=await made_from(page, run),
        recipe=[]
        if run is None
        else [(words(name), value) for name, value in run.recipe.items() if value is not None],
        card=card(found),
        engines=await engines.standing(page.connection, found.adapter_id),
        decisions=await audit.entries(page.connection, page.project, subject=found.name),
    )


async def made_from(page: Page, run: Run | None) -> list[tuple[str, str]]:
    """What a version was trained on, in pairs to show."""
    if run is None:
        return []
    dataset = await datasets.get(page.connection, run.dataset_id)
    counts: dict[str, Any] = dataset.counts
    facts = [
        ("Method", run.method.upper()),
        ("Rows", f"{counts.get('train', 0)} to train, {counts.get('held_out', 0)} held out"),
        ("People", str(counts.get("raters", NOT_KNOWN))),
    ]
    facts += [
        (words(name).capitalize(), str(number)) for name, number in _numbers(counts.get("train_sources"))
    ]
    if left_out := list(_numbers(counts.get("excluded"))):
        facts.append(("Left out", "; ".join(f"{number} ({words(reason)})" for reason, number in left_out)))
    if run.started_at and run.finished_at:
        facts.append(
            ("Cost", f"{span((run.finished_at - run.started_at).total_seconds())} of training and evaluation")
        )
    loss = run.progress.get("loss")
    if isinstance(loss, float):
        facts.append(("Last loss", f"{loss:.4f}"))
    return facts


def _numbers(value: Any) -> list[tuple[str, int]]:
    return (
        [(str(name), n) for name, n in value.items() if isinstance(n, int)] if isinstance(value, dict) else []
    )


def card(version: Adapter) -> str | None:
    """The model card beside the weights, where this machine can read it."""
    if version.path is None or "://" in version.path:
        return None
    try:
        with (Path(version.path) / CARD).open(encoding="utf-8") as file:
            return file.read(CARD_BYTES_MAX)
    except (OSError, UnicodeDecodeError):
        return None
