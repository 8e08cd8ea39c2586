"""The gate's evidence to look at: each check's estimate and bound against its limit, and what the data is made of.

It reads the report that is stored with the version, whatever age it has: what a report does not hold is not drawn.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from monitoring.console import charts
from monitoring.console.view import number, words

AT_LEAST = ("held_out_rows", "win_rate", "length_ratio_min", "judge_win_rate")
"""Checks whose value must not be below its limit; all others must not be above it."""
SHARES_SHOWN = 10


@dataclass(frozen=True, slots=True)
class Plot:
    """One check. `drawn` is None where it measured nothing."""

    name: str
    passed: bool
    sentence: str
    drawn: charts.Bound | None
    found: str
    needed: str


@dataclass(frozen=True, slots=True)
class Share:
    """One part of a whole: a length out of `charts.WIDTH` beside its number."""

    name: str
    count: int
    length: float


def plots(gate: Mapping[str, Any]) -> list[Plot]:
    """Every check of a report, those that failed first."""
    return sorted((_plot(check) for check in gate.get("checks") or []), key=lambda one: one.passed)


def _plot(check: Mapping[str, Any]) -> Plot:
    name, value, limit = str(check.get("name", "")), check.get("value"), check.get("limit")
    estimate = check.get("estimate")
    at_least = name in AT_LEAST
    drawn, found, needed = None, "", ""
    if isinstance(value, int | float) and isinstance(limit, int | float):
        middle = value if estimate is None else estimate
        drawn = charts.bound(middle, value, limit, at_least=at_least)
        found = number(middle) if estimate is None else f"{number(middle)}, bound {number(value)}"
        needed = f"{'at least' if at_least else 'at most'} {number(limit)}"
    title = words(name.removeprefix("suite_")) if name.startswith("suite_") else words(name)
    return Plot(title, bool(check.get("passed")), str(check.get("sentence", "")), drawn, found, needed)


def shares(counts: Any) -> list[Share]:
    """The largest of some counts by name, drawn on one scale; what is no count is left out."""
    known = (
        {str(name): one for name, one in counts.items() if _is_count(one)} if isinstance(counts, dict) else {}
    )
    most = max(known.values(), default=1) or 1
    largest = sorted(known.items(), key=lambda item: (-item[1], item[0]))[:SHARES_SHOWN]
    return [Share(words(name), count, round(charts.WIDTH * count / most, 1)) for name, count in largest]


def votes(balance: Any, part: str) -> dict[str, int]:
    """Statements by topic, language or version: ups and downs of a dataset's balance together."""
    found = balance.get(part) if isinstance(balance, dict) else None
    if not isinstance(found, dict):
        return {}
    return {
        str(name): int(one.get("up") or 0) + int(one.get("down") or 0)
        for name, one in found.items()
        if isinstance(one, dict)
    }


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
