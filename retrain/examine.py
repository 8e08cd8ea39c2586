"""The last phase of a run: wait until an engine holds the candidate, evaluate it there, let the gate decide.

May be cut off at any point and started again: the decision, its evidence and the end of the run are one transaction.
A candidate that no engine can hold is rejected with the engines' words. Requests that failed are asked again in a
whole new evaluation, since an engine that restarts meanwhile says nothing about the candidate.
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Any

import structlog
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import adapters, datasets, engines, evaluations, models, runs
from feedback.adapters import AUTOMATIC_ACTOR, BASE_ENGINE_NAME, Adapter
from feedback.database import Database
from feedback.errors import HoneError
from feedback.runs import Run
from retrain.engine_client import EngineClient
from retrain.evaluate import Evaluation, Item, Observation, evaluate, pair_of, read_items, still_says
from retrain.evidence import Evidence, Versions
from retrain.gate import GateReport, judge
from retrain.judge import Judge
from retrain.settings import RetrainSettings
from retrain.suites import Suite, load_suites

EVALUATIONS_MAX = 3
AGAIN_SECONDS = 5.0
"""Before gateways have looked at an engine that restarts, the record still calls it well: it would fail every try."""
WAIT_SECONDS = 0.5
PROGRESS_SECONDS = 2.0

log = structlog.get_logger(__name__)


class NotServed(HoneError):
    """No engine holds the candidate in time."""


async def examine(database: Database, run: Run, settings: RetrainSettings) -> None:
    """Carry the run from its published adapter to its end."""
    assert run.adapter_id is not None
    async with database.begin() as connection:
        candidate = await adapters.by_id(connection, run.adapter_id)
        policy = (await models.get(connection, run.project, run.model)).policy.gate
        items = await _items(connection, run, settings)
    try:
        suites = load_suites(policy.suites, can_judge=settings.judge_url is not None)
        evaluation = await _evaluation(database, run, candidate, items, suites, settings)
    except HoneError as error:
        await give_up(database, run, str(error))
        return
    async with database.begin() as connection:
        policy = (await models.get(connection, run.project, run.model)).policy.gate
        await evaluations.record(
            connection, run.run_id, run.dataset_id, [answered(one) for one in evaluation.observed]
        )
        tried = await evaluations.candidates_tried(connection, run.dataset_id)
        evidence = replace(evaluation.evidence, candidates_tried=tried + 1)
        await _conclude(connection, run, judge(evidence, policy))


async def give_up(database: Database, run: Run, reason: str, *, status: str = "failed") -> None:
    """End the run without an evaluation; its adapter, if it has one that is undecided, is rejected."""
    async with database.begin() as connection:
        undecided = [
            a
            for a in await adapters.of_model(connection, run.project, run.model)
            if a.adapter_id == run.adapter_id and a.state == "trained"
        ]
        for adapter in undecided:
            report: dict[str, Any] = {
                "decision": "rejected",
                "reasons": [reason],
                "checks": [],
                "evidence": None,
            }
            await adapters.decide(connection, adapter, report=report, evidence_hash="", by=AUTOMATIC_ACTOR)
        await runs.add_event(connection, run.run_id, reason, level="error")
        await runs.finish(connection, run.run_id, status=status, error=reason)


async def _items(connection: AsyncConnection, run: Run, settings: RetrainSettings) -> list[Item]:
    """What is asked: held-out rows, the newest rows and the golden set, each up to the limit."""
    return [
        item
        for split in ("held_out", "time_forward", "golden")
        for item in read_items(
            await datasets.rows(connection, run.dataset_id, split=split), settings.evaluation_prompts_max
        )
    ]


def answered(observation: Observation) -> tuple[str, evaluations.Answered]:
    """What the record keeps of one item, with the hash of its row."""
    item, pair = observation.item, pair_of(observation)
    candidate, champion = observation.candidate.text, observation.champion.text
    return item.row_hash, evaluations.Answered(
        champion_answer=champion,
        candidate_answer=candidate,
        champion_score=pair.champion,
        candidate_score=pair.candidate,
        champion_repeats_it=item.wrong is not None and still_says(champion, item.wrong),
        candidate_repeats_it=item.wrong is not None and still_says(candidate, item.wrong),
    )


async def _conclude(connection: AsyncConnection, run: Run, report: GateReport) -> None:
    assert run.adapter_id is not None
    adapter = await adapters.by_id(connection, run.adapter_id)
    await adapters.decide(
        connection, adapter, report=report.to_json(), evidence_hash=report.evidence_hash, by=AUTOMATIC_ACTOR
    )
    verdict = f"The gate says {report.decision}."
    await runs.add_event(
        connection,
        run.run_id,
        " ".join([verdict, *report.reasons]),
        data={"evidence_hash": report.evidence_hash},
    )
    await runs.finish(connection, run.run_id, status="succeeded")
    log.info(
        "run ended", run_id=run.run_id, adapter=adapter.name, decision=report.decision, reasons=report.reasons
    )


async def _evaluation(
    database: Database,
    run: Run,
    candidate: Adapter,
    items: Sequence[Item],
    suites: Sequence[Suite],
    settings: RetrainSettings,
) -> Evaluation:
    for attempt in range(1, EVALUATIONS_MAX + 1):
        champion, engine = await _engine_with_both(
            database, candidate, settings.adapter_ready_timeout_seconds
        )
        versions = Versions(candidate.engine_name, champion.engine_name, BASE_ENGINE_NAME)
        await _tell(
            database,
            run,
            f"Evaluating {candidate.name} beside {champion.name} on {len(items)} held-out rows"
            f"{' and the suites ' + ', '.join(s.policy.name for s in suites) if suites else ''}.",
        )
        began = time.monotonic()
        evaluation = await _ask(database, run, items, suites, versions, engine, settings)
        evidence = _with_costs(evaluation.evidence, run, time.monotonic() - began, settings.training_watts)
        if not evidence.errors or attempt == EVALUATIONS_MAX:
            return replace(evaluation, evidence=evidence)
        await _tell(
            database,
            run,
            f"{evidence.errors} requests failed; evaluating again: {evidence.error_examples[0]}",
        )
        await asyncio.sleep(AGAIN_SECONDS)
    raise AssertionError("unreachable")


def _with_costs(evidence: Evidence, run: Run, seconds: float, watts: float | None) -> Evidence:
    trained = run.progress.get("seconds")
    return replace(
        evidence,
        seconds=seconds,
        training_seconds=trained,
        energy_watt_hours=watts * trained / 3600 if watts and trained else None,
        training_loss=run.progress.get("loss"),
        held_out_loss=run.progress.get("held_out_loss"),
    )


async def _ask(
    database: Database,
    run: Run,
    items: Sequence[Item],
    suites: Sequence[Suite],
    versions: Versions,
    engine: str,
    settings: RetrainSettings,
) -> Evaluation:
    measured = ("seconds", "loss", "held_out_loss")
    trained = {name: run.progress[name] for name in measured if name in run.progress}
    asked = {"evaluated": 0, "items": len(items)}

    async def show() -> None:
        while True:
            await asyncio.sleep(PROGRESS_SECONDS)
            async with database.begin() as connection:
                await runs.change(connection, run.run_id, progress=trained | asked)

    shower = asyncio.create_task(show())
    try:
        async with AsyncExitStack() as stack:
            client = await stack.enter_async_context(
                EngineClient(
                    engine,
                    timeout_seconds=settings.evaluation_timeout_seconds,
                    answer_tokens_max=settings.evaluation_answer_tokens_max,
                    concurrency=settings.evaluation_concurrency,
                    api_key=settings.evaluation_engine_api_key,
                )
            )
            judging = await stack.enter_async_context(judging_model(settings)) if settings.judge_url else None
            return await evaluate(
                items,
                versions,
                client,
                suites=suites,
                judge=judging,
                report=lambda done, total: asked.update(evaluated=done, items=total),
            )
    finally:
        shower.cancel()
        with suppress(asyncio.CancelledError, Exception):
            await shower


def judging_model(settings: RetrainSettings) -> Judge:
    """The judging model that the settings name.

    Raises:
        HoneError: there is an address and no model.
    """
    if not settings.judge_url or not settings.judge_model:
        raise HoneError("HONE_JUDGE_URL is set and HONE_JUDGE_MODEL is not. Set both, or neither.")
    return Judge(
        settings.judge_url,
        settings.judge_model,
        api_key=settings.judge_api_key,
        timeout_seconds=settings.evaluation_timeout_seconds,
    )


async def _engine_with_both(database: Database, candidate: Adapter, seconds: float) -> tuple[Adapter, str]:
    """The champion, and a healthy engine on which it and the candidate passed their probes.

    Raises:
        NotServed: there is none within so many seconds.
    """
    deadline = time.monotonic() + seconds
    while True:
        async with database.begin() as connection:
            champion = await adapters.champion(connection, candidate.project, candidate.model)
            holders = await engines.holders(connection, candidate.adapter_id)
            if champion.version:
                holding_champion = await engines.holders(connection, champion.adapter_id)
                holders = [engine for engine in holders if engine in holding_champion]
            standing = await engines.standing(connection, candidate.adapter_id)
        if holders:
            return champion, holders[0]
        if time.monotonic() > deadline:
            found = "; ".join(f"{one.engine}: {one.state}, {one.detail or 'no details'}" for one in standing)
            raise NotServed(
                f"No engine was ready to serve {candidate.name} in time ({found or 'no engine tried it'}). "
                "`hone doctor` tells how the engines are; train again when one is well."
            )
        await asyncio.sleep(WAIT_SECONDS)


async def _tell(database: Database, run: Run, message: str) -> None:
    async with database.begin() as connection:
        await runs.add_event(connection, run.run_id, message)
