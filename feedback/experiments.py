"""Experiments: a model's traffic split between its champion and one canary, or several, in rising steps.

The record holds one running experiment a model, at most. With one canary its share is all there is to say; with
several, `feedback.allocations` says who gets what. Starting, widening and ending are moves with an audit row
each; ending by promotion or abort changes the adapter's state in the same commit.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import adapters, audit, looks, models
from feedback.adapters import Adapter
from feedback.database import notify_registry
from feedback.errors import HoneError, IllegalMove, NotFound
from feedback.exposure_tables import null_adapters
from feedback.ids import new_hex, new_id, version_name
from feedback.tables import adapters as versions
from feedback.tables import arms, experiments

CHAMPION_ARM = "champion"
CANDIDATE_ARM = "candidate"


@dataclass(frozen=True, slots=True)
class Arm:
    """One side of the split."""

    arm: str
    adapter_id: str
    weight: float
    ended_at: datetime | None = None
    reason: str | None = None
    version: str = ""
    """The name of what answers: `support@7`."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """A split, running or ended."""

    experiment_id: str
    project: str
    model: str
    status: str
    salt: str
    step: int
    policy_version: str
    verdict: dict[str, Any] | None
    outcome: str | None
    reason: str | None
    started_at: datetime
    step_started_at: datetime
    ended_at: datetime | None
    arms: tuple[Arm, ...]
    allocation: str | None = None
    """How several arms share people; None: one candidate, whose share grows."""
    uniform_share: float = 1.0
    """Units that decide, of all."""

    @property
    def candidates(self) -> tuple[Arm, ...]:
        """The arms that are still compared with the champion."""
        return tuple(arm for arm in self.arms if arm.arm != CHAMPION_ARM and arm.ended_at is None)

    def arm(self, name: str) -> Arm:
        """The arm of this name."""
        return next(arm for arm in self.arms if arm.arm == name)


async def start_canary(connection: AsyncConnection, candidate: Adapter, *, by: str) -> Experiment:
    """Give an approved version the first step's share of traffic.

    Raises:
        IllegalMove: the version is not approved.
        HoneError: the model already has a canary.
    """
    model = await models.get(connection, candidate.project, candidate.model)
    share = model.policy.rollout.steps[0]
    experiment_id = await open_split(connection, [candidate], share=share, by=by)
    await _audit(connection, candidate, experiment_id, "experiment.start", by, {"share": share})
    return await get(connection, candidate.project, experiment_id)


async def open_split(
    connection: AsyncConnection, candidates: Sequence[Adapter], *, share: float, by: str, **values: Any
) -> str:
    """Enter a split in which each of these versions has an even part of `share`; returns its id.

    Raises:
        IllegalMove: one of them is not approved.
        HoneError: the model already has a canary.
    """
    first = candidates[0]
    running = await of_model(connection, first.project, first.model)
    if running is not None:
        raise HoneError(
            f"Model '{first.model}' already splits its traffic ({running.experiment_id}). "
            "Promote or abort that canary first."
        )
    model = await models.get(connection, first.project, first.model)
    champion = await adapters.champion(connection, first.project, first.model)
    experiment_id = new_id("exp")
    await connection.execute(
        experiments.insert().values(
            experiment_id=experiment_id,
            project=first.project,
            model=first.model,
            status="running",
            salt=new_hex(),
            policy_version=model.policy.version,
            **values,
        )
    )
    rows = [(CHAMPION_ARM, await _control(connection, champion, first), 1 - share)]
    for number, candidate in enumerate(candidates, start=1):
        await adapters.move(connection, candidate, "start_canary", by=by)
        name = CANDIDATE_ARM if number == 1 else f"{CANDIDATE_ARM}-{number}"
        rows.append((name, candidate.adapter_id, share / len(candidates)))
    for name, adapter_id, weight in rows:
        await connection.execute(
            arms.insert().values(experiment_id=experiment_id, arm=name, adapter_id=adapter_id, weight=weight)
        )
    return experiment_id


async def _control(connection: AsyncConnection, champion: Adapter, candidate: Adapter) -> str:
    """What answers in the champion's place: itself, or for a bare base model the null adapter made for it."""
    if champion.version:
        return champion.adapter_id
    null = await connection.scalar(
        select(null_adapters.c.null_id).where(null_adapters.c.adapter_id == candidate.adapter_id)
    )
    return null or champion.adapter_id


async def widen(
    connection: AsyncConnection, experiment: Experiment, *, step: int, share: float, by: str
) -> Experiment:
    """Move to a later step; the candidate's interval grows from one end, so nobody moves back.

    Raises:
        IllegalMove: the split has ended meanwhile.
    """
    await go_to_step(connection, experiment, step)
    await weigh(connection, experiment, {CHAMPION_ARM: 1 - share, CANDIDATE_ARM: share})
    candidate = await adapters.by_id(connection, experiment.arm(CANDIDATE_ARM).adapter_id)
    await _audit(
        connection,
        candidate,
        experiment.experiment_id,
        "experiment.widen",
        by,
        {"step": step, "share": share},
    )
    await notify_registry(connection, f"experiment:{experiment.experiment_id}")
    return await get(connection, experiment.project, experiment.experiment_id)


async def go_to_step(connection: AsyncConnection, experiment: Experiment, step: int) -> None:
    """Begin a step.

    Raises:
        IllegalMove: the split has ended meanwhile.
    """
    moved = await connection.scalar(
        update(experiments)
        .where(experiments.c.experiment_id == experiment.experiment_id, experiments.c.status == "running")
        .values(step=step, step_started_at=func.now())
        .returning(experiments.c.step)
    )
    if moved is None:
        raise IllegalMove(f"{experiment.experiment_id} has ended; its split cannot be widened.")


async def weigh(connection: AsyncConnection, experiment: Experiment, weights: Mapping[str, float]) -> None:
    """Write down what share of all units each arm has."""
    for name, weight in weights.items():
        await connection.execute(
            update(arms)
            .where(arms.c.experiment_id == experiment.experiment_id, arms.c.arm == name)
            .values(weight=weight)
        )


async def end_arm(connection: AsyncConnection, experiment: Experiment, arm: Arm, *, reason: str) -> None:
    """Take one of several candidates out of the split."""
    await connection.execute(
        update(arms)
        .where(arms.c.experiment_id == experiment.experiment_id, arms.c.arm == arm.arm)
        .values(ended_at=func.now(), reason=reason, weight=0.0)
    )


async def end(connection: AsyncConnection, experiment: Experiment, *, outcome: str, reason: str) -> None:
    """Close the split; every unit goes to the champion from the next request on."""
    await connection.execute(
        update(experiments)
        .where(experiments.c.experiment_id == experiment.experiment_id)
        .values(status="ended", outcome=outcome, reason=reason, ended_at=func.now())
    )
    await notify_registry(connection, f"experiment:{experiment.experiment_id}")


async def store_verdict(connection: AsyncConnection, experiment: Experiment, verdict: dict[str, Any]) -> None:
    """Keep the newest verdict beside the split."""
    await connection.execute(
        update(experiments)
        .where(experiments.c.experiment_id == experiment.experiment_id)
        .values(verdict=verdict)
    )
    await looks.keep(connection, experiment, verdict)


async def get(connection: AsyncConnection, project: str, experiment_id: str) -> Experiment:
    """One experiment.

    Raises:
        NotFound: the project has no such experiment.
    """
    found = await _where(
        connection, experiments.c.project == project, experiments.c.experiment_id == experiment_id
    )
    if not found:
        raise NotFound(
            f"Project '{project}' has no experiment '{experiment_id}'. `hone experiment list` shows its own."
        )
    return found[0]


async def of_model(connection: AsyncConnection, project: str, model: str) -> Experiment | None:
    """The running experiment of a model, if there is one."""
    found = await _where(
        connection,
        experiments.c.project == project,
        experiments.c.model == model,
        experiments.c.status == "running",
    )
    return found[0] if found else None


async def in_project(connection: AsyncConnection, project: str) -> list[Experiment]:
    """The experiments of a project, newest first."""
    return await _where(connection, experiments.c.project == project)


async def running(connection: AsyncConnection) -> list[Experiment]:
    """Every running experiment of every project."""
    return await _where(connection, experiments.c.status == "running")


async def _where(connection: AsyncConnection, *conditions: Any) -> list[Experiment]:
    rows = (
        await connection.execute(
            select(experiments).where(*conditions).order_by(experiments.c.started_at.desc())
        )
    ).all()
    found: dict[str, list[Arm]] = {row.experiment_id: [] for row in rows}
    query = (
        select(arms, versions.c.model, versions.c.version)
        .join(versions, versions.c.adapter_id == arms.c.adapter_id)
        .where(arms.c.experiment_id.in_(found))
        .order_by(arms.c.arm)
    )
    for row in await connection.execute(query):
        name = version_name(row.model, row.version)
        found[row.experiment_id].append(
            Arm(row.arm, row.adapter_id, row.weight, row.ended_at, row.reason, name)
        )
    return [Experiment(**row._mapping, arms=tuple(found[row.experiment_id])) for row in rows]


async def _audit(
    connection: AsyncConnection,
    candidate: Adapter,
    experiment_id: str,
    action: str,
    by: str,
    detail: dict[str, Any],
) -> None:
    await audit.write(
        connection,
        project=candidate.project,
        actor=by,
        action=action,
        subject=candidate.name,
        detail={"experiment_id": experiment_id} | detail,
    )
