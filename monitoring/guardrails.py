"""The guardrails: tests that watch for one kind of harm each, after every event, without waiting for ratings.

Together they call an equal candidate worse at most `guardrail_alpha` of the time, however often anyone looks: the
error rate is divided over them by `HARM_BUDGET`. A missing row, a silent arm or a value nobody measured fires none.
What a fired guardrail leads to, an abort or a pause for a person to look, is the policy's to say.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from math import log
from typing import Literal

from monitoring.evidence import (
    BAD_ANSWERS_PRIOR,
    ERRORS_PRIOR,
    counted_events,
    first_events,
    typical_values,
)
from monitoring.totals import PairSums

HARM_BUDGET: Mapping[str, float] = {
    "bad_answers": 0.70,
    "units_with_bad_answers": 0.08,
    "units_with_errors": 0.05,
    "ratings": 0.05,
    "time_to_first_token": 0.02,
    "time_per_output_token": 0.02,
    "output_tokens": 0.02,
    "refusals": 0.02,
    "client_aborts": 0.02,
    "regenerations": 0.02,
}
"""How `guardrail_alpha` is divided over the tests that can call a candidate worse."""

Action = Literal["abort", "pause"]
FIRED: Mapping[Action, str] = {"abort": "is worse than", "pause": "differs from"}
MANY = 1e9
"""A ratio that nothing exceeds."""


@dataclass(frozen=True, slots=True)
class Counted:
    """A kind of event that answers may have; `says` completes "7 of 90 requests ..."."""

    name: str
    says: str


@dataclass(frozen=True, slots=True)
class Measured:
    """A quantity that answers have, and the unit to print it in."""

    name: str
    says: str
    unit: str


COUNTED = (
    Counted("refusals", "were refused"),
    Counted("client_aborts", "were left before the end"),
    Counted("regenerations", "were asked for again"),
)
MEASURED = (
    Measured("time_to_first_token", "the time to the first token is typically", "s"),
    Measured("time_per_output_token", "a later token typically takes", "s"),
    Measured("output_tokens", "an answer typically has", " tokens"),
)


@dataclass(frozen=True, slots=True)
class GuardrailRules:
    """What the guardrails tolerate: odds limits by name of an event, (low, high) ratios by name of a quantity."""

    alpha: float = 0.01
    units_min: int = 50
    tightest_at_units: float = 2000.0
    odds_max: Mapping[str, float] = field(default_factory=dict)
    ratios: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    pausing: frozenset[str] = frozenset()
    control: str = "champion"
    candidate: str = "candidate"

    def harm_alpha(self, test: str) -> float:
        """The part of `alpha` that one test of `HARM_BUDGET` may spend."""
        return self.alpha * HARM_BUDGET[test]

    def action(self, test: str) -> Action:
        """What the test leads to when it fires."""
        return "pause" if test in self.pausing else "abort"


@dataclass(frozen=True, slots=True)
class Guardrail:
    """One test for harm. It has fired when `log_evidence` reaches `threshold`, the log of one over its error rate.

    `candidate` and `control` are counts of events, or typical values; None before there is one.
    """

    name: str
    fired: bool
    action: Action
    log_evidence: float
    threshold: float
    candidate: float | None
    control: float | None
    sentence: str


def watch(pair: PairSums, rules: GuardrailRules) -> tuple[Guardrail, ...]:
    """Every guardrail, the exact ones after the others: they have less evidence to say the same with."""
    return (
        *_bad_answers(pair, rules),
        *(_counted(pair, rules, one) for one in COUNTED),
        *(_measured(pair, rules, one) for one in MEASURED),
    )


def _bad_answers(pair: PairSums, rules: GuardrailRules) -> tuple[Guardrail, ...]:
    limit = rules.odds_max.get("bad_answers", 1.0)
    counted = counted_events(
        pair, "bad_answers", BAD_ANSWERS_PRIOR, units_min=rules.units_min, odds_limit=limit
    )
    first_bad = first_events(pair, "first_bad", BAD_ANSWERS_PRIOR, odds_limit=limit)
    errors_limit = rules.odds_max.get("units_with_errors", limit)
    first_error = first_events(pair, "first_error", ERRORS_PRIOR, odds_limit=errors_limit)
    requests, units = _both(pair, "exposed"), _met(pair)
    found = (
        ("bad_answers", "requests failed or were voted down", counted, requests),
        ("units_with_errors", "raters met an error", first_error, units),
        ("units_with_bad_answers", "raters met a bad answer", first_bad, units),
    )
    return tuple(
        _guardrail(name, rules, _counts(what, events.candidate, events.control, total, rules), events.log_evidence,
                   rules.harm_alpha(name), events.candidate, events.control)
        for name, what, events, total in found
    )  # fmt: skip


def _counted(pair: PairSums, rules: GuardrailRules, what: Counted) -> Guardrail:
    events = counted_events(
        pair,
        what.name,
        BAD_ANSWERS_PRIOR,
        units_min=rules.units_min,
        odds_limit=rules.odds_max.get(what.name, 1.0),
    )
    facts = _counts(f"requests {what.says}", events.candidate, events.control, _both(pair, "exposed"), rules)
    alpha = rules.harm_alpha(what.name)
    return _guardrail(what.name, rules, facts, events.log_evidence, alpha, events.candidate, events.control)


def _both(pair: PairSums, count: str) -> tuple[int, int]:
    return pair.candidate.counts[count], pair.control.counts[count]


def _met(pair: PairSums) -> tuple[int, int]:
    """Units that met each arm; whoever changed arms met both."""
    return _both(pair, "met_units")


def _counts(what: str, inside: int, outside: int, totals: tuple[int, int], rules: GuardrailRules) -> str:
    return f"{inside} of {totals[0]} {what}, {outside} of {totals[1]} in {rules.control}"


def _measured(pair: PairSums, rules: GuardrailRules, what: Measured) -> Guardrail:
    alpha = rules.harm_alpha(what.name)
    found = typical_values(
        pair,
        what.name,
        units_min=rules.units_min,
        ratio=rules.ratios.get(what.name, (1.0 / MANY, MANY)),
        alpha=alpha / 2.0,
        tightest_at=rules.tightest_at_units,
    )
    values = f"{_value(found.candidate, what.unit)}, {_value(found.control, what.unit)} in {rules.control}"
    evidence = max(found.low, found.high)
    return _guardrail(
        what.name, rules, f"{what.says} {values}", evidence, alpha, found.candidate, found.control
    )


def _value(value: float | None, unit: str) -> str:
    return "not measured" if value is None else f"{value:.3g}{unit}"


def _guardrail(
    name: str,
    rules: GuardrailRules,
    facts: str,
    evidence: float,
    alpha: float,
    candidate: float | None,
    control: float | None,
) -> Guardrail:
    threshold = log(1.0 / alpha)
    fired = evidence >= threshold
    return Guardrail(
        name=name,
        fired=fired,
        action=rules.action(name),
        log_evidence=evidence,
        threshold=threshold,
        candidate=candidate,
        control=control,
        sentence=(
            f"{capital(rules.candidate)} {FIRED[rules.action(name)]} {rules.control}: {facts}; "
            f"an equal one would show this at most {alpha:.2%} of the time."
            if fired
            else f"No harm shown by {rules.candidate}: {facts}."
        ),
    )


def capital(name: str) -> str:
    """For the beginning of a sentence; a version's name, `support@8`, stays as it is."""
    return name if "@" in name else name[:1].upper() + name[1:]
