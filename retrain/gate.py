"""The gate: may this candidate be shown to a person for approval? Pure: evidence and policy in, verdict out.

One superiority test, on what people asked to be changed; everything else is non-inferiority. Each check says in a
sentence what was found and what was needed. Too little evidence rejects: it never passes; only latency and replaced
facts need evidence to fail. The superiority test spends its error level over the candidates tried on the same rows, so
that trying again does not help. Reward margins and preference accuracy are not looked at: they look best where a model
has collapsed.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, Literal

import orjson

from feedback.policy import GatePolicy
from retrain.evidence import (
    Evidence,
    SuiteResult,
    design_effect,
    estimate,
    outcome,
    spent_level,
    win_rate_low,
)

RETAINED_SHARE_MIN = 0.25
"""Of the held-out rows that the policy asks for, this share must be answers that people approved."""
DRAWN_ITEMS_MIN = 20
"""Known answers below which two that went wrong would look like many."""
WRONG_FACT_LEVEL = 0.01
"""A candidate that is as good seems worse in a few facts; with this, one in a hundred such is rejected at most."""
SLICES = {
    "topic": ("topic", "agreement on its {n} approved answers went"),
    "language": ("language", "agreement on its {n} approved answers went"),
    "fact": ("fact", "the share of the {n} answers with it that state it went"),
    "golden_fact": ("fact of the golden set", "the share of the {n} answers with it that state it went"),
}


@dataclass(frozen=True, slots=True)
class Check:
    """One thing looked at."""

    name: str
    value: float | None
    limit: float
    passed: bool
    sentence: str
    estimate: float | None = None
    """What was measured, where `value` is a confidence bound of it."""


@dataclass(frozen=True, slots=True)
class GateReport:
    """The verdict with everything it rests on."""

    decision: Literal["candidate", "rejected"]
    reasons: tuple[str, ...]
    checks: tuple[Check, ...]
    evidence: Evidence
    policy: GatePolicy

    def to_json(self) -> dict[str, Any]:
        """As stored with the adapter. Numbers that are not finite become null."""
        report = asdict(self) | {
            "policy": self.policy.model_dump(mode="json"),
            "evidence": self.evidence.to_json(),
        }
        return dict(orjson.loads(orjson.dumps(report)))

    @property
    def evidence_hash(self) -> str:
        """SHA-256 of the stored report, named by every later decision about the adapter."""
        return hashlib.sha256(orjson.dumps(self.to_json(), option=orjson.OPT_SORT_KEYS)).hexdigest()


def judge(evidence: Evidence, policy: GatePolicy) -> GateReport:
    """Reject unless every check passes; the reasons are the sentences of those that did not."""
    checks = (
        _enough(evidence, policy),
        _errors(evidence),
        _better(evidence, policy),
        _retains(evidence, policy),
        *_stated(evidence, policy),
        *_wrong_fact(evidence, policy),
        *_repeated(evidence, policy),
        *_golden(evidence, policy),
        *_slices(evidence, policy),
        _near_base(evidence, policy),
        *_length(evidence, policy),
        _rate(
            "repetition", "repeat themselves", evidence.repetition_rate, policy.repetition_rate_max, evidence
        ),
        _rate("unfinished", "are cut off", evidence.unfinished_rate, policy.unfinished_rate_max, evidence),
        _rate("refusal", "refuse", evidence.refusal_rate, policy.refusal_rate_max, evidence),
        *_latency(evidence, policy),
        *_overfit(evidence, policy),
        *(_suite(suite) for suite in evidence.suites),
        *_judged(evidence, policy),
    )
    reasons = tuple(check.sentence for check in checks if not check.passed)
    return GateReport("rejected" if reasons else "candidate", reasons, checks, evidence, policy)


def _at_most(name: str, value: float, limit: float, sentence: str, estimate: float | None = None) -> Check:
    return Check(name, value, limit, value <= limit, sentence, estimate)


def _enough(evidence: Evidence, policy: GatePolicy) -> Check:
    need = policy.held_out_rows_min
    passed = evidence.items >= need
    return Check(
        "held_out_rows",
        evidence.items,
        need,
        passed,
        f"{evidence.items} held-out rows were compared, at least {need} are needed"
        + ("." if passed else ": not enough evidence."),
    )


def _errors(evidence: Evidence) -> Check:
    example = f", such as: {evidence.error_examples[0]}" if evidence.error_examples else ""
    return Check(
        "errors",
        evidence.errors,
        0,
        evidence.errors == 0,
        f"{evidence.errors} requests failed during the evaluation{example}.".replace("..", "."),
    )


def _better(evidence: Evidence, policy: GatePolicy) -> Check:
    wins, losses, ties = outcome(evidence.taught)
    tried = evidence.candidates_tried
    confidence = 1 - spent_level(1 - policy.win_rate_confidence, tried)
    alike = design_effect(evidence.taught)
    low = win_rate_low(wins / alike, losses / alike, confidence)
    again = "" if tried == 1 else f" ({tried} candidates were tried on these rows)"
    worth = f"; as one person's resemble each other, they count as {(wins + losses) / alike:.0f}"
    return Check(
        "win_rate",
        low,
        0.5,
        low > 0.5,
        f"Where people asked for a change, the candidate won {wins} and lost {losses} of {len(evidence.taught)} "
        f"comparisons ({ties} ties{worth if alike > 1 else ''}): the win rate's {confidence:.1%} lower bound{again} is "
        f"{low:.2f}, needed above 0.50.",
        estimate=wins / (wins + losses) if wins + losses else None,
    )


def _retains(evidence: Evidence, policy: GatePolicy) -> Check:
    need = max(2, math.ceil(RETAINED_SHARE_MIN * policy.held_out_rows_min))
    n = len(evidence.retained)
    limit = policy.retention_drop_max
    if n < need:
        sentence = f"{n} held-out answers that people approved were asked again, at least {need} are needed: "
        return Check(
            "retention_drop", None, limit, False, sentence + "not enough evidence that they are kept."
        )
    drop = estimate([pair.champion - pair.candidate for pair in evidence.retained])
    return _at_most(
        "retention_drop",
        drop.high,
        limit,
        f"On {n} answers that people approved, agreement fell by {drop.mean:.3f} (upper bound {drop.high:.3f}), "
        f"tolerated is {limit:.3f}.",
        estimate=drop.mean,
    )


def _stated(evidence: Evidence, policy: GatePolicy) -> Iterator[Check]:
    limit = policy.facts_drop_max
    for name, what, pairs in (
        ("facts_drop", "approved answers", evidence.stated),
        ("golden_facts_drop", "answers of the golden set", evidence.golden_stated),
    ):
        if (n := len(pairs)) >= DRAWN_ITEMS_MIN:
            drop = estimate([pair.champion - pair.candidate for pair in pairs])
            yield _at_most(
                name,
                drop.high,
                limit,
                f"On {n} {what} with numbers or addresses, the share of answers that state all of these fell "
                f"by {drop.mean:.3f} (upper bound {drop.high:.3f}), tolerated is {limit:.3f}.",
                estimate=drop.mean,
            )


def _wrong_fact(evidence: Evidence, policy: GatePolicy) -> Iterator[Check]:
    """Look for the fact that is most surely replaced by another; the level is shared by all that were asked about.

    Like latency, this needs evidence to fail: what looked wrong was asked about often enough to give it.
    """
    name, limit = "wrong_fact_rise", policy.wrong_fact_rise_max
    looked = f"Of {evidence.known_facts} numbers and addresses that known answers state, "
    if again := evidence.asked_again:
        confidence = 1 - WRONG_FACT_LEVEL / len(again)
        worst = max(again, key=lambda one: one.rise_low(confidence))
        low = worst.rise_low(confidence)
        yield _at_most(
            name,
            low,
            limit,
            f"{looked}{len(again)} seemed to be replaced by others more often and were asked about again. Worst is "
            f"'{worst.fact}': of {worst.answers} answers of each version {worst.champion} of the champion's and "
            f"{worst.candidate} of the candidate's state another in its place, a rise by {worst.rise:.3f} (lower bound "
            f"{low:.3f}), tolerated is {limit:.3f}.",
            estimate=worst.rise,
        )
    elif evidence.known_facts:
        yield Check(name, 0.0, limit, True, f"{looked}none seemed to be replaced by others more often.")


def _repeated(evidence: Evidence, policy: GatePolicy) -> Iterator[Check]:
    """Compare with the champion: who answers in lists repeats words, and may go on to."""
    n = len(evidence.repeated)
    if n >= DRAWN_ITEMS_MIN:
        rise = estimate([pair.candidate - pair.champion for pair in evidence.repeated])
        usual = sum(pair.champion for pair in evidence.repeated) / n
        tolerated = policy.repetition_rise_max + usual
        yield _at_most(
            "repetition_rise",
            rise.high,
            tolerated,
            f"On {n} approved or golden questions, the share of answers that say things twice went from {usual:.3f} to "
            f"{usual + rise.mean:.3f}, a rise by {rise.mean:.3f} (upper bound {rise.high:.3f}), tolerated is "
            f"{tolerated:.3f}.",
            estimate=rise.mean,
        )


def _golden(evidence: Evidence, policy: GatePolicy) -> Iterator[Check]:
    if evidence.golden:
        limit = policy.golden_drop_max
        drop = estimate([pair.champion - pair.candidate for pair in evidence.golden])
        yield _at_most(
            "golden_drop",
            drop.mean,
            limit,
            f"On the {drop.n} questions of the golden set, agreement fell by {drop.mean:.3f}, "
            f"tolerated is {limit:.3f}.",
        )


def _slices(evidence: Evidence, policy: GatePolicy) -> Iterator[Check]:
    """The worst topic, language and fact: a mean over everything hides one subject that went wrong."""
    limit = policy.topic_drop_max
    for by in sorted({one.by for one in evidence.slices}):
        worst = max((one for one in evidence.slices if one.by == by), key=lambda s: s.champion - s.candidate)
        drop = worst.champion - worst.candidate
        what, change = SLICES[by]
        yield _at_most(
            f"{by}_drop",
            drop,
            limit,
            f"The {what} that changed for the worse most is '{worst.name}': {change.format(n=worst.n)} "
            f"from {worst.champion:.2f} to {worst.candidate:.2f}, a drop of {limit:.2f} is tolerated.",
        )


def _near_base(evidence: Evidence, policy: GatePolicy) -> Check:
    kl, limit = evidence.kl_to_base, policy.kl_to_base_max
    if kl.n < 2:
        sentence = f"Divergence from the base model was measured on {kl.n} answers: not enough evidence."
        return Check("kl_to_base", None, limit, False, sentence)
    return _at_most(
        "kl_to_base",
        kl.high,
        limit,
        f"Divergence from the base model is {kl.mean:.2f} nats per token (upper bound {kl.high:.2f}), "
        f"tolerated is {limit:.2f}.",
        estimate=kl.mean,
    )


def _length(evidence: Evidence, policy: GatePolicy) -> Iterator[Check]:
    ratio, shortest, longest = evidence.length_ratio, policy.length_ratio_min, policy.length_ratio_max
    for name, limit, needed in (
        ("length_ratio_min", shortest, f"at least {shortest:.2f} is needed."),
        ("length_ratio_max", longest, f"at most {longest:.2f} is tolerated."),
    ):
        if ratio is None:
            sentence = "The length of the answers could not be compared: not enough evidence."
            yield Check(name, None, limit, False, sentence)
        else:
            passed = ratio >= limit if name == "length_ratio_min" else ratio <= limit
            yield Check(
                name,
                ratio,
                limit,
                passed,
                f"The candidate's answers have {ratio:.2f} times the champion's length, {needed}",
            )


def _rate(name: str, what: str, rates: dict[str, float], limit: float, evidence: Evidence) -> Check:
    """A share of bad answers: tolerated up to the policy's limit, or up to the champion's own."""
    candidate, champion = rates.get(evidence.candidate), rates.get(evidence.champion, 0.0)
    tolerated = max(limit, champion)
    if candidate is None:
        return Check(f"{name}_rate", None, tolerated, False, f"How many answers {what} is not known.")
    return _at_most(
        f"{name}_rate",
        candidate,
        tolerated,
        f"{candidate:.1%} of the candidate's answers {what} (champion {champion:.1%}), tolerated is {tolerated:.1%}.",
    )


def _latency(evidence: Evidence, policy: GatePolicy) -> Iterator[Check]:
    """Compare times; like `wrong_fact_rise`, this needs evidence to fail.

    Answers timed on a busy machine are weak evidence either way, and a canary's guardrails watch real traffic.
    """
    if evidence.latency_ratio is not None:
        found, limit = evidence.latency_ratio, policy.latency_ratio_max
        yield _at_most(
            "latency_ratio",
            found.low,
            limit,
            f"An answer token takes {found.mean:.2f} times as long as the champion's (lower bound {found.low:.2f}), "
            f"tolerated is {limit:.2f}.",
            estimate=found.mean,
        )


def _overfit(evidence: Evidence, policy: GatePolicy) -> Iterator[Check]:
    if evidence.training_loss is not None and evidence.held_out_loss is not None:
        gap, limit = evidence.held_out_loss - evidence.training_loss, policy.overfit_gap_max
        yield _at_most(
            "overfit_gap",
            gap,
            limit,
            f"Held-out loss is {evidence.held_out_loss:.2f} and training loss {evidence.training_loss:.2f}: "
            f"a gap of {limit:.2f} is tolerated.",
        )


def _suite(suite: SuiteResult) -> Check:
    name, limit = f"suite_{suite.name}", suite.drop_max
    if suite.errors:
        example = suite.error_examples[0] if suite.error_examples else ""
        return Check(
            name, None, limit, False, f"Suite '{suite.name}': {suite.errors} items failed, such as: {example}"
        )
    if suite.items < 2:
        sentence = f"Suite '{suite.name}' has {suite.items} items: not enough evidence."
        return Check(name, None, limit, False, sentence)
    often = "" if suite.answers_per_item == 1 else f" answered {suite.answers_per_item} times each"
    if suite.champion < suite.floor:
        return Check(
            name,
            suite.drop.mean,
            limit,
            True,
            f"Suite '{suite.name}': {suite.items} items, mean score {suite.champion:.2f} before and "
            f"{suite.candidate:.2f} now. Not judged: a champion below {suite.floor:.2f} cannot do what it asks for.",
        )
    return _at_most(
        name,
        suite.drop.high,
        limit,
        f"Suite '{suite.name}': {suite.items} items{often}, mean score {suite.champion:.2f} before and "
        f"{suite.candidate:.2f} now, a drop of {suite.drop.mean:.3f} (upper bound {suite.drop.high:.3f}), "
        f"tolerated is {limit:.3f}.",
        estimate=suite.drop.mean,
    )


def _judged(evidence: Evidence, policy: GatePolicy) -> Iterator[Check]:
    judged, limit = evidence.judge, policy.judge_win_rate_min
    if judged is None:
        return
    if judged.errors or judged.low is None:
        sentence = (
            f"The judging model '{judged.model}' failed on {judged.errors} comparisons: not enough evidence."
        )
        yield Check("judge_win_rate", None, limit, False, sentence)
        return
    controlled = judged.length_controlled_win_rate
    equal = "" if controlled is None else f", {controlled:.2f} at equal length"
    yield Check(
        "judge_win_rate",
        judged.low,
        limit,
        judged.low >= limit,
        f"The judging model '{judged.model}' preferred the candidate {judged.wins} times and the champion "
        f"{judged.losses} times ({judged.ties} ties): win rate {judged.win_rate:.2f}{equal}, lower bound "
        f"{judged.low:.2f}, needed {limit:.2f}.",
        estimate=judged.win_rate,
    )
