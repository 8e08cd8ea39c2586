"""Home: the loop of one model at a glance. One look says that it is well, or where it is not."""

from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import experiments, models, null_adapters, rollouts
from feedback.database import Database
from feedback.models import Model
from feedback.tables import projects
from feedback.watch_tables import alerts
from monitoring.console import numbers, standing
from monitoring.console.kept import Ask, Kept
from monitoring.console.page import Seen

router = APIRouter()

WARMED_MAX = 20
"""Models a project; the others are counted when somebody looks."""


@router.get("/")
async def home(page: Seen) -> Response:
    """The page."""
    model, connection = page.model, page.connection
    if model is None:
        return page.show("start.html")
    versions = await standing.versions_of(connection, model)
    champion = next(one for one in versions if one.state == "champion")
    experiment = await experiments.of_model(connection, page.project, model.model)
    return page.show(
        "home.html",
        champion=champion,
        names=await null_adapters.names(connection, page.project, model.model),
        waiting=standing.waiting(versions),
        experiment=experiment,
        rollout=None if experiment is None else await rollouts.of(connection, experiment.experiment_id),
        health=await standing.health(connection, model, champion),
        next_run=await standing.next_run(connection, model, page.kept),
        **await counted(page.kept, connection, model),
        alerts=await firing(connection, model),
    )


async def counted(kept: Kept, connection: AsyncConnection, model: Model) -> dict[str, Any]:
    """What the page counts over the record, kept for a while."""
    asks: dict[str, Ask[Any]] = {
        "traffic": lambda connection: numbers.traffic(connection, model),
        "speed": lambda connection: numbers.speed(connection, model),
        "ratings": lambda connection: numbers.ratings(connection, model),
    }
    return {name: await kept.get(name, model, ask, connection) for name, ask in asks.items()}


async def warm(database: Database, kept: Kept) -> None:
    """Count what the page of each model will show, before anybody looks."""
    async with database.begin() as connection:
        found = await connection.execute(select(projects.c.project))
        for project in found.scalars().all():
            for model in (await models.in_project(connection, project))[:WARMED_MAX]:
                await counted(kept, connection, model)
                await standing.next_run(connection, model, kept)


async def firing(connection: AsyncConnection, model: Model) -> list[str]:
    """What needs a person, one sentence each, newest first."""
    query = (
        select(alerts.c.sentence)
        .where(alerts.c.project == model.project, alerts.c.model == model.model, alerts.c.state == "firing")
        .order_by(alerts.c.fired_at.desc())
    )
    return list((await connection.execute(query)).scalars())
