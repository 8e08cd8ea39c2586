"""What the shadow shows: a version without traffic beside the service, on the same questions. Pure.

Both answered every question, so each question is its own control and few are enough; raters are clusters all the same.
It says nothing of what people would think: nobody saw these answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from feedback.shadow_answers import Pair
from monitoring.sequential import RatioSums, mixture_margin, mixture_rho_squared

ALPHA = 0.05
TIGHTEST_AT_UNITS = 200.0
UNITS_MIN = 20
NOT_ITS_OWN = ("caller", "infrastructure")
"""Failures that say nothing of the version."""


@dataclass(frozen=True, slots=True)
class Shadowed:
    """Counts, and typical length and duration as multiples of the service's: (low, middle, high), always valid.

    `failed` is what the version is to be blamed for. `not_told` failed as the caller's or the infrastructure's, and is
    not among `questions`.
    """

    questions: int
    failed: int
    not_told: int
    same_text: int
    refused: tuple[int, int]
    length_ratio: tuple[float, float, float] | None
    duration_ratio: tuple[float, float, float] | None
    sentence: str


def summarise(pairs: Sequence[Pair], *, name: str) -> Shadowed:
    """Sum up what the version called `name` did in the shadow."""
    every, pairs = pairs, [pair for pair in pairs if pair.error_class not in NOT_ITS_OWN]
    not_told = len(every) - len(pairs)
    failed = sum(pair.error_class is not None for pair in pairs)
    same = sum(pair.same_text for pair in pairs)
    refused = sum(pair.refused[0] for pair in pairs), sum(pair.refused[1] for pair in pairs)
    length = _ratio(pairs, [pair.output_tokens for pair in pairs])
    duration = _ratio(pairs, [pair.duration_seconds for pair in pairs])
    more = f" {not_told} more failed without saying anything of it." if not_told else ""
    sentence = (
        f"{name} answered {len(pairs)} questions in the shadow: {failed} failed, {same} came out word for word the "
        f"same, {refused[1]} were refused where the service refused {refused[0]}{_in_words('length', length)}.{more}"
        if every
        else f"{name} was asked nothing in the shadow yet."
    )
    return Shadowed(len(pairs), failed, not_told, same, refused, length, duration, sentence)


def _ratio(
    pairs: Sequence[Pair], values: Sequence[tuple[float | None, float | None]]
) -> tuple[float, float, float] | None:
    logs: dict[str, list[float]] = {}
    for pair, (service, shadow) in zip(pairs, values, strict=True):
        if service and shadow and pair.error_class is None:
            logs.setdefault(pair.unit, []).append(float(np.log(shadow / service)))
    if len(logs) < UNITS_MIN:
        return None
    sums = RatioSums.of([sum(one) for one in logs.values()], [len(one) for one in logs.values()])
    variance = float(sums.units * sums.cautious_variance)
    rho_squared = mixture_rho_squared(TIGHTEST_AT_UNITS, variance, alpha=ALPHA)
    margin = float(mixture_margin(sums.units, variance, rho_squared, alpha=ALPHA))
    middle = float(sums.ratio)
    low, high = np.exp(middle - margin), np.exp(middle + margin)
    return float(low), float(np.exp(middle)), float(high)


def _in_words(what: str, ratio: tuple[float, float, float] | None) -> str:
    return (
        ""
        if ratio is None
        else f"; {what} {ratio[1]:.2f} times the service's ({ratio[0]:.2f} to {ratio[2]:.2f})"
    )
