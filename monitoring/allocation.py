"""Share out people over the arms of a split that has several, so that nobody who met a candidate is ever moved.

People lie on a line from 0 to 1, by a hash. A slice of them, drawn by another hash, is shared out evenly whatever is
seen: it alone decides verdicts. In the rest, the adaptive slice, each piece of the line that a rollout opens goes to
the arms by how likely each is to be the best: `thompson` by that probability (Thompson 1933), `top-two` also to the
runner-up, which tells winners apart sooner (Russo, "Simple Bayesian algorithms for best arm identification", 2020).
Every arm gets at least `FLOOR` of each piece. A piece keeps its arm for good, or goes to the champion when its arm is
taken back; what is not opened yet is the champion's.

Pure: sums and pieces come in, pieces come out. The same sums give the same pieces.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from feedback.allocations import Pieces
from monitoring.sequential import Floats, RatioSums

FLOOR = 0.05
DRAWS = 4_000
PRIOR_VARIANCE = 1.0
"""Net approval per request lies between -1 and 1; before anything is known it may be anywhere."""


def open_by_merit(
    pieces: Pieces, sums: Mapping[str, RatioSums], rule: str, width: float, *, seed: int
) -> list[tuple[str, float]]:
    """Open `width` more of the line for the arms of `sums`, champion included, as `rule` says."""
    parts = probabilities(sums, rule, seed=seed)
    return [*pieces, *((arm, width * part) for arm, part in parts.items())] if width > 0 else list(pieces)


def probabilities(sums: Mapping[str, RatioSums], rule: str, *, seed: int) -> dict[str, float]:
    """What part of a piece each arm gets; they sum to 1, and none is below `FLOOR`."""
    best = _probability_of_best(list(sums.values()), seed)
    if rule == "equal":
        merit = np.full(len(sums), 1.0 / len(sums))
    elif rule == "thompson":
        merit = best
    else:
        merit = _top_two(best)
    floored = FLOOR + (1.0 - FLOOR * len(sums)) * merit
    return {arm: float(part) for arm, part in zip(sums, floored, strict=True)}


def _probability_of_best(arms: Sequence[RatioSums], seed: int) -> Floats:
    """By draws from a normal posterior of each arm's ratio, with people as clusters."""
    variances = [float(1.0 / (1.0 / PRIOR_VARIANCE + 1.0 / float(arm.cautious_variance))) for arm in arms]
    means = [
        float(arm.ratio) * variance / float(arm.cautious_variance) if np.isfinite(arm.variance) else 0.0
        for arm, variance in zip(arms, variances, strict=True)
    ]
    draws = np.random.default_rng(seed).normal(means, np.sqrt(variances), (DRAWS, len(arms)))
    return np.bincount(draws.argmax(axis=1), minlength=len(arms)) / DRAWS


def _top_two(best: Floats) -> Floats:
    """Half by the probability of being best, half by that of being best among the others."""
    # A certain winner leaves the others' order to the last draws: add one to each, as if drawn once more.
    best = (best * DRAWS + 1.0) / (DRAWS + len(best))
    odds = best / (1.0 - best)
    return np.asarray(0.5 * best * (1.0 + odds.sum() - odds))
