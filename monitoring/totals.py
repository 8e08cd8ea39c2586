"""Everything a verdict needs of an experiment, as sums over its units that can be added to and taken from.

`Totals` of all units at once equal those that were put together unit by unit, in any order, with units taken out and
put back changed: to the last digit, since what each unit adds is rounded once, to a whole number of 2^-24, and whole
numbers do not drift. So a look costs what changed since the last one; `monitoring.verdict` judges the sums.

A unit adds all its rows at once: whoever changes one row takes the whole unit out and puts it back.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from monitoring.outcomes import Column, Outcomes, UnitOutcome
from monitoring.sequential import Floats, RatioSums, floats

SCALE = 2.0**24
EXACT_BELOW = 2.0**61
"""Numbers beyond this, scaled, are summed one by one: they leave 64 bits."""


def _measure(name: str) -> Column:
    def column(rows: Outcomes) -> Floats:
        return rows.measures[name]

    return column


def _net(rows: Outcomes) -> Floats:
    return rows.ups - rows.downs


def _votes(rows: Outcomes) -> Floats:
    return rows.ups + rows.downs


def _requests(rows: Outcomes) -> Floats:
    return rows.requests


def _ones(rows: Outcomes) -> Floats:
    return np.ones(len(rows.unit))


RATIOS: Mapping[str, tuple[Column, Column]] = {
    "net": (_net, _requests),
    "rated": (_net, _votes),
    "votes": (_votes, _requests),
    "time_to_first_token": (_measure("log_first_token_seconds"), _measure("first_tokens")),
    "time_per_output_token": (_measure("log_later_token_seconds"), _measure("later_tokens")),
    "output_tokens": (_measure("log_answer_tokens"), _measure("answers")),
}
"""What is compared between the arms within every split of the traffic: numerator and denominator of a unit's rows."""
EVENTS: Mapping[str, Column] = {
    "bad_answers": lambda rows: rows.bad,
    "refusals": _measure("refused"),
    "client_aborts": _measure("aborted"),
    "regenerations": _measure("regenerated"),
}
"""What is counted among all requests."""
MARKS: Mapping[str, Column] = {
    "exposed": lambda rows: rows.exposed,
    "met": lambda rows: floats(rows.met),
    "first_bad": lambda rows: floats(rows.first_bad),
    "first_error": lambda rows: floats(rows.first_error),
}
"""What is counted, beside the events, in every split of the traffic."""
COUNTS: Mapping[str, Column] = {
    "requests": _requests,
    "ups": lambda rows: rows.ups,
    "downs": lambda rows: rows.downs,
    "exposed": lambda rows: rows.exposed,
    "bad": lambda rows: rows.bad,
    "errors": lambda rows: rows.errors,
}
UNITS: Mapping[str, Column] = {
    "units": _requests,
    "rated_units": _votes,
}
"""Units with any of it."""
EVERYBODY: Mapping[str, Column] = {"met_units": _ones, "bad_units": lambda rows: rows.bad}
"""The same, of those too whose arm was not drawn by chance alone."""
MOMENTS = 6


@dataclass(frozen=True, slots=True)
class ArmSums:
    """One arm: counts by name, ratios of events to requests, and what happened in each split (groups,) by name."""

    counts: Mapping[str, int]
    events: Mapping[str, RatioSums]
    groups: Mapping[str, Floats]


@dataclass(frozen=True, slots=True)
class PairSums:
    """Candidate and control side by side; `share` (groups,) is the candidate's part of the two arms' traffic.

    `ratios` are (candidate, control) by name, clustered by unit, rows weighted by the *other* arm's share. These
    overlap weights (Li, Morgan, Zaslavsky, "Balancing covariates via propensity score weighting", 2018) compare the
    arms within every split of the traffic and average the splits by how much each can tell. With one split they cancel.
    `deciding` (groups,) marks the splits that were drawn by chance alone.
    """

    candidate: ArmSums
    control: ArmSums
    ratios: Mapping[str, tuple[RatioSums, RatioSums]]
    share: Floats
    deciding: NDArray[np.bool_]


@dataclass(slots=True)
class Totals:
    """Sums over units; `control` is compared with every other of `arms`. `sums` are scaled whole numbers by name."""

    arms: tuple[str, ...]
    control: str
    sums: dict[str, list[int]] = field(default_factory=dict)

    @classmethod
    def of(cls, rows: Sequence[UnitOutcome], weights: Mapping[str, float], *, control: str) -> Self:
        """Sum up units.

        Raises:
            ValueError: an outcome that cannot belong to this experiment.
        """
        totals = cls(tuple(weights), control)
        totals.add(rows, weights)
        return totals

    def add(self, rows: Sequence[UnitOutcome], weights: Mapping[str, float]) -> None:
        """Put units in, each with all its rows."""
        self._change(rows, weights, 1)

    def take_out(self, rows: Sequence[UnitOutcome], weights: Mapping[str, float]) -> None:
        """Take units out that were put in with the same rows."""
        self._change(rows, weights, -1)

    def _change(self, rows: Sequence[UnitOutcome], weights: Mapping[str, float], sign: int) -> None:
        if not rows:
            return
        for name, numbers in _sums(Outcomes.of(_ordered(rows), weights), self.control):
            old = self.sums.get(name) or [0] * len(numbers)
            new = [before + sign * number for before, number in zip(old, numbers, strict=True)]
            self.sums[name] = new
            if not any(new):
                del self.sums[name]

    def stored(self) -> dict[str, Any]:
        """As JSON; whole numbers of any length, in words that hold them."""
        return {name: " ".join(map(str, numbers)) for name, numbers in sorted(self.sums.items())}

    @classmethod
    def restored(cls, stored: Mapping[str, str], arms: Iterable[str], *, control: str) -> Self:
        """What `stored` gave."""
        sums = {name: [int(number) for number in numbers.split()] for name, numbers in stored.items()}
        return cls(tuple(arms), control, sums)

    def groups(self) -> "Groups":
        """The splits of the traffic that anything was seen in."""
        return Groups.named(sorted({name.split("|")[1] for name in self.sums if name.startswith("group|")}))

    def arm(self, name: str) -> ArmSums:
        """What one arm did."""
        names = (*COUNTS, *UNITS, *EVERYBODY)
        found = self._numbers(f"arm|{name}", len(names) + MOMENTS * len(EVENTS))
        counts = {key: round(value) for key, value in zip(names, found, strict=False)}
        events = _ratios(found[len(names) :], EVENTS)
        width = len(MARKS) + len(EVENTS)
        per_group = [self._numbers(f"group|{key}|{name}", width) for key in self.groups().keys]
        columns = floats(per_group).reshape(-1, width).T
        return ArmSums(counts, events, dict(zip((*MARKS, *EVENTS), columns, strict=True)))

    def pair(self, candidate: str) -> PairSums:
        """One arm beside the control."""
        groups = self.groups()
        shares = groups.shares(len(self.arms))
        one, other = shares[:, self.arms.index(candidate)], shares[:, self.arms.index(self.control)]
        sides = [
            _ratios(self._numbers(f"pair|{candidate}|{side}", MOMENTS * len(RATIOS)), RATIOS) for side in "10"
        ]
        both = one + other
        return PairSums(
            candidate=self.arm(candidate),
            control=self.arm(self.control),
            ratios={name: (sides[0][name], sides[1][name]) for name in RATIOS},
            share=np.divide(one, both, out=np.zeros_like(both), where=both > 0),
            deciding=groups.deciding,
        )

    def everybody(self, arm: str) -> RatioSums:
        """Net approval per request of an arm, of those too whose arm was not drawn by chance alone."""
        return _ratios(self._numbers(f"all|{arm}", MOMENTS), ("net",))["net"]

    def _numbers(self, name: str, count: int) -> Floats:
        return floats([number / SCALE for number in self.sums.get(name) or [0] * count])


@dataclass(frozen=True, slots=True)
class Groups:
    """Distinct splits of the traffic, by the names under which their sums are kept."""

    keys: tuple[str, ...]
    deciding: NDArray[np.bool_]

    @classmethod
    def named(cls, keys: Sequence[str]) -> Self:
        """Groups by name."""
        return cls(tuple(keys), np.array([key[0] == "=" for key in keys], dtype=np.bool_))

    def shares(self, arms: int) -> Floats:
        """Of every arm, (groups, arms)."""
        return floats([[float(share) for share in key[1:].split(",")] for key in self.keys]).reshape(-1, arms)


def _group_name(shares: Floats, decides: bool) -> str:
    return ("=" if decides else "~") + ",".join(f"{share:.9f}" for share in shares)


def _ordered(rows: Sequence[UnitOutcome]) -> list[UnitOutcome]:
    # A sum of fractions depends on its order in the last digit; a unit must always add the same.
    return sorted(rows, key=lambda row: (row.unit, row.arm, row.propensity or 0.0, row.shares or ()))


def _sums(seen: Outcomes, control: str) -> Iterator[tuple[str, list[int]]]:
    for index, name in enumerate(seen.arms):
        every = seen.only(seen.arm == index)
        yield from _of_groups(seen, every, name)
        yield f"arm|{name}", _of_arm(every)
        yield f"all|{name}", _exact(_moments(every.per_unit(_net(every)), every.per_unit(every.requests)))
    deciding = seen.only(seen.decides)
    inside = seen.arms.index(control)
    for index, name in enumerate(seen.arms):
        if index == inside:
            continue
        both = seen.shares[:, index] + seen.shares[:, inside]
        share = np.divide(seen.shares[:, index], both, out=np.zeros_like(both), where=both > 0)
        for side, arm, weights in (("1", index, 1.0 - share), ("0", inside, share)):
            rows = deciding.only(deciding.arm == arm)
            yield f"pair|{name}|{side}", _of_pair(rows, weights[rows.group])


def _of_groups(seen: Outcomes, arm: Outcomes, name: str) -> Iterator[tuple[str, list[int]]]:
    found = np.stack([arm.per_group(column(arm)) for column in (*MARKS.values(), *EVENTS.values())])
    sums: dict[str, list[int]] = defaultdict(lambda: [0] * len(found))
    for group, (shares, decides) in enumerate(zip(seen.shares, seen.group_decides, strict=True)):
        key = f"group|{_group_name(shares, bool(decides))}|{name}"
        sums[key] = [
            old + round(number * SCALE) for old, number in zip(sums[key], found[:, group], strict=True)
        ]
    yield from sums.items()


def _of_arm(every: Outcomes) -> list[int]:
    arm = every.only(every.decides)
    counts = [arm.per_unit(column(arm)) for column in COUNTS.values()]
    some = [floats(arm.per_unit(column(arm)) > 0) for column in UNITS.values()]
    everybody = [floats(every.per_unit(column(every)) > 0) for column in EVERYBODY.values()]
    exposed = arm.per_unit(arm.exposed)
    events = [one for column in EVENTS.values() for one in _moments(arm.per_unit(column(arm)), exposed)]
    return [*_exact([*counts, *some]), *_exact(everybody), *_exact(events)]


def _of_pair(rows: Outcomes, weights: Floats) -> list[int]:
    columns: list[Floats] = []
    for top, below in RATIOS.values():
        columns += _moments(rows.per_unit(weights * top(rows)), rows.per_unit(weights * below(rows)))
    return _exact(columns)


def _moments(y: Floats, n: Floats) -> list[Floats]:
    """What each unit adds to `RatioSums`; a unit with n = 0 does not count."""
    return [floats(n != 0), y, n, y * y, y * n, n * n]


def _exact(columns: Sequence[Floats]) -> list[int]:
    """The sum of each column, each unit's part rounded to a whole number of 1 / SCALE."""
    scaled = np.rint(np.stack(columns) * SCALE)
    if scaled.size and np.abs(scaled).max() >= EXACT_BELOW:
        return [sum(map(int, column)) for column in scaled]
    whole = scaled.astype(np.int64)
    # The high and the low half apart: a million units leave 64 bits together.
    high, low = (whole >> 32).sum(axis=1), (whole & 0xFFFFFFFF).sum(axis=1)
    return [(int(one) << 32) + int(other) for one, other in zip(high, low, strict=True)]


def _ratios(numbers: Floats, names: Iterable[str]) -> dict[str, RatioSums]:
    return {
        name: RatioSums(*(np.asarray(one) for one in numbers[MOMENTS * at : MOMENTS * (at + 1)]))
        for at, name in enumerate(names)
    }
