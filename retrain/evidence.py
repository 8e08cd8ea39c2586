"""What an evaluation found, as numbers: the input of the gate, and part of its stored report. Pure.

Everything is paired: candidate and champion answered the same prompts. Scores lie in [0, 1], but for the likelihoods
of plain text. No prompt and no answer is in here: the report is kept for as long as the adapter, and a person's words
are not.
"""

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from retrain.labels import Classification

TIE_WIDTH = 0.01
"""Scores closer than this count as equal."""
ICC_MIN = 0.05
"""Correlation within people that is always allowed for: from few people it is often estimated as none."""


@dataclass(frozen=True, slots=True)
class Versions:
    """Names under which the engine serves what is compared."""

    candidate: str
    champion: str
    base: str


@dataclass(frozen=True, slots=True)
class Pair:
    """Both versions' scores on one held-out item."""

    source: str
    rater: str
    champion: float
    candidate: float


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean over `n` items with a one-sided bound on each side; infinite when one item is all there is.

    The bounds are of 95%, but for suites (`suites.LOOKS`).
    """

    n: int
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Agreement:
    """How far answers agree with those known to be right: mean over items, in [0, 1]."""

    exact_match: float
    chrf: float
    token_f1: float
    log_likelihood: float
    """Mean log-probability per token of the right answer, in nats."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Known answers of one topic or one language, or those that state one fact."""

    by: str
    name: str
    n: int
    champion: float
    candidate: float


@dataclass(frozen=True, slots=True)
class AskedAgain:
    """A known fact that the candidate seemed to get wrong, in answers sampled anew."""

    fact: str
    questions: int
    answers: int
    """Of each version."""
    champion: int
    """Answers of the champion that state another number or address in its place."""
    candidate: int

    @property
    def rise(self) -> float:
        """By how much the share of wrong answers rose."""
        return (self.candidate - self.champion) / self.answers

    def rise_low(self, confidence: float) -> float:
        """One-sided lower bound of the rise (Newcombe 1998, method 10)."""
        from monitoring.sequential import wilson_interval

        two_sided = 2 * confidence - 1
        low, _ = wilson_interval(self.candidate, self.answers, confidence=two_sided)
        _, high = wilson_interval(self.champion, self.answers, confidence=two_sided)
        return self.rise - math.hypot(
            self.candidate / self.answers - low, high - self.champion / self.answers
        )


@dataclass(frozen=True, slots=True)
class SuiteResult:
    """One suite's items as both versions answered them."""

    name: str
    content_hash: str
    items: int
    champion: float
    """Mean score."""
    candidate: float
    drop: Estimate
    drop_max: float
    floor: float
    errors: int
    error_examples: tuple[str, ...]
    labels: dict[str, Classification]
    """By version, where the suite's items are labels."""
    answers_per_item: int = 1
    """More than one where one answer to each item left the drop undecided."""


@dataclass(frozen=True, slots=True)
class JudgeResult:
    """What a judging model said of all comparisons."""

    model: str
    wins: int
    losses: int
    ties: int
    errors: int
    win_rate: float | None
    """Ties count one half; None without a comparison."""
    length_controlled_win_rate: float | None
    low: float | None
    """One-sided 95% lower bound of the win rate."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """A candidate beside a champion, as served by one engine."""

    candidate: str
    champion: str
    items: int
    raters: int
    errors: int
    error_examples: tuple[str, ...]
    taught: tuple[Pair, ...]
    """Items on which people asked for a change: demonstrations, preferences, disliked answers."""
    retained: tuple[Pair, ...]
    """Items whose answers people approved."""
    agreement: dict[str, Agreement]
    """By version, over every item with a known right answer."""
    disliked: int
    """Held-out answers that people voted down; the next two count who still gives them."""
    disliked_by_champion: int
    disliked_by_candidate: int
    kl_to_base: Estimate
    """Divergence of the candidate from the base model, in nats per token of its sampled answers."""
    length_ratio: float | None
    """Mean tokens of the candidate's answers over the champion's."""
    repetition_rate: dict[str, float]
    unfinished_rate: dict[str, float]
    refusal_rate: dict[str, float] = field(default_factory=dict)
    golden: tuple[Pair, ...] = ()
    """Questions that an operator keeps."""
    newest: tuple[Pair, ...] = ()
    """Rows of the last days, which no training has seen: reported, not judged."""
    slices: tuple[Slice, ...] = ()
    stated: tuple[Pair, ...] = ()
    """Approved answers that state facts: the share of a version's answers, surest and sampled, that state them all."""
    golden_stated: tuple[Pair, ...] = ()
    """The same for the golden set."""
    known_facts: int = 0
    """Facts that the golden set or enough approved answers state."""
    asked_again: tuple[AskedAgain, ...] = ()
    """Those of them that the candidate seemed to state wrongly more often."""
    repeated: tuple[Pair, ...] = ()
    """Approved and golden answers: the share of a version's answers, surest and sampled, that say things twice."""
    latency_ratio: Estimate | None = None
    """Seconds per answer token, candidate over champion, as a geometric mean over the same prompts."""
    training_loss: float | None = None
    held_out_loss: float | None = None
    suites: tuple[SuiteResult, ...] = ()
    judge: JudgeResult | None = None
    candidates_tried: int = 1
    """Candidates judged on some of the same held-out rows, this one included."""
    seconds: float = 0.0
    """What the evaluation took."""
    training_seconds: float | None = None
    energy_watt_hours: float | None = None
    """Training's, by the power that the settings state; None where they state none."""

    def to_json(self) -> dict[str, Any]:
        """As stored with the gate's report."""
        return asdict(self)


def outcome(pairs: Sequence[Pair]) -> tuple[int, int, int]:
    """Wins, losses and ties of the candidate."""
    differences = [pair.candidate - pair.champion for pair in pairs]
    wins = sum(difference > TIE_WIDTH for difference in differences)
    losses = sum(difference < -TIE_WIDTH for difference in differences)
    return wins, losses, len(pairs) - wins - losses


def estimate(values: Sequence[float], confidence: float = 0.95) -> Estimate:
    """Mean and one-sided bounds by Student's t; without values, nothing is known."""
    n = len(values)
    mean = sum(values) / n if n else math.nan
    if n < 2:
        return Estimate(n, mean, -math.inf, math.inf)
    from scipy.stats import t

    variance = sum((value - mean) ** 2 for value in values) / (n - 1)
    margin = float(t.ppf(confidence, n - 1)) * math.sqrt(variance / n)
    return Estimate(n, mean, mean - margin, mean + margin)


def spent_level(level: float, candidates_tried: int) -> float:
    """What is left of an error level for the k-th candidate on the same rows: level / (k (k + 1)).

    The parts sum to `level` however many candidates follow, so trying until one passes gains nothing. Holm's step-down
    would need all candidates at once, and they come one after the other.
    """
    return level / (candidates_tried * (candidates_tried + 1))


def design_effect(pairs: Sequence[Pair]) -> float:
    """How many decided pairs are worth one independent one, since those of one person resemble each other (Kish 1965).

    The correlation within people is estimated by analysis of variance (Fisher 1925) and at least `ICC_MIN`. Rows
    without a person count by themselves.
    """
    by_person: dict[str, list[bool]] = defaultdict(list)
    for number, pair in enumerate(pairs):
        if abs(pair.candidate - pair.champion) > TIE_WIDTH:
            by_person[pair.rater or f"row {number}"].append(pair.candidate > pair.champion)
    sizes, won = [len(one) for one in by_person.values()], [sum(one) for one in by_person.values()]
    people, n = len(sizes), sum(sizes)
    if not n:
        return 1.0
    weight = sum(size * size for size in sizes) / n
    correlation = 0.0
    if 1 < people < n:
        shares = [one / size for one, size in zip(won, sizes, strict=True)]
        mean = sum(won) / n
        between = sum(size * (share - mean) ** 2 for share, size in zip(shares, sizes, strict=True)) / (
            people - 1
        )
        within = sum(one * (1 - share) for one, share in zip(won, shares, strict=True)) / (n - people)
        usual = (n - weight) / (people - 1)
        if spread := between + (usual - 1) * within:
            correlation = (between - within) / spread
    return 1 + (weight - 1) * max(correlation, ICC_MIN)


def win_rate_low(wins: float, losses: float, confidence: float) -> float:
    """One-sided lower bound of the win rate among decided pairs (Clopper and Pearson 1934, exact).

    Wilson's bound passes three wins of three; this one needs five of five at 95%. Both counts may be divided by the
    design effect (Korn and Graubard 1998; without their correction for few people, under which few could ever pass).
    """
    if wins == 0:
        return 0.0
    from scipy.stats import beta

    return float(beta.ppf(1 - confidence, wins, losses + 1))
