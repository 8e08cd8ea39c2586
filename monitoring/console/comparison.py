"""The comparison of a canary with its champion over time: the looks that were kept, drawn, and what a step exposed."""

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import looks
from feedback.experiments import Experiment
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


async def over_time(connection: AsyncConnection, experiment: Experiment) -> Sequence | None:
    """The sequence so far; None before there are two looks with a difference."""
    seen = [
        one
        for one in await looks.of_split(connection, experiment.experiment_id)
        if one.difference is not None and one.low is not None and one.high is not None
    ]
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
        edges=charts.scale([*(one.low for one in seen), *(one.high for one in seen)], among=[0.0]),
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
