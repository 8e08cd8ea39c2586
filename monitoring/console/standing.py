"""How a model stands, in sentences: is it well, what waits for a person, when it learns next and why not yet."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import adapters, engines, runs
from feedback.adapters import Adapter
from feedback.database import WORKER_LOCK
from feedback.engines import Engine
from feedback.fresh import fresh_feedback
from feedback.models import Model
from feedback.runs import Run
from monitoring.console.kept import Kept
from monitoring.console.view import span

STALE_SECONDS = 60.0
"""Gateways look at their engines every few seconds; after this long, none does."""


@dataclass(frozen=True, slots=True)
class Health:
    """What is wrong, one sentence each with what to do; empty is well."""

    troubles: tuple[str, ...]
    engines: tuple[Engine, ...]
    ready_on: int
    worker: bool


@dataclass(frozen=True, slots=True)
class NextRun:
    """When the next training starts, or what it waits for."""

    sentence: str
    fresh: int
    needed: int
    run: Run | None


async def health(connection: AsyncConnection, model: Model, champion: Adapter) -> Health:
    """Whether requests for the model are answered, and whether anybody works."""
    every = [one for one in await engines.every(connection) if one.base_model == champion.base_model]
    holders = set(await engines.holders(connection, champion.adapter_id))
    if champion.version == 0:
        holders = {one.engine for one in every if one.healthy}
    worker = await worker_is_alive(connection)
    return Health(tuple(_troubles(every, holders, champion, worker)), tuple(every), len(holders), worker)


def _troubles(every: list[Engine], holders: set[str], champion: Adapter, worker: bool) -> list[str]:
    found: list[str] = []
    now = datetime.now(UTC)
    seen = max((one.checked_at for one in every), default=None)
    if seen is None:
        found.append(
            f"No gateway has reported an engine for {champion.base_model}: start `hone up`, or a gateway and an engine."
        )
    elif (now - seen).total_seconds() > STALE_SECONDS:
        quiet = span((now - seen).total_seconds())
        found.append(
            f"No gateway has looked at the engines for {quiet}: is one running? `hone doctor` tells."
        )
    elif not holders:
        found.append(f"No engine holds {champion.name}, so nobody answers. `hone doctor` says why.")
    found += [
        f"Engine {one.engine} is not well: {one.detail or 'no details'}." for one in every if not one.healthy
    ]
    if not worker:
        found.append(
            "No worker runs: nothing is trained, and no rollout moves. Start one with `hone worker`."
        )
    return found


async def worker_is_alive(connection: AsyncConnection) -> bool:
    """Whether some worker holds the leader's lock."""
    query = text(
        "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 1"
        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
        " AND (classid::bigint << 32 | objid::bigint) = :lock)"
    )
    return bool(await connection.scalar(query, {"lock": WORKER_LOCK}))


async def next_run(connection: AsyncConnection, model: Model, kept: Kept) -> NextRun:
    """What the schedule waits for, as the worker sees it."""
    policy = model.policy.training
    earlier = await runs.in_project(connection, model.project, model=model.model)
    since = earlier[0].created_at if earlier else None
    fresh = await kept.get(
        f"fresh since {since}", model, lambda connection: fresh_feedback(connection, model, since), connection
    )
    needed = policy.fresh_feedback_min
    unfinished = next((run for run in earlier if run.status in runs.UNFINISHED), None)
    if unfinished is not None:
        return NextRun(
            f"A run is {unfinished.status} now; the next one waits for its end.", fresh, needed, unfinished
        )
    if not policy.enabled:
        return NextRun("The policy starts no runs by itself. Start one by hand.", fresh, needed, None)
    waits = timedelta(hours=policy.interval_hours_min)
    left = (since + waits - datetime.now(UTC)).total_seconds() if since else 0.0
    reasons = []
    if fresh < needed:
        reasons.append(f"{needed - fresh} more ratings, corrections or preferences")
    if left > 0:
        reasons.append(f"{span(left)} since the last run to pass")
    if reasons:
        return NextRun(f"Not yet: it waits for {' and for '.join(reasons)}.", fresh, needed, None)
    return NextRun("Due: the worker plans it at its next look.", fresh, needed, None)


def waiting(versions: list[Adapter]) -> list[Adapter]:
    """The versions about which a person decides next, newest first."""
    return [one for one in versions if one.state in ("candidate", "approved")]


async def versions_of(connection: AsyncConnection, model: Model) -> list[Adapter]:
    """Every version of the model, newest first."""
    return await adapters.of_model(connection, model.project, model.model)
