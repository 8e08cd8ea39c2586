"""Say whether a champion does worse than the one before it did: the guardrails, after a promotion.

Nobody is assigned at random any more, so the new champion is compared with a fixed stretch of time before its
promotion, at a tolerance: nights, Sundays and a change of who asks are in the difference too. The reference is one look
and gets an ordinary bound; the champion is looked at for ever and gets a confidence sequence; the two add up, so an
unchanged champion is called worse at most `alpha` of the time over all looks and all tests.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.stats import norm

from monitoring.guardrails import COUNTED, MEASURED, Measured
from monitoring.outcomes import Column, Outcomes, UnitOutcome
from monitoring.sequential import RatioSums, mixture_margin, mixture_rho_squared
from monitoring.totals import EVENTS, RATIOS

NOW, BEFORE = "candidate", "champion"
State = Literal["insufficient_data", "well", "worse"]

RATES: tuple[tuple[str, Column, str], ...] = (
    ("bad_answers", lambda arm: arm.bad, "failed or were voted down"),
    ("errors", lambda arm: arm.errors, "failed"),
    *((one.name, EVENTS[one.name], one.says) for one in COUNTED),
)
BUDGET = {"bad_answers": 0.4, "errors": 0.2}
"""How `alpha` is divided; the other tests share the rest evenly."""


@dataclass(frozen=True, slots=True)
class WatchRules:
    """What is tolerated: `ratio_max` times the rates, times and lengths of before."""

    alpha: float = 0.01
    units_min: int = 50
    ratio_max: float = 1.5
    tightest_at_units: float = 1000.0

    def alpha_of(self, test: str) -> float:
        """The part of `alpha` that one test may spend."""
        others = len(RATES) + len(MEASURED) - len(BUDGET)
        return self.alpha * BUDGET.get(test, (1.0 - sum(BUDGET.values())) / others)


@dataclass(frozen=True, slots=True)
class Finding:
    """One test: `now` and `before` are rates, or typical values."""

    name: str
    worse: bool
    now: float | None
    before: float | None
    sentence: str


@dataclass(frozen=True, slots=True)
class Watched:
    """What may be said of the champion now; `units` are those of now and of before."""

    state: State
    sentence: str
    units: tuple[int, int]
    findings: tuple[Finding, ...]


def watch_champion(rows: Sequence[UnitOutcome], rules: WatchRules, *, name: str) -> Watched:
    """Compare rows of the champion called `name` (arm `candidate`) with rows of before (arm `champion`)."""
    seen = Outcomes.of(rows, {BEFORE: 0.5, NOW: 0.5})
    now, before = (seen.only(seen.arm == seen.arms.index(arm)) for arm in (NOW, BEFORE))
    units = len(set(now.unit)), len(set(before.unit))
    if min(units) < rules.units_min:
        return Watched(
            "insufficient_data",
            f"Too early to compare {name} with the champion before it: {units[0]} raters now, {units[1]} before; "
            f"each needs {rules.units_min}.",
            units,
            (),
        )
    findings = (
        *(_rate(now, before, rules, test, column, says) for test, column, says in RATES),
        *(_typical(now, before, rules, one) for one in MEASURED),
    )
    if worse := [one for one in findings if one.worse]:
        return Watched("worse", f"{name} does worse than before: {worse[0].sentence}", units, findings)
    sentence = f"{name} does as well as the champion before it, as far as {units[0]} raters tell."
    return Watched("well", sentence, units, findings)


def _rate(
    now: Outcomes, before: Outcomes, rules: WatchRules, test: str, happened: Column, says: str
) -> Finding:
    sums = [RatioSums.of(arm.per_unit(happened(arm)), arm.per_unit(arm.exposed)) for arm in (now, before)]
    new, old = (float(one.ratio) for one in sums)
    worse = new - rules.ratio_max * old > _margin(sums[0], sums[1], rules, test, scale=rules.ratio_max)
    return Finding(test, worse, new, old, f"{new:.1%} of requests {says}, {old:.1%} before.")


def _typical(now: Outcomes, before: Outcomes, rules: WatchRules, what: Measured) -> Finding:
    logs, count = RATIOS[what.name]
    sums = [RatioSums.of(arm.per_unit(logs(arm)), arm.per_unit(count(arm))) for arm in (now, before)]
    if min(float(one.units) for one in sums) < rules.units_min:
        said = f"Not measured often enough to tell: {what.name.replace('_', ' ')}."
        return Finding(what.name, False, None, None, said)
    distance = float(sums[0].ratio - sums[1].ratio)
    # A length may shrink too far as well; a time that shrinks is no harm.
    distance = abs(distance) if what.name == "output_tokens" else distance
    worse = distance - np.log(rules.ratio_max) > _margin(sums[0], sums[1], rules, what.name, scale=1.0)
    new, old = (float(np.exp(one.ratio)) for one in sums)
    sentence = f"{what.says} {new:.3g}{what.unit}, {old:.3g}{what.unit} before."
    return Finding(what.name, bool(worse), new, old, sentence)


def _margin(now: RatioSums, before: RatioSums, rules: WatchRules, test: str, *, scale: float) -> float:
    """Half of the test's error rate for each side; twice that, as both bounds are one-sided (or cover both sides)."""
    alpha = rules.alpha_of(test)
    variance = float(now.units * now.cautious_variance)
    rho_squared = mixture_rho_squared(rules.tightest_at_units, variance, alpha=alpha)
    ahead = mixture_margin(now.units, variance, rho_squared, alpha=alpha)
    behind = norm.ppf(1.0 - alpha / 4.0) * scale * np.sqrt(before.cautious_variance)
    return float(ahead + behind)
