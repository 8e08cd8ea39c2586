"""Say whether a candidate is better than the arm it is compared with, as often as anyone likes to ask.

`decide` is pure: unit outcomes and a policy in, one `Verdict` out, with its numbers and one sentence. It promises that
an equal candidate is called `better` at most `alpha` of the time and `worse` at most `guardrail_alpha` of the time over
the whole life of an experiment, however often it is looked at and whenever it is stopped, with units as clusters.

It refuses to conclude from what is missing: too few units is `insufficient_data`, a broken split or lopsided feedback
is `inconclusive`, and a request nobody rated counts as a request without a vote in both arms alike.
docs/concepts/verdicts.md says it in plain words; `tests/bench/verdicts.py` measures it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import log
from typing import Literal

from monitoring.evidence import Comparison, sample_ratio
from monitoring.guardrails import Guardrail, GuardrailRules, capital, watch
from monitoring.outcomes import UnitOutcome
from monitoring.sequential import bernoulli_interval
from monitoring.totals import Totals

State = Literal["insufficient_data", "inconclusive", "better", "worse"]


@dataclass(frozen=True, slots=True)
class ExperimentPolicy:
    """What a verdict demands; every error rate holds over all looks together.

    Raises:
        ValueError: a value that cannot be, with the value that was expected.
    """

    weights: Mapping[str, float] = field(default_factory=lambda: {"champion": 0.5, "candidate": 0.5})
    """Expected share of units per arm, for outcomes that carry no propensity of their own."""
    control: str = "champion"
    candidate: str = "candidate"
    called: str = ""
    """What sentences call the candidate, such as `support@8`; empty: the name of its arm."""
    alpha: float = 0.05
    """Two-sided error rate of the comparison of ratings."""
    guardrail_alpha: float = 0.01
    """Chance that an equal candidate is ever called worse, all tests together."""
    sample_ratio_alpha: float = 0.00001
    """Chance that a correct split is ever called broken; every split has one test, however many candidates."""
    units_min: int = 50
    """Units with a scored request that each arm needs before ratings are compared."""
    rated_units_min: int = 20
    """Units with at least one vote that each arm needs before ratings are compared."""
    maturation_seconds: float = 0.0
    """Requests younger than this are not scored; whoever sums the outcomes applies it."""
    min_effect: float = 0.0
    """Net approval per request by which a better candidate must surely win."""
    harm_limit: float = 0.0
    """Net approval per request that a candidate may lose before it is worse."""
    bad_odds_limit: float = 1.0
    """Bad answers that a candidate may give, as a multiple of the control's."""
    odds_max: Mapping[str, float] = field(default_factory=dict)
    """The same by guardrail, for the events that `monitoring.guardrails` counts."""
    ratios: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    """Multiples of the control's typical value that are tolerated, (low, high) by guardrail."""
    pausing: frozenset[str] = frozenset()
    """Guardrails that make a verdict inconclusive when they fire, not `worse`."""
    coverage_ratio_limit: float = 2.0
    """Votes per request may differ between the arms by this factor; beyond it ratings are not compared."""
    tightest_at_units: float = 2000.0
    """Units of both arms together at which the interval is tightest."""

    def __post_init__(self) -> None:
        """Refuse values that would make the verdict mean nothing."""
        for name in ("alpha", "guardrail_alpha", "sample_ratio_alpha"):
            if not 0.0 < getattr(self, name) < 0.5:
                raise ValueError(f"{name} is {getattr(self, name)}, expected above 0 and below 0.5.")
        for name in ("control", "candidate"):
            if getattr(self, name) not in self.weights:
                raise ValueError(
                    f"{name} is '{getattr(self, name)}', expected one of {sorted(self.weights)}."
                )
        if self.control == self.candidate:
            raise ValueError(f"control and candidate are both '{self.control}', expected two arms.")
        if min(self.weights.values()) < 0.0 or sum(self.weights.values()) <= 0.0:
            raise ValueError(f"weights are {dict(self.weights)}, expected none below 0 and a positive sum.")
        if self.units_min < 2 or self.rated_units_min < 1:
            raise ValueError(
                f"units_min is {self.units_min} and rated_units_min is {self.rated_units_min}, "
                "expected at least 2 and 1."
            )
        if self.bad_odds_limit < 1.0 or self.coverage_ratio_limit < 1.0:
            raise ValueError("bad_odds_limit and coverage_ratio_limit are multiples, expected at least 1.")

    @property
    def rules(self) -> GuardrailRules:
        """What the guardrails tolerate."""
        return GuardrailRules(
            alpha=self.guardrail_alpha,
            units_min=self.units_min,
            tightest_at_units=self.tightest_at_units,
            odds_max={"bad_answers": self.bad_odds_limit} | dict(self.odds_max),
            ratios=self.ratios,
            pausing=self.pausing,
            control=self.control,
            candidate=self.name,
        )

    @property
    def name(self) -> str:
        """The candidate's, in sentences."""
        return self.called or self.candidate

    def harm_alpha(self, test: str) -> float:
        """The part of `guardrail_alpha` that one test of `monitoring.guardrails.HARM_BUDGET` may spend."""
        return self.rules.harm_alpha(test)


@dataclass(frozen=True, slots=True)
class ArmNumbers:
    """What one arm did. Rates are per scored request unless they say otherwise, and None before there is one.

    `net_approval` is (ups - downs) / requests, `coverage` votes per request. `bad_unit_low` and `bad_unit_high` bound
    the share of units that met a bad answer, exactly and at every look, with 95% confidence.
    """

    arm: str
    units: int
    rated_units: int
    requests: int
    ups: int
    downs: int
    exposed: int
    bad: int
    errors: int
    net_approval: float | None
    up_per_request: float | None
    down_per_request: float | None
    up_per_unit: float | None
    coverage: float | None
    bad_per_request: float | None
    bad_unit_low: float
    bad_unit_high: float


@dataclass(frozen=True, slots=True)
class SampleRatio:
    """Whether units landed in the arms as the logged propensities say; `units` and `expected` are per arm."""

    broken: bool
    log_evidence: float
    threshold: float
    units: Mapping[str, int]
    expected: Mapping[str, float]
    sentence: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What may be concluded now. `difference` is the candidate's net approval per request less the control's.

    `low` and `high` bound it with error rate `alpha`; all three are None before both arms have enough units. Where a
    rollout changed the split on the way, they compare the arms within each split.
    """

    state: State
    sentence: str
    difference: float | None
    low: float | None
    high: float | None
    arms: tuple[ArmNumbers, ...]
    guardrails: tuple[Guardrail, ...]
    sample_ratio: SampleRatio


def decide(outcomes: Sequence[UnitOutcome], policy: ExperimentPolicy) -> Verdict:
    """Judge the candidate on everything seen so far.

    Raises:
        ValueError: an outcome that cannot belong to this experiment.
    """
    return judge(Totals.of(outcomes, policy.weights, control=policy.control), policy)


def judge(seen: Totals, policy: ExperimentPolicy) -> Verdict:
    """The same, of units that were summed up before."""
    pair = seen.pair(policy.candidate)
    compared = Comparison.of(
        pair,
        alpha=policy.alpha,
        harm_alpha=policy.harm_alpha("ratings"),
        tightest_at=policy.tightest_at_units,
    )
    split, guardrails = _check_split(seen, policy), watch(pair, policy.rules)
    state, sentence = _conclude(policy, compared, split, guardrails)
    known = _enough(compared, policy)
    return Verdict(
        state=state,
        sentence=sentence,
        difference=compared.difference if known else None,
        low=compared.difference - compared.margin if known else None,
        high=compared.difference + compared.margin if known else None,
        arms=tuple(_arm_numbers(name, seen.arm(name).counts) for name in seen.arms),
        guardrails=guardrails,
        sample_ratio=split,
    )


def _conclude(
    policy: ExperimentPolicy, compared: Comparison, split: SampleRatio, guardrails: tuple[Guardrail, ...]
) -> tuple[State, str]:
    """The order matters: on a broken split no number can be trusted, and harm must not wait for ratings."""
    if split.broken:
        return "inconclusive", split.sentence
    fired = [one for one in guardrails if one.fired]
    if aborting := [one for one in fired if one.action == "abort"]:
        return "worse", aborting[0].sentence
    state, sentence = _compare(policy, compared)
    return ("inconclusive", fired[0].sentence) if fired and state != "worse" else (state, sentence)


def _compare(policy: ExperimentPolicy, compared: Comparison) -> tuple[State, str]:
    if not _enough(compared, policy):
        return "insufficient_data", _too_early(policy, compared)
    if compared.coverage_differs and _lopsided(compared.coverage, policy.coverage_ratio_limit):
        return "inconclusive", _says_coverage(policy, compared)
    harm = compared.difference + compared.harm_margin < -policy.harm_limit
    gain = compared.difference - compared.margin > policy.min_effect
    if not harm and not gain:
        return "inconclusive", _says_undecided(policy, compared)
    agreed = (
        compared.rated_difference + compared.rated_harm_margin < 0.0
        if harm
        else compared.rated_difference - compared.rated_margin > 0.0
    )
    if not agreed:
        return "inconclusive", _says_who_votes(policy, compared)
    return ("worse" if harm else "better"), _says_difference(policy, compared, worse=harm)


def _enough(compared: Comparison, policy: ExperimentPolicy) -> bool:
    return min(compared.units) >= policy.units_min and min(compared.rated_units) >= policy.rated_units_min


def _lopsided(coverage: tuple[float, float], limit: float) -> bool:
    return max(coverage) > limit * min(coverage)


def _check_split(seen: Totals, policy: ExperimentPolicy) -> SampleRatio:
    found = sample_ratio(seen)
    threshold = log(1.0 / policy.sample_ratio_alpha)
    broken = found.log_evidence >= threshold
    counts = ", ".join(
        f"{arm} has {units} raters where {found.expected[arm]:.0f} were expected"
        for arm, units in found.units.items()
    )
    return SampleRatio(
        broken=broken,
        log_evidence=found.log_evidence,
        threshold=threshold,
        units=found.units,
        expected=found.expected,
        sentence=(
            f"The split is broken, so nothing can be concluded: {counts}; look for lost records or requests routed "
            "past the experiment."
            if broken
            else f"The split is as expected: {counts}."
        ),
    )


def _too_early(policy: ExperimentPolicy, compared: Comparison) -> str:
    needs = (
        f"{arm} has {units} raters, {rated} of whom voted"
        for arm, units, rated in zip(
            (policy.name, policy.control), compared.units, compared.rated_units, strict=True
        )
    )
    return (
        f"Too early to compare ratings: {'; '.join(needs)}. "
        f"Each arm needs {policy.units_min} raters and votes from {policy.rated_units_min} of them."
    )


def _says_coverage(policy: ExperimentPolicy, compared: Comparison) -> str:
    return (
        f"Ratings cannot be compared: people voted on {compared.coverage[0]:.1%} of {policy.name}'s requests "
        f"and {compared.coverage[1]:.1%} of {policy.control}'s; check that feedback reaches both."
    )


def _says_who_votes(policy: ExperimentPolicy, compared: Comparison) -> str:
    low, high = (compared.rated_difference + side * compared.rated_margin for side in (-1.0, 1.0))
    return (
        f"Net approval per request differs by {_points(compared.difference)} points, but per vote the difference is "
        f"{_points(low)} to {_points(high)}: who votes may have changed, not what they think of {policy.name}."
    )


def _says_undecided(policy: ExperimentPolicy, compared: Comparison) -> str:
    return f"No winner between {policy.name} and {policy.control} yet: {_interval(policy, compared)}."


def _says_difference(policy: ExperimentPolicy, compared: Comparison, *, worse: bool) -> str:
    word = "worse" if worse else "better"
    return f"{capital(policy.name)} is {word} than {policy.control}: {_interval(policy, compared)}."


def _interval(policy: ExperimentPolicy, compared: Comparison) -> str:
    low, high = compared.difference - compared.margin, compared.difference + compared.margin
    return (
        f"net approval per request {_points(compared.net_approval[0])} against {_points(compared.net_approval[1])} "
        f"points, difference {_points(compared.difference)} ({1.0 - policy.alpha:.0%} always-valid interval "
        f"{_points(low)} to {_points(high)}), {compared.units[0]} and {compared.units[1]} raters"
    )


def _points(share: float) -> str:
    """Percentage points, signed: 0.05 is +5.0."""
    return f"{100.0 * share:+.1f}"


def _arm_numbers(name: str, counts: Mapping[str, int]) -> ArmNumbers:
    requests, ups, downs, bad = (counts[one] for one in ("requests", "ups", "downs", "bad"))
    low, high = bernoulli_interval(counts["bad_units"], counts["met_units"], alpha=0.05, tightest_at=200.0)
    return ArmNumbers(
        arm=name,
        units=counts["units"],
        rated_units=counts["rated_units"],
        requests=requests,
        ups=ups,
        downs=downs,
        exposed=counts["exposed"],
        bad=bad,
        errors=counts["errors"],
        net_approval=_per(ups - downs, requests),
        up_per_request=_per(ups, requests),
        down_per_request=_per(downs, requests),
        up_per_unit=_per(ups, counts["units"]),
        coverage=_per(ups + downs, requests),
        bad_per_request=_per(bad, counts["exposed"]),
        bad_unit_low=float(low),
        bad_unit_high=float(high),
    )


def _per(count: int, total: int) -> float | None:
    return count / total if total else None
