"""What would have happened under another split: answered from the logged propensities, without asking anybody again.

Every exposure was logged with the probability of its arm, so the answers that a different rule would have given can be
reweighted: inverse propensity scoring (Horvitz and Thompson 1952), its self-normalised form, and the doubly robust
estimator (Dudik, Langford, Li 2011), whose model of the reward is the mean of each arm and segment, fitted on the
other half of the units. Units are clusters; the intervals are 95%, for one look.

Refuses to promise: a rule that asks for an arm where it was never tried has no answer, and one that asks for what was
rarely tried rests on few people, which `effective_units` says. Nothing here decides: verdicts do.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from feedback.errors import HoneError

Rule = Callable[[str | None], Mapping[str, float]]
"""Segment -> the probability of each arm under the rule in question; they sum to 1."""

_CONFIDENCE_Z = 1.959964
WEIGHT_MAX = 50.0
"""Larger weights are cut: one person must not decide. Cutting is counted."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One logged exposure; `reward` is 1 for an answer voted up, -1 for one voted down, 0 for neither."""

    unit: str
    arm: str
    propensity: float
    reward: float
    segment: str | None = None


@dataclass(frozen=True, slots=True)
class Guess:
    """A mean reward per request with a 95% interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Replay:
    """What the rule would have had, by three estimators, beside what was."""

    requests: int
    units: int
    effective_units: float
    """How many equally weighted units would tell as much (Kish 1965)."""
    weights_cut: int
    logged: Guess
    inverse_propensity: Guess
    self_normalised: Guess
    doubly_robust: Guess


def replay(choices: Sequence[Choice], rule: Rule) -> Replay:
    """Estimate the mean reward per request under `rule`.

    Raises:
        HoneError: nothing was logged, a rule's probabilities do not sum to 1, or it asks for an arm that was never
            given in a segment.
    """
    if not choices:
        raise HoneError("Nothing was logged in this experiment yet: there is nothing to replay.")
    _check(choices, rule)
    units, cluster = np.unique([choice.unit for choice in choices], return_inverse=True)
    rewards = np.array([choice.reward for choice in choices])
    asked = np.array([rule(choice.segment).get(choice.arm, 0.0) for choice in choices])
    raw = asked / np.array([choice.propensity for choice in choices])
    weights = np.minimum(raw, WEIGHT_MAX)
    modelled, expected = _model(choices, rule)
    ones = np.ones(len(choices))
    per_unit = np.bincount(cluster, weights)
    return Replay(
        requests=len(choices),
        units=len(units),
        effective_units=float(per_unit.sum() ** 2 / (per_unit**2).sum()) if per_unit.any() else 0.0,
        weights_cut=int((raw > WEIGHT_MAX).sum()),
        logged=_ratio(rewards, ones, cluster),
        inverse_propensity=_ratio(weights * rewards, ones, cluster),
        self_normalised=_ratio(weights * rewards, weights, cluster),
        doubly_robust=_ratio(expected + weights * (rewards - modelled), ones, cluster),
    )


def give(arm: str, *, to: str | None = None, otherwise: str | None = None) -> Rule:
    """The rule that gives `arm` to everybody, or to one segment and another arm to the rest."""

    def rule(segment: str | None) -> dict[str, float]:
        return {arm if otherwise is None or segment == to else otherwise: 1.0}

    return rule


def _check(choices: Iterable[Choice], rule: Rule) -> None:
    tried: dict[str | None, set[str]] = {}
    for choice in choices:
        tried.setdefault(choice.segment, set()).add(choice.arm)
    for segment, arms in tried.items():
        asked = rule(segment)
        if abs(sum(asked.values()) - 1.0) > 1e-9:
            raise HoneError(
                f"The rule's probabilities for segment '{segment}' sum to {sum(asked.values())}, not 1."
            )
        if missing := sorted(arm for arm, share in asked.items() if share > 0 and arm not in arms):
            where = f"in segment '{segment}' " if segment is not None else ""
            raise HoneError(
                f"Arm '{missing[0]}' was never given {where}in this experiment (there: {', '.join(sorted(arms))}): "
                "what it would have done cannot be known from it."
            )


def _model(choices: Sequence[Choice], rule: Rule) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The modelled reward of the logged arm, and of the rule's arms: means over the other half of the units."""
    half = [hashlib.sha256(choice.unit.encode()).digest()[0] & 1 for choice in choices]
    sums: dict[tuple[int, str, str | None], list[float]] = {}
    for side, choice in zip(half, choices, strict=True):
        for segment in {choice.segment, None}:
            total = sums.setdefault((side, choice.arm, segment), [0.0, 0.0])
            total[0] += choice.reward
            total[1] += 1.0

    def mean(side: int, arm: str, segment: str | None) -> float:
        for key in ((1 - side, arm, segment), (1 - side, arm, None)):
            if key in sums:
                return sums[key][0] / sums[key][1]
        return 0.0

    modelled = [mean(side, one.arm, one.segment) for side, one in zip(half, choices, strict=True)]
    expected = [
        sum(share * mean(side, arm, one.segment) for arm, share in rule(one.segment).items())
        for side, one in zip(half, choices, strict=True)
    ]
    return np.array(modelled), np.array(expected)


def _ratio(top: NDArray[np.float64], below: NDArray[np.float64], cluster: NDArray[np.intp]) -> Guess:
    """sum(top) / sum(below) with a cluster-robust interval (Taylor expansion of the ratio, as survey statistics do)."""
    tops, belows = np.bincount(cluster, top), np.bincount(cluster, below)
    if not belows.sum():
        return Guess(float("nan"), float("nan"), float("nan"))
    mean = tops.sum() / belows.sum()
    n = len(tops)
    if n < 2:
        return Guess(float(mean), float("-inf"), float("inf"))
    residuals = tops - mean * belows
    margin = _CONFIDENCE_Z * np.sqrt(n / (n - 1) * (residuals**2).sum()) / belows.sum()
    return Guess(float(mean), float(mean - margin), float(mean + margin))
