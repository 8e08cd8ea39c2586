"""The tests behind a verdict, as numbers: candidate against control, guardrails, sample ratio.

Every function takes sums over units and gives evidence; which evidence suffices, and the sentence about it, is
`monitoring.verdict`'s to say. Rows that were collected under different splits of the traffic are never pooled as if
the split had been one: ratings are overlap-weighted, counted events are compared within each split.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy.special import logsumexp

from monitoring.sequential import (
    Floats,
    OddsPrior,
    RatioSums,
    beta_prior,
    design_effect,
    difference_log_evidence,
    difference_margin,
    floats,
    harm_prior,
    share_log_bayes_factor,
)
from monitoring.totals import PairSums, Totals

BAD_ANSWERS_PRIOR = harm_prior(ratio=2.0, spread=0.25)
"""A worse candidate typically doubles bad answers."""
ERRORS_PRIOR = harm_prior(ratio=5.0, spread=1.0)
"""A broken candidate multiplies errors."""
SAMPLE_RATIO_PRIOR = beta_prior(0.5, 100.0, one_sided=False)
"""A broken split is off by tens of per cent."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Net approval per request, candidate less control; pairs are (candidate, control).

    `margin` and `harm_margin` are half-widths of confidence sequences. The `rated_` three are the same per vote instead
    of per request, so that a change in who votes cannot pass for a change in what they think.
    """

    units: tuple[int, int]
    rated_units: tuple[int, int]
    net_approval: tuple[float, float]
    difference: float
    margin: float
    harm_margin: float
    rated_difference: float
    rated_margin: float
    rated_harm_margin: float
    coverage: tuple[float, float]
    coverage_differs: bool

    @classmethod
    def of(cls, pair: PairSums, *, alpha: float, harm_alpha: float, tightest_at: float) -> Self:
        """`alpha` is two-sided; `harm_alpha` one-sided, for the candidate being worse."""

        def margin(arms: tuple[RatioSums, RatioSums], level: float) -> float:
            units, variances = (
                (arms[0].units, arms[1].units),
                (arms[0].cautious_variance, arms[1].cautious_variance),
            )
            return float(difference_margin(units, variances, alpha=level, tightest_at=tightest_at))

        net, rated, votes = pair.ratios["net"], pair.ratios["rated"], pair.ratios["votes"]
        return cls(
            units=(int(net[0].units), int(net[1].units)),
            rated_units=(int(rated[0].units), int(rated[1].units)),
            net_approval=(float(net[0].ratio), float(net[1].ratio)),
            difference=_difference(net),
            margin=margin(net, alpha),
            harm_margin=margin(net, 2.0 * harm_alpha),
            rated_difference=_difference(rated),
            rated_margin=margin(rated, alpha),
            rated_harm_margin=margin(rated, 2.0 * harm_alpha),
            coverage=(float(votes[0].ratio), float(votes[1].ratio)),
            coverage_differs=abs(_difference(votes)) > margin(votes, alpha),
        )


def _difference(arms: tuple[RatioSums, RatioSums]) -> float:
    return float(arms[0].ratio - arms[1].ratio)


@dataclass(frozen=True, slots=True)
class Events:
    """How often something bad happened in either arm, and the log evidence that the candidate is to blame."""

    candidate: int
    control: int
    log_evidence: float


def first_events(pair: PairSums, mark: str, prior: OddsPrior, *, odds_limit: float = 1.0) -> Events:
    """Exact test on units to which something happened, each counted once, where it happened first.

    A unit draws its arm by its hash whatever will happen to it, so the arm of its first event is a coin with the logged
    propensity: no sample size, independence of requests, or traffic curve is assumed, and no reason why the share is
    what it is. `mark` is one of `monitoring.totals.MARKS`.
    """
    inside, outside = pair.candidate.groups[mark], pair.control.groups[mark]
    evidence = _log_evidence(inside, outside, _tilted(pair.share, odds_limit), prior)
    return Events(int(inside.sum()), int(outside.sum()), evidence)


def counted_events(
    pair: PairSums, name: str, prior: OddsPrior, *, units_min: int, odds_limit: float = 1.0
) -> Events:
    """Test on every event, against the traffic that the arms really had; a lost row cannot raise it.

    Answers to one unit resemble each other, so the counts are divided by their design effect, which takes `units_min`
    units per arm to estimate: before that there is no evidence. It uses all requests of a unit, which finds a doubling
    of independent events in about half the traffic that `first_events` needs. `name` is one of
    `monitoring.totals.EVENTS`.
    """
    arms = pair.candidate.events[name], pair.control.events[name]
    totals = round(float(arms[0].y)), round(float(arms[1].y))
    if min(arms[0].units, arms[1].units) < units_min:
        return Events(*totals, log_evidence=0.0)
    effect = design_effect(arms)
    sides = pair.candidate.groups, pair.control.groups
    requests = [groups["exposed"] for groups in sides]
    comparable = (requests[0] > 0) & (requests[1] > 0) & pair.deciding
    inside, outside = (groups[name][comparable] / effect for groups in sides)
    share = requests[0][comparable] / (requests[0] + requests[1])[comparable]
    return Events(*totals, _log_evidence(inside, outside, _tilted(share, odds_limit), prior))


@dataclass(frozen=True, slots=True)
class Typical:
    """Typical (geometric mean) values of candidate and control, None before there is one, and the log evidence.

    `low` is evidence that the candidate's is too small, `high` that it is too large.
    """

    candidate: float | None
    control: float | None
    low: float
    high: float


def typical_values(
    pair: PairSums, name: str, *, units_min: int, ratio: tuple[float, float], alpha: float, tightest_at: float
) -> Typical:
    """Test whether the candidate's typical value lies outside `ratio` (low, high) times the control's.

    The mean logarithm is compared, so one answer that took a minute does not hide a thousand. Units are clusters, as in
    `Comparison`; `alpha` is one-sided, for either side. `name` is one of `monitoring.totals.RATIOS`.
    """
    arms = pair.ratios[name]
    units, variances = (
        (arms[0].units, arms[1].units),
        (arms[0].cautious_variance, arms[1].cautious_variance),
    )
    seen = [float(np.exp(arm.ratio)) if float(arm.units) else None for arm in arms]
    if min(float(arms[0].units), float(arms[1].units)) < units_min:
        return Typical(seen[0], seen[1], low=0.0, high=0.0)

    def evidence(distance: float) -> float:
        return float(
            difference_log_evidence(distance, units, variances, alpha=2.0 * alpha, tightest_at=tightest_at)
        )

    difference = _difference(arms)
    low, high = evidence(np.log(ratio[0]) - difference), evidence(difference - np.log(ratio[1]))
    return Typical(seen[0], seen[1], low=low, high=high)


def _tilted(share: Floats, odds: float) -> Floats:
    """The share of events that an arm may have when `odds` times as many are allowed there."""
    return floats(odds * share / (1.0 - share + odds * share))


def _log_evidence(inside: Floats, outside: Floats, share: Floats, prior: OddsPrior) -> float:
    # A split that gave an arm nothing, or everything, says nothing about it.
    telling = (share > 0.0) & (share < 1.0)
    return float(share_log_bayes_factor(inside[telling], outside[telling], share[telling], prior))


@dataclass(frozen=True, slots=True)
class Split:
    """Units that entered each arm, what the logged propensities sum to, and the log evidence that they disagree."""

    units: dict[str, int]
    expected: dict[str, float]
    log_evidence: float


def sample_ratio(totals: Totals) -> Split:
    """Sequential sample-ratio test: did units enter the arms as their propensities say?

    Each arm is tested against all others, two-sided, and the evidences are averaged, which keeps a martingale one. With
    two arms and one split of 50/50 it is the Dirichlet-multinomial test of Lindon & Malek 2022, concentration 100.
    """
    shares = totals.groups().shares(len(totals.arms))
    inside = np.stack([totals.arm(arm).groups["met"] for arm in totals.arms])
    per_group = inside.sum(axis=0)
    share = np.clip(shares.T, 1e-9, 1.0 - 1e-9)
    evidence = share_log_bayes_factor(inside, per_group - inside, share, SAMPLE_RATIO_PRIOR)
    return Split(
        units={arm: round(float(inside[index].sum())) for index, arm in enumerate(totals.arms)},
        expected={arm: float(per_group @ shares[:, index]) for index, arm in enumerate(totals.arms)},
        log_evidence=float(logsumexp(evidence) - np.log(len(totals.arms))),
    )
