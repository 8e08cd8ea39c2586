"""The comparison of a canary with its champion, as it stood at several moments: the confidence sequence, drawn.

Each moment takes the answers given until then, with what has been said of them since, and gets the interval that the
verdict uses. A split with more than `REQUESTS_MAX` answers shows its newest verdict alone: a page must not wait.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.experiments import CANDIDATE_ARM, CHAMPION_ARM, Experiment
from feedback.policy import RolloutPolicy
from monitoring.console import charts
from monitoring.console.view import points
from monitoring.outcomes import UnitOutcome
from monitoring.verdict import ExperimentPolicy, Verdict, decide

MOMENTS = 14
REQUESTS_MAX = 20_000

_ANSWERED = text("""
WITH votes AS (
    SELECT completion_id,
           count(*) FILTER (WHERE value = 'true') - count(*) FILTER (WHERE value = 'false') AS net
    FROM feedback
    WHERE project = :project AND effective AND kind = 'rating' AND name = 'thumbs'
      AND completion_id IN (SELECT completion_id FROM completions WHERE experiment_id = :experiment_id)
    GROUP BY completion_id
)
SELECT unit, arm, propensity, created_at, status = 'error' AS failed, coalesce(net, 0) AS net
FROM completions LEFT JOIN votes USING (completion_id)
WHERE experiment_id = :experiment_id AND propensity IS NOT NULL
ORDER BY created_at LIMIT :rows
""")


@dataclass(frozen=True, slots=True)
class Sequence:
    """The candidate's net approval less the champion's, over time."""

    chart: charts.Line
    first: datetime
    points: int


async def over_time(
    connection: AsyncConnection, experiment: Experiment, policy: RolloutPolicy
) -> Sequence | None:
    """The sequence so far; None before there is one, or where it would take too long."""
    found = await connection.execute(
        _ANSWERED,
        {
            "project": experiment.project,
            "experiment_id": experiment.experiment_id,
            "rows": REQUESTS_MAX + 1,
        },
    )
    rows = [row._mapping for row in found]
    if not rows or len(rows) > REQUESTS_MAX:
        return None
    first, now = rows[0]["created_at"], datetime.now(UTC)
    moments = [first + (now - first) * (number + 1) / MOMENTS for number in range(MOMENTS)]
    rules = ExperimentPolicy(
        weights={arm.arm: arm.weight for arm in experiment.arms},
        control=CHAMPION_ARM,
        candidate=CANDIDATE_ARM,
        alpha=policy.alpha,
        units_min=policy.units_min,
        rated_units_min=policy.rated_units_min,
    )
    verdicts = [decide(_units([row for row in rows if row["created_at"] <= at]), rules) for at in moments]
    known = [one for one in verdicts if one.difference is not None]
    if not known:
        return None
    labels = [f"{at:%d %b %H:%M} UTC: {_label(one)}" for at, one in zip(moments, verdicts, strict=True)]
    edge = 1.08 * max(max(abs(one.low or 0.0), abs(one.high or 0.0)) for one in known)
    chart = charts.line(
        [one.difference for one in verdicts],
        [one.low for one in verdicts],
        [one.high for one in verdicts],
        labels,
        edges=(-edge, edge),
    )
    return Sequence(chart, first, len(known))


def _label(verdict: Verdict) -> str:
    if verdict.difference is None:
        return "too early"
    return f"{points(verdict.difference)} points ({points(verdict.low)} to {points(verdict.high)})"


def _units(rows: list[Mapping[Any, Any]]) -> list[UnitOutcome]:
    units: dict[tuple[str, str, float], dict[str, Any]] = {}
    for row in rows:
        key = (row["unit"], row["arm"], row["propensity"])
        unit = units.setdefault(
            key, {"requests": 0, "ups": 0, "downs": 0, "errors": 0, "met_at": row["created_at"]}
        )
        failed, net = row["failed"], row["net"]
        unit["requests"] += 1
        unit["ups"] += net > 0
        unit["downs"] += net < 0
        unit["errors"] += failed and net >= 0
        if failed:
            unit.setdefault("error_at", row["created_at"])
        if failed or net < 0:
            unit.setdefault("bad_at", row["created_at"])
    return [
        UnitOutcome(unit=name, arm=arm, propensity=propensity, **sums)
        for (name, arm, propensity), sums in units.items()
    ]
