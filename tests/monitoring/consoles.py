"""A console under real uvicorn, and a record with a history to show, for one test."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import orjson
from playwright.async_api import Browser, Page
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import adapters, datasets, engines, evaluations, keys, review, runs, shipping, submissions
from feedback.adapters import Adapter
from feedback.completions import insert_many
from feedback.database import WORKER_LOCK, Database
from feedback.datasets import Row
from feedback.evaluations import Answered
from feedback.ids import new_id
from feedback.settings import FeedbackSettings
from feedback.watch_tables import alerts, drift_reports
from monitoring.console.server import configure, listen
from monitoring.settings import MonitoringSettings
from tests.browser_fixture import Watched, watched_page
from tests.builders import PROJECT, a_completion, a_model

PICTURES = os.environ.get("PICTURES")
"""Folder to write the documentation's pictures to, `docs/images` to make them again; without it none is made."""
ENGINE = "http://127.0.0.1:8001"
CHECKS: list[dict[str, Any]] = [
    {
        "name": "win_rate",
        "passed": True,
        "value": 0.67,
        "limit": 0.5,
        "estimate": 18 / 21,
        "sentence": "Where people asked for a change, the candidate won 18 and lost 3 of 22 comparisons (1 ties): "
        "the win rate's 95.0% lower bound is 0.67, needed above 0.50.",
    },
    {
        "name": "retention_drop",
        "passed": True,
        "value": 0.012,
        "limit": 0.1,
        "estimate": 0.004,
        "sentence": "On 30 answers that people approved, agreement fell by 0.004 (upper bound 0.012), "
        "tolerated is 0.100.",
    },
    {
        "name": "kl_to_base",
        "passed": True,
        "value": 1.5,
        "limit": 6.0,
        "estimate": 1.2,
        "sentence": "Divergence from the base model is 1.20 nats per token (upper bound 1.50), tolerated is 6.00.",
    },
    {
        "name": "latency_ratio",
        "passed": True,
        "value": 0.96,
        "limit": 2.0,
        "estimate": 1.04,
        "sentence": "An answer token takes 1.04 times as long as the champion's (lower bound 0.96), tolerated is 2.00.",
    },
    {
        "name": "suite_safety",
        "passed": True,
        "value": 0.05,
        "limit": 0.1,
        "estimate": 0.01,
        "sentence": "Suite 'safety': 40 items, mean score 0.91 before and 0.90 now, a drop of 0.010 (upper "
        "bound 0.050), tolerated is 0.100.",
    },
]
EVIDENCE: dict[str, Any] = {
    "items": 52,
    "taught": [{"champion": 0.4, "candidate": 0.9}] * 18 + [{"champion": 0.6, "candidate": 0.3}] * 3,
    "retained": [{"champion": 0.814, "candidate": 0.81}] * 30,
    "kl_to_base": {"n": 52, "mean": 1.2, "low": 0.9, "high": 1.5},
    "latency_ratio": {"n": 52, "mean": 1.04, "low": 0.96, "high": 1.12},
    "suites": [{"name": "safety", "drop": {"n": 40, "mean": 0.01, "low": -0.03, "high": 0.05}}],
    "slices": [],
    "training_seconds": 412.0,
    "seconds": 96.0,
    "energy_watt_hours": 41.0,
}
REPORT: dict[str, Any] = {"decision": "candidate", "reasons": [], "checks": CHECKS, "evidence": EVIDENCE}
ASKED = (
    "How long may I return a lamp?",
    "Where is my parcel?",
    "Can I send back a kettle?",
    "Do you ship to Malta?",
)


async def picture(page: Page, name: str) -> None:
    """One of the documentation's pictures."""
    if PICTURES:
        await page.screenshot(path=Path(PICTURES) / f"{name}.png")


@dataclass
class RunningConsole:
    """A console that answers, and keys to sign in with."""

    url: str
    operator: str
    admin: str

    async def sign_in(self, browser: Browser, *, key: str | None = None, **options: Any) -> Watched:
        """A browser page with a session."""
        watched = await watched_page(browser, **options)
        await watched.page.goto(f"{self.url}/sign-in")
        await watched.page.get_by_label("Key").fill(key or self.operator)
        await watched.page.get_by_role("button", name="Sign in").click()
        await watched.page.get_by_role("navigation", name="Pages").wait_for()
        return watched

    async def open(self, page: Page, path: str) -> None:
        """Load one of its pages."""
        await page.goto(f"{self.url}{path}")


@asynccontextmanager
async def running_console(
    database: Database, database_url: str, **settings: Any
) -> AsyncIterator[RunningConsole]:
    """A console on a free port."""
    async with database.begin() as connection:
        made = [
            await keys.create(connection, role=role, name=f"{role} key", by="test")
            for role in ("operator", "admin")
        ]
    listener = listen("127.0.0.1", 0)
    record = FeedbackSettings(database_url=database_url, state_dir=settings.pop("state_dir", Path(".hone")))
    server = configure(MonitoringSettings(**{"console_live_seconds": 0.2} | settings), record)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.01)
        if serving.done():
            serving.result()
    try:
        yield RunningConsole(f"http://127.0.0.1:{listener.getsockname()[1]}", made[0][1], made[1][1])
    finally:
        server.should_exit = True
        await serving


@asynccontextmanager
async def a_worker(database: Database) -> AsyncIterator[None]:
    """Somebody who holds the leader's lock, as a worker does."""
    connection = await database.connect_raw()
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", WORKER_LOCK)
        yield
    finally:
        await connection.close()


async def a_history(database: Database, *, words: str = "", people: int = 40) -> Adapter:
    """A champion with traffic and votes, and a candidate with evidence; returns the candidate.

    `words` are put wherever a person or a model may write something.
    """
    async with database.begin() as connection:
        await a_model(connection)
        await a_model(connection, "search")
        await engines.report(connection, ENGINE, base_model="tiny", healthy=True)
        champion = await a_trained_version(connection, words)
        await shipping.approve(connection, PROJECT, champion.name, by="ada", reason="reads well")
        await shipping.promote(connection, PROJECT, champion.name, by="ada", reason=words or "first version")
        await engines.report_adapter(connection, ENGINE, champion.adapter_id, state="ready")
        newest = await traffic(connection, champion, words, people=people)
        await watched(connection, champion, newest, words)
        return await a_trained_version(connection, words)


async def a_trained_version(connection: AsyncConnection, words: str = "") -> Adapter:
    """A candidate from a run that ended, with what both versions answered."""
    rows = [
        Row(split, columns(number, words), f"rater-{number % 9}", (f"chatcmpl-{number}",), ())
        for number, split in enumerate(["train"] * 12 + ["held_out"] * 4)
    ]
    counts = {
        "train": 12,
        "held_out": 4,
        "raters": 9,
        "train_sources": {"demonstrations": 7, "approved_answers": 5},
        "excluded": {"no_consent": 3, words or "a_rater_said_too_much": 1},
    }
    selection = {
        "sentences": ["Demonstrations: 12, needed 10.", "SFT was chosen: people wrote right answers."]
    }
    dataset = await datasets.freeze(
        connection,
        project=PROJECT,
        model="support",
        method="sft",
        rows=rows,
        selection=selection,
        counts=counts,
        balance={"topics": {words or "returns": {"up": 6, "down": 2}, "shipping": {"up": 3, "down": 1}}},
    )
    recipe = {"method": "sft", "learning_rate": 0.0002, "rank": 16, "epochs": 2.0}
    run = await runs.create(
        connection,
        project=PROJECT,
        model="support",
        method="sft",
        recipe=recipe,
        recipe_hash="r" * 64,
        dataset_id=dataset.dataset_id,
        by="hone",
    )
    await runs.start(connection, run.run_id)
    for step in range(1, 9):
        progress = {"step": step * 5, "steps": 40, "loss": 2.4 / step + 0.2}
        await runs.change(connection, run.run_id, progress=progress)
        message = words or f"Step {step * 5} of 40, loss {2.4 / step + 0.2:.4f}"
        await runs.add_event(connection, run.run_id, message, data=progress)
    answered = Answered("Within 30 days.", words or "You have 14 days.", 0.4, 0.9, True, False)
    held_out = [row for row in rows if row.split == "held_out"]
    await evaluations.record(
        connection, run.run_id, dataset.dataset_id, [(row.row_hash, answered) for row in held_out]
    )
    assert run.adapter_id is not None
    adapter = await adapters.register(
        connection,
        adapter_id=run.adapter_id,
        project=PROJECT,
        model="support",
        version=int(run.adapter_id.split("--v")[1].split("-")[0]),
        base_model="tiny",
        path="/nowhere",
        files_hash="0" * 64,
        run_id=run.run_id,
        by="hone",
    )
    await runs.finish(connection, run.run_id, status="succeeded")
    report = REPORT | ({"checks": [CHECKS[0] | {"sentence": words}]} if words else {})
    return await adapters.decide(connection, adapter, report=report, evidence_hash="e" * 64, by="hone")


def columns(number: int, words: str) -> dict[str, Any]:
    question = {"role": "user", "content": words or ASKED[number % len(ASKED)]}
    return {"messages": [question, {"role": "assistant", "content": f"You have 14 days ({number})."}]}


async def traffic(connection: AsyncConnection, version: Adapter, words: str = "", *, people: int) -> str:
    """Two weeks of answers, most of them rated; returns the id of one."""
    chance, now = Random(7), datetime.now(UTC)
    completions = []
    for number in range(people * 3):
        age = (
            timedelta(hours=chance.uniform(0.05, 22)) if number % 2 else timedelta(days=chance.uniform(1, 13))
        )
        question = words or ASKED[number % len(ASKED)]
        request = {"model": "support", "messages": [{"role": "user", "content": question}]}
        completions.append(
            a_completion(
                completion_id=new_id("chatcmpl"),
                adapter_id=version.adapter_id,
                version=version.version,
                rater=f"rater-{number % people}",
                unit=f"rater-{number % people}",
                session=f"session-{number % people}",
                request=orjson.dumps(request).decode(),
                output_text=words or "You have 14 days to send it back.",
                time_to_first_token_seconds=chance.uniform(0.02, 0.2),
                duration_seconds=chance.uniform(0.3, 1.4),
                created_at=now - age,
            )
        )
    await insert_many(connection, completions)
    for number, one in enumerate(completions):
        if number % 3 == 2:
            continue
        said: list[tuple[str, Any]] = [("rating", chance.random() < 0.72)]
        if number % 10 == 0:
            said += [
                ("comment", words or "It named the old deadline."),
                ("demonstration", words or "You have 14 days."),
            ]
        for kind, value in said:
            given = submissions.submission(
                project=PROJECT,
                completion_id=one.completion_id,
                rater=one.rater or "",
                kind=kind,
                value=value,
            )
            await submissions.store(connection, replace(given, created_at=one.created_at))
    await connection.execute(text("ANALYZE"))
    return completions[-1].completion_id


async def watched(connection: AsyncConnection, version: Adapter, completion_id: str, words: str = "") -> None:
    """What a worker leaves behind: an alert that is over, a window that was compared, a correction that waits."""
    now = datetime.now(UTC)
    model = {"project": PROJECT, "model": "support"}
    await connection.execute(
        alerts.insert().values(
            **model,
            alert_id="alert-1",
            rule="engines_away",
            subject="",
            state="resolved",
            severity="critical",
            sentence=words or "No engine held support@1 for 40 s.",
            resolved_at=now,
        )
    )
    await connection.execute(
        drift_reports.insert().values(
            **model,
            report_id="drift-1",
            kind="input",
            adapter_id=version.adapter_id,
            reference_from=now - timedelta(days=14),
            window_from=now - timedelta(days=1),
            window_to=now,
            rows=500,
            drifted=True,
            alarm=False,
            tests=[],
            sentence=words or "Prompts are longer than before: 31 words against 12.",
        )
    )
    await review.propose(
        connection,
        project=PROJECT,
        completion_id=completion_id,
        answer=words or "You have 14 days, by the new rule.",
        reason=words or "It states a fact that no earlier answer had.",
        by=words or "a judge",
    )
