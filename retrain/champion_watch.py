"""Watch a new champion after its promotion, and bring the one before it back where the policy says so.

A champion that a person put back by a rollback is not watched: that decision was made knowing both versions. Nothing is
ever rolled back twice, or on an adapter that has no files any more.
"""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import (
    adapters,
    audit,
    champion_reports,
    experiments,
    exposures,
    models,
    null_adapters,
    shipping,
)
from feedback.adapters import AUTOMATIC_ACTOR, Adapter
from feedback.database import Database
from feedback.models import Model
from monitoring.champion import Watched, WatchRules, watch_champion
from monitoring.tally import outcomes_of
from retrain.alone import alone

CROWNED = ("adapter.promote", "adapter.promote_directly", "adapter.roll_back")
DECISIONS_READ = 50


async def tick(database: Database) -> list[str]:
    """Look at the champion of every model once; returns what was done, one sentence each."""
    async with database.begin() as connection:
        every_model = await models.every(connection)
    done: list[str] = []
    for model in every_model:
        if model.policy.rollout.champion_watch.enabled:
            with alone(project=model.project, model=model.model):
                async with database.begin() as connection:
                    done += await _watch(connection, model)
    return done


async def _watch(connection: AsyncConnection, model: Model) -> list[str]:
    policy = model.policy.rollout
    rules = policy.champion_watch
    champion = await adapters.champion(connection, model.project, model.model)
    since = champion.updated_at
    if champion.replaces is None or datetime.now(UTC) - since > timedelta(hours=rules.hours):
        return []
    if not await _was_promoted(connection, champion):
        return []
    from_ = since - timedelta(hours=rules.reference_hours)
    counts = await exposures.around(
        connection,
        model.project,
        model.model,
        now=champion.adapter_id,
        before=await _before(connection, model, champion.replaces, from_=from_, since=since),
        from_=from_,
        since=since,
        votes=model.policy.feedback,
        maturation_seconds=policy.maturation_seconds,
    )
    watched = watch_champion(
        outcomes_of(counts),
        WatchRules(alpha=policy.guardrail_alpha, units_min=policy.units_min, ratio_max=rules.ratio_max),
        name=champion.name,
    )
    await champion_reports.store(connection, champion.adapter_id, asdict(watched), since=since)
    if watched.state != "worse" or rules.action != "roll_back":
        return []
    return await _roll_back(connection, model, champion, watched)


async def _before(
    connection: AsyncConnection, model: Model, replaced: str, *, from_: datetime, since: datetime
) -> list[str]:
    """What to compare with: the champion before; for a bare base model the null adapters that stood for it.

    Where too few met those, for it was promoted without a canary, it is the base after all.
    """
    if (await adapters.by_id(connection, replaced)).version:
        return [replaced]
    nulls = await null_adapters.of_model(connection, model.project, model.model)
    met = await exposures.units_met(connection, nulls, from_=from_, since=since) if nulls else 0
    return nulls if met >= model.policy.rollout.units_min else [replaced]


async def _was_promoted(connection: AsyncConnection, champion: Adapter) -> bool:
    entries = await audit.entries(connection, champion.project, subject=champion.name, limit=DECISIONS_READ)
    last = next((entry.action for entry in entries if entry.action in CROWNED), None)
    return last is not None and last != "adapter.roll_back"


async def _roll_back(
    connection: AsyncConnection, model: Model, champion: Adapter, watched: Watched
) -> list[str]:
    held = await models.hold(connection, model.project, model.model)
    left_alone = held.policy.rollout.champion_watch.action != "roll_back"
    if left_alone or await adapters.champion(connection, model.project, model.model) != champion:
        return []  # A person decided since it was read: about the champion, or about such rollbacks.
    # A canary that runs now is compared with the champion that leaves; whoever rolls back ends it.
    if await experiments.of_model(connection, model.project, model.model) is not None:
        await shipping.abort(
            connection,
            model.project,
            model.model,
            by=AUTOMATIC_ACTOR,
            reason=f"its control leaves: {watched.sentence}",
        )
    restored = await shipping.roll_back(
        connection, model.project, model.model, by=AUTOMATIC_ACTOR, reason=watched.sentence
    )
    await champion_reports.note_rolled_back(connection, champion.adapter_id)
    return [f"{restored.name} is the champion again. {watched.sentence}"]
