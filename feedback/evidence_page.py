"""Everything that a person needs to decide about a version, on one page: as data, and as Markdown.

What it was trained on and by whose feedback, what the gate checked, what changed on questions people had asked, what a
reward model made of it where one was asked, what it cost, and under which licence its base is. Numbers come with how
many there were; what was not measured is said to be unknown.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import adapters, datasets, evaluations, runs
from feedback.adapters import Adapter
from feedback.datasets import Dataset
from feedback.evaluations import Compared
from feedback.runs import Run

ANSWERS_SHOWN = 20
REWARD_MODEL = "reward_model"
"""Under this name a run's events hold what a reward model made of its version."""
_LICENCE = re.compile(r"^license:\s*(\S.*?)\s*$", re.MULTILINE)


async def of_version(connection: AsyncConnection, adapter: Adapter) -> dict[str, Any]:
    """The page as data. Version 0, and a version from elsewhere, have no run: those parts are null."""
    run = await runs.get(connection, adapter.project, adapter.run_id) if adapter.run_id else None
    dataset = await datasets.get(connection, run.dataset_id) if run else None
    compared = await evaluations.of_run(connection, run.run_id) if run else []
    reward = await runs.newest_told(connection, run.run_id, REWARD_MODEL) if run else None
    gate = adapter.gate or {}
    evidence = gate.get("evidence") or {}
    champion = await adapters.champion(connection, adapter.project, adapter.model)
    return {
        "version": adapter.name,
        "state": adapter.state,
        "champion": champion.name,
        "base_model": adapter.base_model,
        "base_licence": licence_of(adapter.base_model),
        "decision": gate.get("decision"),
        "reasons": gate.get("reasons", []),
        "checks": gate.get("checks", []),
        "evidence_hash": adapter.evidence_hash or None,
        "evidence": evidence or None,
        "run": _run(run) if run else None,
        "data": {
            "dataset_id": dataset.dataset_id,
            "content_hash": dataset.content_hash,
            "counts": dataset.counts,
            "balance": dataset.balance,
        }
        if dataset
        else None,
        "costs": {
            "training_seconds": evidence.get("training_seconds"),
            "evaluation_seconds": evidence.get("seconds"),
            "energy_watt_hours": evidence.get("energy_watt_hours"),
        },
        "flips": {kind: sum(one.flip == kind for one in compared) for kind in ("fixed", "broken", "same")},
        "answers": [_answer(one) for one in compared[:ANSWERS_SHOWN]],
        REWARD_MODEL: reward,
        "known_weaknesses": list(_weaknesses(gate.get("checks", []), evidence, dataset)),
    }


def licence_of(base_model: str) -> str | None:
    """The licence that a base model's own folder states; None where it states none, or is not a folder here."""
    card = Path(base_model).expanduser() / "README.md"
    try:
        head = card.read_text(errors="replace")[:4000]
    except OSError:
        return None
    found = _LICENCE.search(head) if head.startswith("---") else None
    return found[1] if found else None


def to_markdown(page: dict[str, Any]) -> str:
    """The page for a person to read."""
    decision = page["decision"] or "not judged yet"
    sections = [
        f"# {page['version']}: {decision}",
        f"State: {page['state']}. Champion now: {page['champion']}. Base model: `{page['base_model']}`, licence "
        f"{page['base_licence'] or 'not stated by its files'}. Evidence: `{page['evidence_hash'] or 'none'}`.",
        _list("Why it was rejected", page["reasons"]),
        _checks(page["checks"]),
        _flips(page),
        _reward(page[REWARD_MODEL]),
        _data(page["data"]),
        _training(page["run"], page["costs"]),
        _list("Known weaknesses", page["known_weaknesses"]),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _run(run: Run) -> dict[str, Any]:
    wanted = (
        "run_id",
        "method",
        "recipe",
        "recipe_hash",
        "progress",
        "requested_by",
        "created_at",
        "finished_at",
    )
    return {name: value for name, value in asdict(run).items() if name in wanted}


def _answer(compared: Compared) -> dict[str, Any]:
    return {
        "row_number": compared.row_number,
        "split": compared.split,
        "flip": compared.flip,
        "prompt": compared.columns.get("prompt"),
    } | asdict(compared.answered)


def _weaknesses(
    checks: Sequence[dict[str, Any]], evidence: dict[str, Any], dataset: Dataset | None
) -> Iterable[str]:
    """What passed and is still worth knowing: checks near their limit, slices that got worse, small numbers."""
    for check in checks:
        value, limit = check.get("value"), check.get("limit")
        upper = check["name"] not in ("win_rate", "held_out_rows", "length_ratio_min", "judge_win_rate")
        if check["passed"] and upper and value is not None and limit and value > 0.8 * limit:
            yield f"Close to its limit: {check['sentence']}"
    for one in evidence.get("slices", []):
        if one["candidate"] < one["champion"] - 0.05:
            yield (
                f"The {one['by']} '{one['name']}' got worse: {one['champion']:.2f} to {one['candidate']:.2f} on "
                f"{one['n']} approved answers."
            )
    if evidence and not evidence.get("golden"):
        yield (
            "Nobody keeps a golden set: what got worse on questions that nobody gives feedback on is not visible here. "
            "`hone dataset golden add` keeps a question with its right answer; four on every topic show most of it."
        )
    if dataset is not None and dataset.method != "dpo" and dataset.counts.get("replayed") == 0:
        yield (
            "Training repeated no fixed set: what nobody gives feedback on may have faded. Name one in the policy: "
            "`training.replay_file`."
        )
    items = evidence.get("items")
    if items is not None and items < 100:
        yield f"Only {items} held-out rows were compared: a change rarer than {3 / max(items, 1):.0%} is not visible."


def _checks(checks: Sequence[dict[str, Any]]) -> str:
    if not checks:
        return ""
    rows = [
        f"| {'pass' if one['passed'] else '**fail**'} | {one['name']} | {one['sentence']} |" for one in checks
    ]
    return "\n".join(["## What the gate checked", "", "| | check | finding |", "|---|---|---|", *rows])


def _flips(page: dict[str, Any]) -> str:
    flips = page["flips"]
    if not any(flips.values()):
        return ""
    return (
        "## Answers that people had voted down\n\n"
        f"{flips['fixed']} are no longer given, {flips['broken']} are given now and were not before; "
        f"{flips['same']} of the compared rows did not change in this."
    )


def _reward(report: dict[str, Any] | None) -> str:
    if report is None:
        return ""
    return (
        f"## What a reward model makes of it\n\n{report['sentence']} The gate does not read this. Dataset "
        f"`{report['dataset_id']}`, weights `{report['weights_hash'][:12]}` (not kept)."
    )


def _data(data: dict[str, Any] | None) -> str:
    if data is None:
        return ""
    counts = data["counts"]
    left_out = "; ".join(f"{number} ({reason})" for reason, number in counts.get("excluded", {}).items())
    lines = [
        "## Data",
        "",
        f"Dataset `{data['dataset_id']}`: {counts.get('train', '?')} training rows and {counts.get('held_out', '?')} "
        f"held-out rows of {counts.get('raters', '?')} people.",
    ]
    return "\n".join([*lines, f"Left out: {left_out}."] if left_out else lines)


def _training(run: dict[str, Any] | None, costs: dict[str, Any]) -> str:
    if run is None:
        return ""
    recipe = ", ".join(
        f"{name} {run['recipe'][name]}"
        for name in ("learning_rate", "beta", "epochs", "rank", "alpha", "seed")
        if run["recipe"].get(name) is not None
    )
    energy = costs["energy_watt_hours"]
    return (
        f"## Training\n\nRun `{run['run_id']}`: {run['method'].upper()}, {recipe}. Recipe `{run['recipe_hash'][:12]}`. "
        f"Training took {_minutes(costs['training_seconds'])}, the evaluation {_minutes(costs['evaluation_seconds'])}; "
        f"energy {'not known (set HONE_TRAINING_WATTS)' if energy is None else f'about {energy:.1f} Wh'}."
    )


def _minutes(seconds: float | None) -> str:
    return "an unknown time" if seconds is None else f"{seconds / 60:.1f} minutes"


def _list(title: str, sentences: Sequence[str]) -> str:
    return "\n".join([f"## {title}", "", *(f"- {one}" for one in sentences)]) if sentences else ""
