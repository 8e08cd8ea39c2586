"""What a worker saw each time it looked at a split: the confidence sequence, kept as it was and not worked out again.

One row a minute at most, the newest of it. A verdict is always valid, so whoever reads the rows later may stop at any.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

from sqlalchemy import func, null, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.watch_tables import verdict_looks

BOUNDS = ("difference", "low", "high")


class Side(Protocol):
    """One arm of a split."""

    @property
    def arm(self) -> str:
        """Its name."""

    @property
    def weight(self) -> float:
        """Its share of units."""


class Split(Protocol):
    """What is needed of an experiment."""

    @property
    def experiment_id(self) -> str:
        """Which it is."""

    @property
    def step(self) -> int:
        """Index into the rollout's steps."""

    @property
    def arms(self) -> Sequence[Side]:
        """The champion's and every candidate's."""


@dataclass(frozen=True, slots=True)
class Look:
    """One verdict. `units` and `rated_units` are those of every arm; unknown numbers are None.

    With several candidates it is the leading one's, and `candidates` has the same of each, by its arm's name.
    """

    minute: datetime
    step: int
    share: float
    state: str
    difference: float | None
    low: float | None
    high: float | None
    units: int
    rated_units: int
    candidates: Mapping[str, Mapping[str, Any]] | None = None

    def of_arm(self, arm: str) -> "Look":
        """The same moment as the verdict on one candidate; without numbers, where it was not judged then."""
        if self.candidates is None:
            return self
        found = self.candidates.get(arm, {})
        difference, low, high = (found.get(name) for name in BOUNDS)
        return replace(
            self, state=found.get("state", "insufficient_data"), difference=difference, low=low, high=high
        )


async def keep(
    connection: AsyncConnection, split: Split, verdict: Mapping[str, Any], *, at: datetime | None = None
) -> None:
    """Keep a verdict as the newest look of its minute, which is now unless `at` says otherwise."""
    arms = verdict.get("arms") or []
    values = {
        "step": split.step,
        "share": sum(one.weight for one in split.arms if one.arm != "champion"),
        "state": verdict.get("state") or "insufficient_data",
        "difference": verdict.get("difference"),
        "low": verdict.get("low"),
        "high": verdict.get("high"),
        "units": sum(int(one.get("units", 0)) for one in arms),
        "rated_units": sum(int(one.get("rated_units", 0)) for one in arms),
        "candidates": _of_each(verdict.get("candidates")) or null(),
    }
    minute = func.date_trunc("minute", func.now() if at is None else at)
    await connection.execute(
        insert(verdict_looks)
        .values(experiment_id=split.experiment_id, minute=minute, **values)
        .on_conflict_do_update(index_elements=["experiment_id", "minute"], set_=values)
    )


def _of_each(candidates: Mapping[str, Mapping[str, Any]] | None) -> dict[str, Any]:
    return {
        arm: {name: verdict.get(name) for name in ("state", *BOUNDS)}
        for arm, verdict in (candidates or {}).items()
    }


async def of_split(connection: AsyncConnection, experiment_id: str, *, most: int = 60) -> list[Look]:
    """At most `most` looks, spread evenly over the split's life, oldest first; the newest is always among them."""
    query = text("""
        WITH every AS (
            SELECT *, row_number() OVER (ORDER BY minute DESC) - 1 AS age, count(*) OVER () AS looks
            FROM verdict_looks WHERE experiment_id = :experiment_id
        )
        SELECT minute, step, share, state, difference, low, high, units, rated_units, candidates
        FROM every WHERE age % greatest(1, ceil(looks :: float8 / :most) :: bigint) = 0 ORDER BY minute""")
    found = await connection.execute(query, {"experiment_id": experiment_id, "most": most})
    return [Look(**row._mapping) for row in found]


@dataclass(frozen=True, slots=True)
class Step:
    """One step of a rollout: the candidate's share, when it was looked at, and how many units had been met by then."""

    step: int
    share: float
    first: datetime
    last: datetime
    units: int
    rated_units: int


async def by_step(connection: AsyncConnection, experiment_id: str) -> list[Step]:
    """The steps so far, in their order."""
    query = text("""
        SELECT step, max(share) AS share, min(minute) AS first, max(minute) AS last, max(units) AS units,
               max(rated_units) AS rated_units
        FROM verdict_looks WHERE experiment_id = :experiment_id GROUP BY step ORDER BY step""")
    found = await connection.execute(query, {"experiment_id": experiment_id})
    return [Step(**row._mapping) for row in found]
