"""What guardrails see besides bad answers, what they tolerate, and how a champion is compared with the one before."""

from dataclasses import replace
from math import log
from typing import Any

import numpy as np
import pytest

from monitoring.champion import WatchRules, watch_champion
from monitoring.guardrails import HARM_BUDGET, Guardrail
from monitoring.outcomes import UnitOutcome
from monitoring.sequential import difference_log_evidence, difference_margin
from monitoring.verdict import ExperimentPolicy, Verdict, decide

POLICY = ExperimentPolicy(
    ratios={
        "time_to_first_token": (1e-9, 1.5),
        "time_per_output_token": (1e-9, 1.5),
        "output_tokens": (0.5, 2.0),
    },
    odds_max={"refusals": 1.5, "client_aborts": 1.5, "regenerations": 1.5},
)


def raters(units: int = 120, **candidate: Any) -> list[UnitOutcome]:
    """Raters of two requests each: half meet the candidate, whose rows differ in the fields given."""
    rng = np.random.default_rng(3)
    rows = []
    for number in range(units):
        spread = float(rng.normal(0.0, 0.2))
        row = UnitOutcome(
            f"rater-{number}",
            "champion",
            2,
            ups=1,
            first_tokens=2,
            log_first_token_seconds=2 * log(0.1) + spread,
            later_tokens=2,
            log_later_token_seconds=2 * log(0.02) + spread,
            answers=2,
            log_answer_tokens=2 * log(50) + spread,
        )
        rows.append(replace(row, arm="candidate", **candidate) if number % 2 else row)
    return rows


def fired(verdict: Verdict) -> list[Guardrail]:
    return [one for one in verdict.guardrails if one.fired]


def test_candidates_that_are_alike_fire_nothing() -> None:
    assert fired(decide(raters(), POLICY)) == []


@pytest.mark.parametrize(
    ("name", "difference", "says"),
    [
        (
            "time_to_first_token",
            {"log_first_token_seconds": 2 * log(0.5)},
            "the time to the first token is typically 0.5s, 0.0",
        ),
        (
            "time_per_output_token",
            {"log_later_token_seconds": 2 * log(0.1)},
            "a later token typically takes 0.1s, 0.0",
        ),
        ("output_tokens", {"log_answer_tokens": 2 * log(300)}, "an answer typically has 300 tokens, "),
        ("output_tokens", {"log_answer_tokens": 2 * log(5)}, "an answer typically has 5 tokens, "),
        ("refusals", {"refused": 2}, "120 of 120 requests were refused, 0 of 120 in champion"),
        ("client_aborts", {"aborted": 2}, "120 of 120 requests were left before the end"),
        ("regenerations", {"regenerated": 1}, "60 of 120 requests were asked for again"),
    ],
)
def test_each_kind_of_harm_fires_its_guardrail_and_says_so(
    name: str, difference: dict[str, Any], says: str
) -> None:
    verdict = decide(raters(**difference), POLICY)
    assert [one.name for one in fired(verdict)] == [name]
    assert verdict.state == "worse"
    assert verdict.sentence.startswith("Candidate is worse than champion: ") and says in verdict.sentence


def test_being_faster_is_no_harm() -> None:
    assert fired(decide(raters(log_first_token_seconds=2 * log(0.01)), POLICY)) == []


def test_a_guardrail_that_only_pauses_keeps_a_better_candidate_from_passing_for_better() -> None:
    rows = raters(400, log_answer_tokens=2 * log(300), ups=2)
    rows = [replace(row, downs=1) if row.arm == "champion" else row for row in rows]
    assert decide(rows, replace(POLICY, ratios={})).state == "better"
    verdict = decide(rows, replace(POLICY, pausing=frozenset({"output_tokens"})))
    assert verdict.state == "inconclusive"
    assert verdict.sentence.startswith("Candidate differs from champion: an answer typically has 300 tokens")


def test_a_guardrail_that_only_pauses_does_not_hide_harm() -> None:
    rows = raters(log_answer_tokens=2 * log(300), downs=2, ups=0)
    verdict = decide(rows, replace(POLICY, pausing=frozenset({"output_tokens"})))
    assert verdict.state == "worse" and "voted down" in verdict.sentence


def test_nothing_is_concluded_from_times_before_fifty_raters_per_arm() -> None:
    slow = raters(90, log_first_token_seconds=2 * log(5.0))
    assert fired(decide(slow, POLICY)) == []


def test_what_nobody_measured_fires_nothing() -> None:
    rows = [replace(row, first_tokens=0, log_first_token_seconds=0.0) for row in raters()]
    [guardrail] = [one for one in decide(rows, POLICY).guardrails if one.name == "time_to_first_token"]
    assert not guardrail.fired and guardrail.candidate is None
    assert "not measured" in guardrail.sentence


def test_the_budget_of_all_tests_is_the_whole_error_rate() -> None:
    assert sum(HARM_BUDGET.values()) == pytest.approx(1.0)


def test_evidence_reaches_its_threshold_exactly_at_the_margin() -> None:
    units, variances = (400.0, 3_600.0), (0.002, 0.0003)
    margin = difference_margin(units, variances, alpha=0.01, tightest_at=2000.0)
    at = difference_log_evidence(margin, units, variances, alpha=0.01, tightest_at=2000.0)
    assert at == pytest.approx(log(100.0))
    assert difference_log_evidence(-margin, units, variances, alpha=0.01, tightest_at=2000.0) == 0.0


def before_and_now(**now: Any) -> list[UnitOutcome]:
    rows = raters(240)
    return [replace(row, **(now if row.arm == "candidate" else {})) for row in rows]


def test_a_champion_like_the_one_before_does_well() -> None:
    watched = watch_champion(before_and_now(), WatchRules(), name="support@2")
    assert (watched.state, watched.units) == ("well", (120, 120))


@pytest.mark.parametrize(
    ("name", "difference"),
    [
        ("bad_answers", {"downs": 2, "ups": 0}),
        ("errors", {"errors": 2, "exposed": 2, "bad": 0}),
        ("refusals", {"refused": 2}),
        ("client_aborts", {"aborted": 2}),
        ("time_to_first_token", {"log_first_token_seconds": 2 * log(1.0)}),
        ("output_tokens", {"log_answer_tokens": 2 * log(3)}),
    ],
)
def test_a_champion_that_does_worse_than_before_is_named_with_its_numbers(
    name: str, difference: dict[str, Any]
) -> None:
    watched = watch_champion(before_and_now(**difference), WatchRules(), name="support@2")
    assert watched.state == "worse"
    assert [one.name for one in watched.findings if one.worse] == [name]
    assert watched.sentence.startswith("support@2 does worse than before: ")


def test_a_champion_is_not_judged_by_few_raters() -> None:
    rows = [row for row in before_and_now(errors=2) if row.arm == "champion"]
    rows += [row for row in before_and_now(errors=2) if row.arm == "candidate"][:49]
    watched = watch_champion(rows, WatchRules(), name="support@2")
    assert watched.state == "insufficient_data" and "49 raters now, 120 before" in watched.sentence
