"""The comparison of canaries with their champion: every arm now, the looks that were kept, drawn, what a step exposed.

Numbers are those of the newest verdict, and failures those of the record by now. Nothing is judged here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import looks
from feedback.experiments import CANDIDATE_ARM, CHAMPION_ARM, Arm, Experiment
from feedback.looks import Look, Step
from monitoring.console import charts
from monitoring.console.view import number, percent, points

LOOKS_MIN = 2


@dataclass(frozen=True, slots=True)
class Sequence:
    """The candidate's net approval less the champion's, over time."""

    chart: charts.Line
    first: datetime
    last: datetime
    now: Look
    rows: tuple[charts.Row, ...]


@dataclass(frozen=True, slots=True)
class Side:
    """One arm: what was counted of it, how it failed by whose fault it was, and, of a candidate, what is said of it."""

    arm: Arm
    name: str
    numbers: Mapping[str, Any]
    failures: tuple[tuple[str, int], ...]
    verdict: Mapping[str, Any]
    sequence: Sequence | None

    @property
    def judged(self) -> bool:
        """Whether it is compared with the champion now."""
        return self.arm.arm != CHAMPION_ARM and self.arm.ended_at is None


_FAILURES = text("""
SELECT arm, error_class, count(*) AS found FROM completions
WHERE experiment_id = :experiment_id AND error_class IS NOT NULL AND propensity IS NOT NULL
GROUP BY arm, error_class ORDER BY arm, found DESC, error_class
""")


async def sides(
    connection: AsyncConnection, experiment: Experiment, names: Mapping[str, str], *, champion: str
) -> list[Side]:
    """Every arm, the champion first; `names` are the versions' by adapter.

    A champion without an adapter is met through one that changes nothing, which has no name of its own.
    """
    every = await looks.of_split(connection, experiment.experiment_id)
    verdict = experiment.verdict or {}
    of_each = verdict.get("candidates") or {CANDIDATE_ARM: verdict}
    counted = {one["arm"]: one for one in verdict.get("arms") or ()}
    failed = (await connection.execute(_FAILURES, {"experiment_id": experiment.experiment_id})).all()
    others = [one for one in experiment.arms if one.arm != CHAMPION_ARM]
    edges = _edges([one for arm in others for one in _of_arm(every, arm.arm)])
    return [
        Side(
            arm,
            champion if arm.arm == CHAMPION_ARM else names.get(arm.adapter_id, arm.adapter_id),
            counted.get(arm.arm, {}),
            tuple((one.error_class, one.found) for one in failed if one.arm == arm.arm),
            of_each.get(arm.arm, {}),
            None if arm.arm == CHAMPION_ARM else over_time(_of_arm(every, arm.arm), edges),
        )
        for arm in (
            experiment.arm(CHAMPION_ARM),
            *(one for one in experiment.arms if one.arm != CHAMPION_ARM),
        )
    ]


def _of_arm(every: list[Look], arm: str) -> list[Look]:
    found = (one.of_arm(arm) for one in every)
    return [one for one in found if None not in (one.difference, one.low, one.high)]


def _edges(seen: list[Look]) -> charts.Scale:
    """The same for all that are drawn: candidates are looked at beside each other."""
    return charts.scale([*(one.low for one in seen), *(one.high for one in seen)], among=[0.0])


def over_time(seen: list[Look], edges: charts.Scale) -> Sequence | None:
    """One candidate's sequence so far; None before there are two looks."""
    if len(seen) < LOOKS_MIN:
        return None
    first, last = seen[0].minute, seen[-1].minute
    whole = (last - first).total_seconds()
    at = [(one.minute - first).total_seconds() / whole for one in seen]
    chart = charts.line(
        [one.difference for one in seen],
        [one.low for one in seen],
        [one.high for one in seen],
        [f"{_when(one)}: {_says(one)}" for one in seen],
        show=lambda value: points(value, 0),
        edges=edges,
        at=at,
        zero=True,
        marks=[
            (share, f"{percent(after.share)} of people from here")
            for share, before, after in zip(at[1:], seen, seen[1:], strict=False)
            if after.step != before.step
        ],
    )
    rows = tuple(
        (_when(one), percent(one.share), points(one.difference), f"{points(one.low)} to {points(one.high)}",
         number(one.rated_units), one.state.replace("_", " "))
        for one in reversed(seen)
    )  # fmt: skip
    return Sequence(chart, first, last, seen[-1], rows)


async def exposure(connection: AsyncConnection, experiment: Experiment) -> list[Step]:
    """What each step so far exposed, first step first."""
    return await looks.by_step(connection, experiment.experiment_id)


def _when(one: Look) -> str:
    return f"{one.minute.astimezone(UTC):%d %b %H:%M} UTC"


def _says(one: Look) -> str:
    return f"{points(one.difference)} points ({points(one.low)} to {points(one.high)}), {one.rated_units} people voted"
