"""Home: the loop of one model at a glance. One look says that it is well, or where it is not."""

from fastapi import APIRouter, Response
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import experiments, rollouts
from feedback.models import Model
from feedback.watch_tables import alerts
from monitoring.console import numbers, standing
from monitoring.console.page import Seen

router = APIRouter()


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
        names={one.adapter_id: one.name for one in versions},
        waiting=standing.waiting(versions),
        experiment=experiment,
        rollout=None if experiment is None else await rollouts.of(connection, experiment.experiment_id),
        health=await standing.health(connection, model, champion),
        next_run=await standing.next_run(connection, model, page.kept),
        traffic=await page.kept.get("traffic", model, lambda: numbers.traffic(connection, model)),
        speed=await page.kept.get("speed", model, lambda: numbers.speed(connection, model)),
        ratings=await page.kept.get("ratings", model, lambda: numbers.ratings(connection, model)),
        alerts=await firing(connection, model),
    )


async def firing(connection: AsyncConnection, model: Model) -> list[str]:
    """What needs a person, one sentence each, newest first."""
    query = (
        select(alerts.c.sentence)
        .where(alerts.c.project == model.project, alerts.c.model == model.model, alerts.c.state == "firing")
        .order_by(alerts.c.fired_at.desc())
    )
    return list((await connection.execute(query)).scalars())
