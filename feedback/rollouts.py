"""Where the rollout of a split stands: paused by whom and why, and what its next step waits for.

Anybody may pause a rollout: its candidate keeps the share it has, and is neither widened nor promoted by itself. Only a
person resumes it, and what a person resumed over does not pause that split again. An abort never asks whether a
rollout is paused.
"""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import audit, experiments
from feedback.adapters import AUTOMATIC_ACTOR
from feedback.errors import IllegalMove
from feedback.experiments import CANDIDATE_ARM, CHAMPION_ARM, Arm, Experiment
from feedback.watch_tables import rollouts

BY_PERSON = "person"
"""The cause of a pause that somebody asked for."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """`accepted` are the causes of a pause that a person has resumed over."""

    experiment_id: str
    paused_at: datetime | None = None
    paused_by: str | None = None
    pause_reason: str | None = None
    accepted: tuple[str, ...] = ()
    waiting_for: str | None = None

    @property
    def paused(self) -> bool:
        """Whether it stays at its share until a person resumes it."""
        return self.paused_at is not None


async def of(connection: AsyncConnection, experiment_id: str) -> Rollout:
    """Where the rollout of this split stands."""
    row = (
        await connection.execute(select(rollouts).where(rollouts.c.experiment_id == experiment_id))
    ).one_or_none()
    if row is None:
        return Rollout(experiment_id)
    return Rollout(
        row.experiment_id,
        row.paused_at,
        row.paused_by,
        row.pause_reason,
        tuple(row.accepted),
        row.waiting_for,
    )


async def running_split(connection: AsyncConnection, project: str, model: str) -> Experiment:
    """The split that a rollout is moving along.

    Raises:
        IllegalMove: the model has no canary.
    """
    experiment = await experiments.of_model(connection, project, model)
    if experiment is None:
        raise IllegalMove(
            f"Model '{model}' has no canary, so there is no rollout. `hone canary {model}@VERSION` starts one."
        )
    return experiment


async def pause(
    connection: AsyncConnection, experiment: Experiment, *, cause: str = BY_PERSON, by: str, reason: str
) -> Rollout:
    """Keep the candidate at its share until a person resumes; safe to repeat.

    The automatic actor changes nothing where the rollout is paused already, or where a person has resumed over `cause`.
    """
    before = await of(connection, experiment.experiment_id)
    if by == AUTOMATIC_ACTOR and (before.paused or cause in before.accepted):
        return before
    detail = {"reason": reason, "cause": cause}
    await _store(
        connection,
        experiment,
        paused_at=func.now(),
        paused_by=by,
        pause_reason=reason,
        waiting_for=f"A person's `hone resume --model {experiment.model}`.",
        # Whoever resumes has read the reason: the same cause would otherwise pause it again at once.
        accepted=sorted({*before.accepted, cause} - {BY_PERSON}),
    )
    await _audit(connection, experiment, "rollout.pause", by, detail)
    return await of(connection, experiment.experiment_id)


async def resume(
    connection: AsyncConnection, experiment: Experiment, *, by: str, reason: str = ""
) -> Rollout:
    """Let a paused rollout go on; it does not pause again for what it was paused for.

    Raises:
        IllegalMove: it is not paused, or it is not a person who asks.
    """
    before = await of(connection, experiment.experiment_id)
    if not before.paused:
        raise IllegalMove(
            f"The rollout of '{experiment.model}' is not paused. `hone rollout --model {experiment.model}` says "
            "what its next step waits for."
        )
    if by == AUTOMATIC_ACTOR:
        raise IllegalMove(f"The rollout of '{experiment.model}' is paused: only a person resumes it.")
    await _store(connection, experiment, paused_at=None, paused_by=None, pause_reason=None, waiting_for=None)
    await _audit(connection, experiment, "rollout.resume", by, {"reason": reason, "was": before.pause_reason})
    return await of(connection, experiment.experiment_id)


async def note_waiting(connection: AsyncConnection, experiment: Experiment, waiting_for: str | None) -> None:
    """Write down what the next step waits for, for people to read."""
    await _store(connection, experiment, waiting_for=waiting_for)


async def view(connection: AsyncConnection, project: str, model: str) -> dict[str, Any]:
    """The rollout that runs, or the one that ended last, in words and numbers; for pages and terminals."""
    found = [one for one in await experiments.in_project(connection, project) if one.model == model]
    if not found:
        return {"model": model, "state": "none", "says": f"No version of '{model}' was ever rolled out."}
    split = found[0]
    standing, running = await of(connection, split.experiment_id), split.status == "running"
    candidates = {arm.arm: _candidate(split, arm) for arm in split.arms if arm.arm != CHAMPION_ARM}
    verdict, leading = split.verdict or {}, candidates[_leading(split).arm]
    return {
        "model": model,
        "version": leading["version"],
        "state": (split.outcome or "ended") if not running else "paused" if standing.paused else "running",
        "share": sum(one["share"] for one in candidates.values()),
        "step": split.step,
        "says": split.reason if not running else standing.pause_reason or verdict.get("sentence"),
        "waiting_for": standing.waiting_for if running else None,
        "paused_by": standing.paused_by,
        "paused_at": standing.paused_at,
        "verdict": leading["verdict"],
        "guardrails": leading["guardrails"],
        "candidates": list(candidates.values()),
        "started_at": split.started_at,
        "ended_at": split.ended_at,
        "experiment_id": split.experiment_id,
    }


def _leading(split: Experiment) -> Arm:
    """Of the candidates that are left the one that does best; where none is left, the one taken back last."""
    if split.candidates:
        best = (split.verdict or {}).get("arm")
        return next((arm for arm in split.candidates if arm.arm == best), split.candidates[0])
    return max(split.arms, key=lambda arm: (arm.ended_at is not None, arm.ended_at))


def _candidate(split: Experiment, arm: Arm) -> dict[str, Any]:
    """Where one of the candidates stands."""
    verdict = split.verdict or {}
    own = verdict.get("candidates", {CANDIDATE_ARM: verdict}).get(arm.arm) or {}
    return {
        "version": arm.version,
        "arm": arm.arm,
        "state": "taken_back" if arm.ended_at is not None else split.outcome or split.status,
        "share": arm.weight if split.status == "running" else 0.0,
        "verdict": own.get("state"),
        "says": arm.reason or own.get("sentence"),
        "guardrails": [one["sentence"] for one in own.get("guardrails", ())],
    }


async def _store(connection: AsyncConnection, experiment: Experiment, **values: Any) -> None:
    statement = insert(rollouts).values(experiment_id=experiment.experiment_id, **values)
    await connection.execute(
        statement.on_conflict_do_update(
            index_elements=[rollouts.c.experiment_id], set_={**values, "updated_at": func.now()}
        )
    )


async def _audit(
    connection: AsyncConnection, experiment: Experiment, action: str, by: str, detail: dict[str, Any]
) -> None:
    await audit.write(
        connection,
        project=experiment.project,
        actor=by,
        action=action,
        subject=experiment.model,
        detail={"experiment_id": experiment.experiment_id} | detail,
    )
