"""Look for drift: compare each new window of a model's traffic with the traffic its champion began with.

`python -m monitoring.drift` looks at every model once and ends. It runs as a process of its own: Evidently, which draws
the pages, takes seconds and hundreds of megabytes to import, and a worker must not carry that. Our own tests decide;
Evidently explains, and a page that cannot be drawn changes no decision.

Three kinds are told apart, because different things follow. `input` is what people ask: evaluate on newer prompts,
perhaps train. `output` is what one fixed version answers: an incident, since its weights did not change. `feedback` is
who votes and how: look for abuse first.

The reference is the first traffic that still has its text. Where text goes after a time, or somebody is erased, it
moves along; windows go on where the last one ended, and none is compared twice.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import structlog
from numpy.typing import NDArray
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import adapters, models, traffic
from feedback.adapters import Adapter
from feedback.database import Database
from feedback.ids import new_id
from feedback.models import Model
from feedback.settings import FeedbackSettings
from feedback.traffic import Row
from feedback.watch_policy import DriftPolicy
from feedback.watch_tables import DRIFT_KINDS, drift_reports
from monitoring.drift_rules import Drift, DriftRules, judge_window
from monitoring.logs import set_up
from monitoring.texts import embed, guess_language
from monitoring.two_samples import Column

WINDOWS_AT_ONCE = 5
PAGES = "drift"
INSTANT = timedelta(microseconds=1)
"""PostgreSQL tells no two moments apart that are closer."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Report:
    """One window that was compared, as the record keeps it."""

    report_id: str
    project: str
    model: str
    kind: str
    adapter_id: str | None
    reference_from: datetime
    window_from: datetime
    window_to: datetime
    rows: int
    drifted: bool
    alarm: bool
    tests: list[dict[str, Any]]
    sentence: str
    page: str | None


async def look(database: Database, state_dir: Path) -> list[Report]:
    """Compare what is new of every model whose policy says so."""
    async with database.begin() as connection:
        every_model = await models.every(connection)
    found: list[Report] = []
    for model in every_model:
        if model.policy.drift.enabled:
            for kind in DRIFT_KINDS:
                found += await look_at(database, model, kind, state_dir)
    return found


async def look_at(database: Database, model: Model, kind: str, state_dir: Path) -> list[Report]:
    """Compare every whole new window of one kind, oldest first."""
    found: list[Report] = []
    for _ in range(WINDOWS_AT_ONCE):
        async with database.begin() as connection:
            report = await _next_window(connection, model, kind, state_dir)
        if report is None:
            break
        found.append(report)
    return found


async def newest(
    connection: AsyncConnection, project: str, model: str, *, kind: str | None = None, limit: int = 20
) -> list[Report]:
    """The windows compared last, of one kind or of all, newest first."""
    query = (
        select(drift_reports)
        .where(drift_reports.c.project == project, drift_reports.c.model == model)
        .order_by(drift_reports.c.window_to.desc(), drift_reports.c.kind)
        .limit(limit)
    )
    if kind is not None:
        query = query.where(drift_reports.c.kind == kind)
    return [_report(row) for row in await connection.execute(query)]


async def _next_window(
    connection: AsyncConnection, model: Model, kind: str, state_dir: Path
) -> Report | None:
    policy = model.policy.drift
    champion = await adapters.champion(connection, model.project, model.model)
    earlier = await _earlier(connection, model, champion, kind)
    # Text that went does not come back: before the last reference, months of rows without any would be read each time.
    since = earlier[0].reference_from - INSTANT if earlier else champion.updated_at
    reference = await _rows(connection, model, champion, kind, since, policy.reference_rows)
    if len(reference) < policy.reference_rows:
        return None
    after = max([reference[-1].created_at, *(one.window_to for one in earlier[:1])])
    window = await _rows(connection, model, champion, kind, after, policy.window_rows)
    if len(window) < policy.window_rows:
        return None
    columns = columns_of(kind, reference, window)
    drift = _judge(columns, [*reference, *window], len(reference), policy, earlier)
    report = Report(
        report_id=new_id("drift"),
        project=model.project,
        model=model.model,
        kind=kind,
        adapter_id=champion.adapter_id if kind == "output" else None,
        reference_from=reference[0].created_at,
        window_from=window[0].created_at,
        window_to=window[-1].created_at,
        rows=len(window),
        drifted=drift.drifted,
        alarm=drift.alarm,
        tests=[asdict(one) for one in drift.differences],
        sentence=drift.sentence,
        page=None,
    )
    if drift.drifted and policy.pages:
        report = await _with_page(report, columns, len(reference), state_dir)
    await connection.execute(drift_reports.insert().values(**asdict(report)))
    return report


async def _rows(
    connection: AsyncConnection, model: Model, champion: Adapter, kind: str, after: datetime, rows: int
) -> list[Row]:
    fixed = champion.adapter_id if kind == "output" else None
    # Votes come late: those of the newest answers would seem to be missing.
    wait = timedelta(seconds=model.policy.drift.votes_seconds) if kind == "feedback" else timedelta()
    if await traffic.count_since(connection, model.project, model.model, after, adapter_id=fixed) < rows:
        return []
    return await traffic.window(
        connection,
        model.project,
        model.model,
        after=after,
        rows=rows,
        rows_per_unit=model.policy.drift.rows_per_rater_max,
        adapter_id=fixed,
        before=datetime.now(UTC) - wait if wait else None,
        votes_within=wait or None,
    )


async def _earlier(connection: AsyncConnection, model: Model, champion: Adapter, kind: str) -> list[Report]:
    """Windows that were compared with traffic since the promotion, newest first."""
    query = (
        select(drift_reports)
        .where(
            drift_reports.c.project == model.project,
            drift_reports.c.model == model.model,
            drift_reports.c.kind == kind,
            drift_reports.c.reference_from >= champion.updated_at,
        )
        .order_by(drift_reports.c.window_to.desc())
    )
    return [_report(row) for row in await connection.execute(query)]


def _judge(
    columns: Sequence[Column],
    rows: Sequence[Row],
    reference_rows: int,
    policy: DriftPolicy,
    earlier: Sequence[Report],
) -> Drift:
    in_a_row = next((index for index, report in enumerate(earlier) if not report.drifted), len(earlier))
    rules = DriftRules(policy.alarm_p, policy.repeat_p, policy.windows_in_a_row)
    return judge_window(
        columns,
        [row.unit for row in rows],
        np.arange(len(rows)) >= reference_rows,
        rules,
        drifted_before=in_a_row,
        # Another draw for each window, and the same one when it is looked at again.
        seed=len(earlier),
    )


def columns_of(kind: str, reference: Sequence[Row], window: Sequence[Row]) -> list[Column]:
    """What is compared for a kind of drift, rows of the reference first."""
    rows = [*reference, *window]
    if kind == "output":
        return [
            Column("answer_text", "texts", embed([row.output_text for row in rows])),
            Column("answer_tokens", "numbers", np.array([float(row.output_tokens) for row in rows])),
            _categories("finish_reason", [row.finish_reason for row in rows]),
            _categories("refused", [str(row.refused) for row in rows]),
        ]
    if kind == "feedback":
        of_rater = [*_votes_of_rater(reference), *_votes_of_rater(window)]
        return [
            _categories("vote", [row.vote for row in rows]),
            _categories("channel", [row.channel for row in rows]),
            _categories("rater_kind", [str(row.named) for row in rows]),
            Column("votes_of_rater", "numbers", np.array(of_rater, dtype=np.float64)),
        ]
    prompts = [last_message(row.request) for row in rows]
    return [
        Column("prompt_text", "texts", embed(prompts)),
        Column("prompt_characters", "numbers", np.array([float(len(prompt)) for prompt in prompts])),
        Column("turns", "numbers", np.array([float(len(row.request.get("messages") or ())) for row in rows])),
        _categories("prompt_language", [guess_language(prompt) for prompt in prompts]),
    ]


def last_message(request: dict[str, Any]) -> str:
    """What the person wrote last, or the prompt; empty where there is no text."""
    messages = request.get("messages")
    if not isinstance(messages, list):
        prompt = request.get("prompt") or request.get("input")
        return prompt if isinstance(prompt, str) else ""
    said = [one.get("content") for one in messages if isinstance(one, dict) and one.get("role") == "user"]
    last = said[-1] if said else ""
    if isinstance(last, list):
        last = " ".join(str(part.get("text", "")) for part in last if isinstance(part, dict))
    return last if isinstance(last, str) else ""


def _votes_of_rater(rows: Sequence[Row]) -> list[int]:
    votes = Counter(row.unit for row in rows if row.vote != "none")
    return [votes[row.unit] for row in rows]


def _categories(name: str, values: Sequence[str]) -> Column:
    numbers: NDArray[np.int64] = np.unique(list(values), return_inverse=True)[1].astype(np.int64)
    return Column(name, "categories", numbers)


async def _with_page(
    report: Report, columns: Sequence[Column], reference_rows: int, state_dir: Path
) -> Report:
    from monitoring.drift_page import write_page

    relative = f"{PAGES}/{report.report_id}.html"
    try:
        await asyncio.to_thread(write_page, state_dir / relative, columns, reference_rows)
    except ImportError as error:
        log.info("no drift page", reason=f"{error}; `pip install hone-llm[drift]` brings Evidently")
        return report
    except Exception as error:  # Whatever Evidently makes of the numbers, the window was judged without it.
        log.warning("no drift page", report_id=report.report_id, error=repr(error))
        return report
    return replace(report, page=relative)


def _report(row: Any) -> Report:
    return Report(**{name: value for name, value in row._mapping.items() if name != "created_at"})


async def _main() -> None:
    set_up("drift")
    settings = FeedbackSettings.load()
    async with Database(settings.resolve_database_url(), pool_size=1) as database:
        for report in await look(database, settings.absolute_state_dir):
            log.info("drift", model=report.model, kind=report.kind, alarm=report.alarm, says=report.sentence)


if __name__ == "__main__":
    asyncio.run(_main())
