"""Alerts: raised once for as long as a condition lasts, resolved by themselves, delivered at least once.

An alert and the messages about it are written in one transaction. A message stays in the record until its receiver has
taken it: a worker that is killed between sending and noting so sends it again, under the same id. A silence keeps
people from being told; the alert fires and resolves all the same, and is told late if it outlasts the silence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import func, or_, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import audit, models, run_requests
from feedback.adapters import AUTOMATIC_ACTOR
from feedback.database import Database
from feedback.errors import HoneError
from feedback.ids import new_id
from feedback.models import Model
from feedback.watch_tables import alert_deliveries, alerts, silences
from monitoring.alert_rules import Condition, conditions

FIRING, RESOLVED = "alert.firing", "alert.resolved"
EVERY_RULE = "*"
SEEN_MIN = {"engines_away": 2}
"""How often a condition must be found before people are told: an engine that restarts is away for a moment."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One thing that needs, or needed, a person."""

    alert_id: str
    project: str
    model: str
    rule: str
    subject: str
    """The version that it is about; empty: the model."""
    state: str
    severity: str
    sentence: str
    seen: int
    fired_at: datetime
    seen_at: datetime
    resolved_at: datetime | None


async def tick(database: Database, channels: Sequence[str]) -> list[str]:
    """Bring the alerts of every model up to date; returns what fired or resolved, one sentence each."""
    async with database.begin() as connection:
        every_model = await models.every(connection)
    done: list[str] = []
    for model in every_model:
        async with database.begin() as connection:
            done += await bring_up_to_date(
                connection, model, await conditions(connection, model), channels=channels
            )
    return done


async def bring_up_to_date(
    connection: AsyncConnection, model: Model, found: Sequence[Condition], *, channels: Sequence[str]
) -> list[str]:
    """Fire what is new, refresh what goes on, resolve what is over."""
    known_ones = await listed(connection, model.project, model.model, state="firing")
    firing = {(one.rule, one.subject): one for one in known_ones}
    done: list[str] = []
    for condition in found:
        known = firing.pop((condition.rule, condition.subject), None)
        alert = await (
            _fire(connection, model, condition) if known is None else _refresh(connection, known, condition)
        )
        if known is None:
            done.append(f"{condition.severity}: {condition.sentence}")
        await _tell(connection, alert, FIRING, channels)
    for over in firing.values():
        resolved = await _resolve(connection, over)
        await _tell(connection, resolved, RESOLVED, channels)
        done.append(f"resolved: {resolved.sentence}")
    return done


async def listed(
    connection: AsyncConnection,
    project: str,
    model: str | None = None,
    *,
    state: str | None = None,
    limit: int = 100,
) -> list[Alert]:
    """Alerts of a project, those that fire first, then the newest."""
    query = select(alerts).where(alerts.c.project == project)
    if model is not None:
        query = query.where(alerts.c.model == model)
    if state is not None:
        query = query.where(alerts.c.state == state)
    query = query.order_by(alerts.c.state, alerts.c.fired_at.desc()).limit(limit)
    return [Alert(**row._mapping) for row in await connection.execute(query)]


async def silence(
    connection: AsyncConnection, project: str, model: str, *, rule: str, hours: float, by: str, reason: str
) -> datetime:
    """Tell nobody of a rule's alerts for a while; returns until when.

    Raises:
        NotFound: the project has no such model.
        HoneError: there is no such rule.
    """
    policy = (await models.get(connection, project, model)).policy.alerts
    if rule not in (*policy.rules, EVERY_RULE):
        raise HoneError(
            f"'{rule}' is no alert rule of '{model}'. Expected one of {', '.join(policy.rules)}, or '{EVERY_RULE}' "
            "for all."
        )
    until = datetime.now(UTC) + timedelta(hours=hours)
    await connection.execute(
        silences.insert().values(
            silence_id=new_id("silence"),
            project=project,
            model=model,
            rule=rule,
            until=until,
            reason=reason,
            created_by=by,
        )
    )
    detail = {"rule": rule, "until": until.isoformat(), "reason": reason}
    await audit.write(
        connection, project=project, actor=by, action="alert.silence", subject=model, detail=detail
    )
    return until


async def _fire(connection: AsyncConnection, model: Model, condition: Condition) -> Alert:
    row = await connection.execute(
        alerts.insert()
        .values(
            alert_id=new_id("alert"),
            project=model.project,
            model=model.model,
            rule=condition.rule,
            subject=condition.subject,
            state="firing",
            severity=condition.severity,
            sentence=condition.sentence,
        )
        .returning(alerts)
    )
    if condition.rule in model.policy.alerts.retrain_on:
        await run_requests.create(connection, model.project, model.model, "now", by=AUTOMATIC_ACTOR)
    return Alert(**row.one()._mapping)


async def _refresh(connection: AsyncConnection, known: Alert, condition: Condition) -> Alert:
    return await _change(
        connection,
        known,
        seen=known.seen + 1,
        seen_at=func.now(),
        sentence=condition.sentence,
        severity=condition.severity,
    )


async def _resolve(connection: AsyncConnection, over: Alert) -> Alert:
    return await _change(connection, over, state="resolved", resolved_at=func.now())


async def _change(connection: AsyncConnection, alert: Alert, **values: Any) -> Alert:
    row = await connection.execute(
        update(alerts).where(alerts.c.alert_id == alert.alert_id).values(**values).returning(alerts)
    )
    return Alert(**row.one()._mapping)


async def _tell(connection: AsyncConnection, alert: Alert, event: str, channels: Sequence[str]) -> None:
    """Write a message for every channel that has none about this event yet."""
    query = select(alert_deliveries.c.channel, alert_deliveries.c.event).where(
        alert_deliveries.c.alert_id == alert.alert_id
    )
    told = {(row.channel, row.event) for row in await connection.execute(query)}
    if event == FIRING and (
        alert.seen < SEEN_MIN.get(alert.rule, 1) or await _is_silenced(connection, alert)
    ):
        return
    for channel in channels:
        # Nobody hears the end of what he never heard of.
        if (channel, event) in told or (event == RESOLVED and (channel, FIRING) not in told):
            continue
        await connection.execute(
            insert(alert_deliveries).values(
                delivery_id=new_id("msg"),
                alert_id=alert.alert_id,
                channel=channel,
                event=event,
                message=_message(alert, event),
            )
        )


def _message(alert: Alert, event: str) -> dict[str, Any]:
    return {
        "type": event,
        "timestamp": (alert.resolved_at or alert.fired_at).isoformat(),
        "data": {
            "alert_id": alert.alert_id,
            "project": alert.project,
            "model": alert.model,
            "rule": alert.rule,
            "subject": alert.subject,
            "severity": alert.severity,
            "sentence": alert.sentence,
        },
    }


async def _is_silenced(connection: AsyncConnection, alert: Alert) -> bool:
    query = select(func.count()).where(
        silences.c.project == alert.project,
        silences.c.model == alert.model,
        or_(silences.c.rule == alert.rule, silences.c.rule == EVERY_RULE),
        silences.c.until > func.now(),
    )
    return bool(await connection.scalar(query))
