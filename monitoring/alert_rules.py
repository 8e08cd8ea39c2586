"""What needs a person, read from the record: one condition a rule, each with a sentence, true for as long as it lasts.

Nothing here keeps state: the same record gives the same conditions, so a worker that was away finds what it missed.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import adapters, audit, champion_reports, engines, experiments, rollouts, runs, traffic
from feedback.adapters import AUTOMATIC_ACTOR
from feedback.experiments import CHAMPION_ARM
from feedback.ids import version_name
from feedback.models import Model
from feedback.watch_tables import DRIFT_KINDS
from monitoring.drift import newest

Severity = Literal["warning", "critical"]

FAILING_WINDOW = timedelta(minutes=10)
FAILING_SHARE = 0.05
FAILURES_MIN = 5


@dataclass(frozen=True, slots=True)
class Condition:
    """One thing that is wrong with a model now; `subject` is the version that it is about, where several may be."""

    rule: str
    severity: Severity
    sentence: str
    subject: str = ""


async def conditions(connection: AsyncConnection, model: Model) -> list[Condition]:
    """Every condition that holds, of the rules that the model's policy names."""
    found: list[Condition] = []
    for look in LOOKS:
        found += await look(connection, model)
    return [one for one in found if one.rule in model.policy.alerts.rules]


async def _canary(connection: AsyncConnection, model: Model) -> list[Condition]:
    splits = await experiments.in_project(connection, model.project)
    split = next((one for one in splits if one.model == model.model), None)
    if split is None:
        return []
    found: list[Condition] = []
    if split.status == "running":
        standing = await rollouts.of(connection, split.experiment_id)
        if standing.paused and standing.paused_by == AUTOMATIC_ACTOR:
            why = (
                f"The rollout of '{model.model}' is paused until a person resumes it: {standing.pause_reason}"
            )
            found.append(Condition("rollout_paused", "warning", why))
    for arm in split.arms:
        # Those that ended with a promotion made way for another: nothing is wrong with them.
        alone = arm.ended_at is not None and arm.ended_at != split.ended_at
        if arm.arm != CHAMPION_ARM and (alone or split.outcome == "aborted"):
            found += await _aborted(connection, model, arm.version, arm.reason or split.reason)
    return found


async def _aborted(
    connection: AsyncConnection, model: Model, version: str, reason: str | None
) -> list[Condition]:
    entries = await audit.entries(connection, model.project, subject=version, limit=5)
    last = next((entry for entry in entries if entry.action.startswith("adapter.")), None)
    # As long as nobody has decided about the version since, somebody has still to read why it was aborted.
    if last is None or last.action != "adapter.abort" or last.actor != AUTOMATIC_ACTOR:
        return []
    sentence = f"{version} was taken back by itself and waits for a decision: {reason}"
    return [Condition("canary_aborted", "critical", sentence, subject=version)]


async def _champion(connection: AsyncConnection, model: Model) -> list[Condition]:
    champion = await adapters.champion(connection, model.project, model.model)
    found: list[Condition] = []
    watch = await champion_reports.of_champion(connection, champion.adapter_id)
    if watch is not None and watch["report"]["state"] == "worse":
        found.append(Condition("champion_worse", "critical", watch["report"]["sentence"]))
    entries = await audit.entries(connection, model.project, subject=champion.name, limit=1)
    if entries and entries[0].action == "adapter.roll_back" and entries[0].actor == AUTOMATIC_ACTOR:
        sentence = f"{champion.name} was put back by itself: {entries[0].detail.get('reason', '')}"
        found.append(Condition("champion_rolled_back", "critical", sentence))
    if not await engines.holders(connection, champion.adapter_id):
        sentence = (
            f"No engine is ready for {champion.name}, the champion of '{model.model}'. See `hone doctor`."
        )
        found.append(Condition("engines_away", "critical", sentence))
    return found


async def _failures(connection: AsyncConnection, model: Model) -> list[Condition]:
    found: list[Condition] = []
    seen = await traffic.failures(
        connection, model.project, model.model, since=datetime.now(UTC) - FAILING_WINDOW
    )
    for one in seen:
        if one.version is not None and _many(one.own, one.requests):
            name = version_name(model.model, one.version)
            sentence = (
                f"{one.own} of the newest {one.requests} answers of {name} failed by themselves: "
                "the engines are well, this version is not."
            )
            found.append(Condition("version_fails", "critical", sentence, subject=name))
    failed, requests = sum(one.infrastructure for one in seen), sum(one.requests for one in seen)
    if _many(failed, requests):
        sentence = (
            f"{failed} of the newest {requests} answers of '{model.model}' failed through an engine, the network, the "
            "disk or a gateway, through no version: see `hone doctor`."
        )
        found.append(Condition("infrastructure_fails", "critical", sentence))
    return found


def _many(failed: int, requests: int) -> bool:
    return failed >= FAILURES_MIN and failed >= FAILING_SHARE * requests


async def _drift(connection: AsyncConnection, model: Model) -> list[Condition]:
    champion = await adapters.champion(connection, model.project, model.model)
    found: list[Condition] = []
    for kind in DRIFT_KINDS:
        for report in await newest(connection, model.project, model.model, kind=kind, limit=1):
            # What was compared with the traffic of an earlier champion says nothing of this one.
            if report.alarm and report.reference_from >= champion.updated_at:
                severity: Severity = "critical" if kind == "output" else "warning"
                found.append(
                    Condition(f"{kind}_drift", severity, f"'{model.model}', {kind}: {report.sentence}")
                )
    return found


async def _training(connection: AsyncConnection, model: Model) -> list[Condition]:
    newest_runs = await runs.in_project(connection, model.project, model=model.model)
    if not newest_runs or newest_runs[0].status != "failed":
        return []
    run = newest_runs[0]
    return [Condition("training_failed", "warning", f"{run.run_id} of '{model.model}' failed: {run.error}")]


LOOKS: tuple[Callable[[AsyncConnection, Model], Awaitable[list[Condition]]], ...] = (
    _canary,
    _champion,
    _failures,
    _drift,
    _training,
)
