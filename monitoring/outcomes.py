"""What each unit met and said, summed so that a verdict can be computed from it.

A unit is the rater, or the session of an anonymous one: the thing that was assigned, and so the thing that counts once.
Every exposed unit is kept, rated or not. Reads nothing: the caller brings rows that its database summed.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Generic, Self, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from monitoring.sequential import Floats, floats

Key = TypeVar("Key")


@dataclass(frozen=True, slots=True)
class UnitOutcome:
    """What one unit met in one arm, while it had one propensity of that arm.

    `requests`, `ups` and `downs` count scored requests, those older than the maturation window. Guardrails do not wait:
    `exposed`, `bad` and `errors` count every request; without them, `requests` and `errors + downs` stand in. The
    moments (when the unit met this arm, had its first bad answer there, its first error) say which row of a unit came
    first; they are needed only where a unit has several rows.

    The rest is for guardrails and counts every request: answers that the client left (`aborted`), that refuse, that
    were asked for again; and sums of natural logarithms with the number of values in them: seconds to the first token
    of `first_tokens` streams, seconds per later token of `later_tokens` streams, tokens of `answers` whole answers.
    """

    unit: str
    arm: str
    requests: int
    ups: int = 0
    downs: int = 0
    errors: int = 0
    propensity: float | None = None
    exposed: int | None = None
    bad: int | None = None
    met_at: datetime | None = None
    bad_at: datetime | None = None
    error_at: datetime | None = None
    aborted: int = 0
    refused: int = 0
    regenerated: int = 0
    first_tokens: int = 0
    log_first_token_seconds: float = 0.0
    later_tokens: int = 0
    log_later_token_seconds: float = 0.0
    answers: int = 0
    log_answer_tokens: float = 0.0
    shares: tuple[float, ...] | None = None
    """The probability of every arm, where more is known of it than that of this one."""
    decides: bool = True
    """Whether the arm was drawn by chance alone, not by what was seen before."""


MEASURES = (
    "aborted", "refused", "regenerated", "first_tokens", "log_first_token_seconds", "later_tokens",
    "log_later_token_seconds", "answers", "log_answer_tokens",
)  # fmt: skip


def shares_of(arm: str, propensity: float | None, weights: Mapping[str, float]) -> tuple[float, ...]:
    """The probability of every arm, in the order of `weights`, from the logged one of `arm`.

    What the logged propensity leaves is divided over the other arms in proportion to their weights.
    """
    total = sum(weights.values())
    if propensity is None:
        return tuple(weight / total for weight in weights.values())
    others = {name: weight for name, weight in weights.items() if name != arm}
    rest = sum(others.values())
    left = 1.0 - propensity
    return tuple(
        propensity if name == arm else left * (others[name] / rest if rest > 0 else 1.0 / len(others))
        for name in weights
    )


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Unit outcomes as columns, one row each.

    `unit` (rows,) numbers the units, `arm` (rows,) indexes `arms`, `group` (rows,) indexes `shares` (groups, arms): one
    group per distinct split of the traffic. `met`, `first_bad`, `first_error` (rows,) mark the one row of each unit in
    which it entered the experiment, had its first bad answer, its first error. `group_decides` (groups,) marks the
    groups whose arms were drawn by chance alone, `decides` (rows,) their rows. `measures` holds the columns that are
    named in `MEASURES`, (rows,) each.
    """

    arms: tuple[str, ...]
    unit: NDArray[np.int64]
    arm: NDArray[np.int64]
    group: NDArray[np.int64]
    shares: Floats
    group_decides: NDArray[np.bool_]
    requests: Floats
    ups: Floats
    downs: Floats
    errors: Floats
    exposed: Floats
    bad: Floats
    met: NDArray[np.bool_]
    first_bad: NDArray[np.bool_]
    first_error: NDArray[np.bool_]
    decides: NDArray[np.bool_]
    measures: Mapping[str, Floats]

    @classmethod
    def of(cls, rows: Sequence[UnitOutcome], weights: Mapping[str, float]) -> Self:
        """Turn rows into columns.

        Raises:
            ValueError: a row names an arm without a weight, negative counts, or a propensity outside (0, 1].
        """
        for row in rows:
            _check(row, weights)
        names, numbers, groups = tuple(weights), _Numbers[str](), _Numbers[tuple[bool, tuple[float, ...]]]()
        unit = np.array([numbers[row.unit] for row in rows], dtype=np.int64)
        group = [
            groups[row.decides, _rounded(row.shares or shares_of(row.arm, row.propensity, weights))]
            for row in rows
        ]
        errors = floats([row.errors for row in rows])
        exposed = floats([row.requests if row.exposed is None else row.exposed for row in rows])
        bad = floats([row.errors + row.downs if row.bad is None else row.bad for row in rows])
        return cls(
            arms=names,
            unit=unit,
            arm=np.array([names.index(row.arm) for row in rows], dtype=np.int64),
            group=np.array(group, dtype=np.int64),
            shares=floats([shares for _, shares in groups.found]).reshape(-1, len(names)),
            group_decides=np.array([decides for decides, _ in groups.found], dtype=np.bool_),
            requests=floats([row.requests for row in rows]),
            ups=floats([row.ups for row in rows]),
            downs=floats([row.downs for row in rows]),
            errors=errors,
            exposed=exposed,
            bad=np.minimum(bad, exposed),
            met=_earliest(unit, [row.met_at for row in rows], exposed > 0),
            first_bad=_earliest(unit, [row.bad_at or row.met_at for row in rows], bad > 0),
            first_error=_earliest(unit, [row.error_at or row.met_at for row in rows], errors > 0),
            decides=np.array([row.decides for row in rows], dtype=np.bool_),
            measures={name: floats([getattr(row, name) for row in rows]) for name in MEASURES},
        )

    def only(self, keep: NDArray[np.bool_]) -> Self:
        """The rows marked in `keep` (rows,); groups and units keep their numbers."""
        per_row = (
            "unit", "arm", "group", "requests", "ups", "downs", "errors", "exposed", "bad", "met", "first_bad",
            "first_error", "decides",
        )  # fmt: skip
        kept = {name: getattr(self, name)[keep] for name in per_row}
        return replace(self, **kept, measures={name: column[keep] for name, column in self.measures.items()})

    def per_unit(self, values: Floats) -> Floats:
        """Sum a column (rows,) over the rows of each unit: (units,)."""
        return floats(np.bincount(self.unit, weights=values, minlength=1))

    def per_group(self, values: Floats) -> Floats:
        """Sum a column (rows,) over the rows of each group: (groups,)."""
        return floats(np.bincount(self.group, weights=values, minlength=len(self.shares)))


Column: TypeAlias = Callable[[Outcomes], Floats]
"""A number of each row, (rows,)."""


class _Numbers(Generic[Key]):
    """Numbers distinct keys in the order they come."""

    def __init__(self) -> None:
        self.found: dict[Key, int] = {}

    def __getitem__(self, key: Key) -> int:
        return self.found.setdefault(key, len(self.found))


def _rounded(shares: tuple[float, ...]) -> tuple[float, ...]:
    """Shares equal to nine digits are one group."""
    return tuple(round(share, 9) for share in shares)


def _earliest(
    unit: NDArray[np.int64], moments: Sequence[datetime | None], happened: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Mark, for every unit to which it happened, the row with the earliest moment; ties go to the first row."""
    seconds = floats([moment.timestamp() if moment else 0.0 for moment in moments])
    order = np.argsort(seconds, kind="stable")
    order = order[happened[order]]
    _, firsts = np.unique(unit[order], return_index=True)
    marked = np.zeros(len(unit), dtype=np.bool_)
    marked[order[firsts]] = True
    return marked


def _check(row: UnitOutcome, weights: Mapping[str, float]) -> None:
    if row.arm not in weights:
        raise ValueError(
            f"Unit '{row.unit}' is in arm '{row.arm}', but the experiment has {sorted(weights)}. "
            "Leave out rows of other experiments."
        )
    if min(row.requests, row.ups, row.downs, row.errors) < 0:
        raise ValueError(
            f"Unit '{row.unit}' has {row.requests} requests, {row.ups} ups, {row.downs} downs and {row.errors} errors. "
            "Counts cannot be negative."
        )
    if row.propensity is not None and not 0.0 < row.propensity <= 1.0:
        raise ValueError(
            f"Unit '{row.unit}' has propensity {row.propensity} of arm '{row.arm}', expected above 0 and at most 1. "
            "Leave out requests that were pinned to a version."
        )
