"""How the slices of an experiment with several arms are shared out: every allocation there was, and the newest.

An allocation never changes, and each completion names the one that drew its arm: so the probability of every arm at
every moment is on record, whatever the rule was that chose it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, TypeAlias

from sqlalchemy import func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.exposure_tables import allocations

Rule: TypeAlias = Literal["equal", "thompson", "top-two"]
RULES: tuple[Rule, ...] = ("equal", "thompson", "top-two")
"""How the adaptive slice is shared out: `monitoring.allocation` has what they mean."""
CANDIDATES_MAX = 9

Pieces: TypeAlias = Sequence[tuple[str, float]]
"""Arms and widths, laid out from 0 upwards."""
Slice: TypeAlias = Literal["uniform", "adaptive"]
SLICES: tuple[Slice, ...] = ("uniform", "adaptive")


@dataclass(frozen=True, slots=True)
class Allocation:
    """One slice, shared out: arms and widths from 0 upwards, the rest the champion's; `shares` is what that makes."""

    experiment_id: str
    allocation: int
    slice: Slice
    pieces: tuple[tuple[str, float], ...]
    shares: Mapping[str, float]
    reason: str
    at: datetime

    @property
    def opened(self) -> float:
        """How much of the line is given to anybody by name."""
        return sum(width for _, width in self.pieces)


def open_evenly(pieces: Pieces, arms: Sequence[str], width: float) -> list[tuple[str, float]]:
    """Open `width` more of the line, the same for each of `arms`."""
    return [*pieces, *((arm, width / len(arms)) for arm in arms)] if width > 0 else list(pieces)


def shares_of(pieces: Pieces, arms: Sequence[str], *, rest: str) -> dict[str, float]:
    """The probability of each of `arms` for somebody new who meets any of them.

    What is not opened is that of `rest`. Pieces of arms that are not named any more count for nobody.
    """
    widths = {arm: sum(width for owner, width in pieces if owner == arm) for arm in arms}
    named = sum(width for owner, width in pieces if owner != rest)
    left = 1.0 - sum(width for owner, width in pieces if owner not in widths)
    widths[rest] = max(0.0, 1.0 - named)
    return {arm: width / left for arm, width in widths.items()}


async def every(connection: AsyncConnection, experiment_id: str) -> dict[int, Allocation]:
    """All that there were, by number, oldest first."""
    query = (
        select(allocations)
        .where(allocations.c.experiment_id == experiment_id)
        .order_by(allocations.c.allocation)
    )
    return {row.allocation: _read(row) for row in await connection.execute(query)}


async def newest(
    connection: AsyncConnection, experiment_ids: Sequence[str]
) -> dict[str, dict[Slice, Allocation]]:
    """The newest of each slice, by experiment."""
    last = (
        select(allocations.c.experiment_id, func.max(allocations.c.allocation))
        .where(allocations.c.experiment_id.in_(experiment_ids))
        .group_by(allocations.c.experiment_id, allocations.c.slice)
    )
    query = select(allocations).where(tuple_(allocations.c.experiment_id, allocations.c.allocation).in_(last))
    found: dict[str, dict[Slice, Allocation]] = {}
    for row in await connection.execute(query):
        found.setdefault(row.experiment_id, {})[row.slice] = _read(row)
    return found


async def add(
    connection: AsyncConnection,
    experiment_id: str,
    part: Slice,
    pieces: Sequence[tuple[str, float]],
    shares: Mapping[str, float],
    *,
    reason: str,
) -> None:
    """Share a slice out anew, from now on."""
    last = select(func.coalesce(func.max(allocations.c.allocation), 0)).where(
        allocations.c.experiment_id == experiment_id
    )
    await connection.execute(
        allocations.insert().values(
            experiment_id=experiment_id,
            allocation=last.scalar_subquery() + 1,
            slice=part,
            pieces=[list(piece) for piece in pieces],
            shares=dict(shares),
            reason=reason,
        )
    )


def _read(row: Any) -> Allocation:
    return Allocation(
        row.experiment_id,
        row.allocation,
        row.slice,
        tuple((arm, width) for arm, width in row.pieces),
        row.shares,
        row.reason,
        row.at,
    )
