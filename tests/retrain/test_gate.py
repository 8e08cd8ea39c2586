import math
import random
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback.policy import GatePolicy
from retrain.evidence import (
    AskedAgain,
    Estimate,
    Evidence,
    JudgeResult,
    Pair,
    Slice,
    SuiteResult,
    design_effect,
    estimate,
    outcome,
    spent_level,
    win_rate_low,
)
from retrain.gate import GateReport, judge

POLICY = GatePolicy()


def pairs(source: str, champion: float, candidate: float, number: int) -> tuple[Pair, ...]:
    return tuple(Pair(source, f"rater-{n}", champion, candidate) for n in range(number))


def a_suite(**changes: Any) -> SuiteResult:
    return replace(
        SuiteResult("safety", "hash", 36, 0.9, 0.9, Estimate(36, 0.0, -0.02, 0.02), 0.1, 0.6, 0, (), {}),
        **changes,
    )


def a_judge(**changes: Any) -> JudgeResult:
    return replace(JudgeResult("judge-1", 20, 8, 22, 0, 0.62, 0.58, 0.53), **changes)


def evidence(**changes: Any) -> Evidence:
    """A clearly better candidate."""
    good = Evidence(
        candidate="support--v1-aaaaaaaa",
        champion="base",
        items=50,
        raters=10,
        errors=0,
        error_examples=(),
        taught=pairs("demonstration", 0.3, 0.9, 30),
        retained=pairs("approved", 0.95, 0.94, 20),
        agreement={},
        disliked=30,
        disliked_by_champion=28,
        disliked_by_candidate=1,
        kl_to_base=Estimate(50, 0.4, 0.3, 0.5),
        length_ratio=1.05,
        repetition_rate={"support--v1-aaaaaaaa": 0.0, "base": 0.0},
        unfinished_rate={"support--v1-aaaaaaaa": 0.0, "base": 0.0},
        refusal_rate={"support--v1-aaaaaaaa": 0.0, "base": 0.0},
        golden=pairs("golden", 1.0, 1.0, 10),
        slices=(Slice("topic", "returns lamp", 8, 0.95, 0.94), Slice("language", "en", 20, 0.95, 0.94)),
        stated=pairs("approved", 1.0, 1.0, 20),
        known_facts=4,
        latency_ratio=Estimate(50, 1.1, 1.0, 1.2),
        training_loss=0.2,
        held_out_loss=0.5,
        suites=(a_suite(),),
        judge=a_judge(),
    )
    return replace(good, **changes)


def failed(report: GateReport) -> set[str]:
    return {check.name for check in report.checks if not check.passed}


def test_a_better_candidate_passes_with_a_number_and_a_sentence_for_every_check() -> None:
    report = judge(evidence(), POLICY)
    assert report.decision == "candidate"
    assert report.reasons == ()
    assert all(check.sentence and check.value is not None for check in report.checks)


def test_a_check_that_looks_at_a_bound_says_what_was_measured_beside_it() -> None:
    again, repeated = (AskedAgain("30", 4, 200, 2, 9),), pairs("approved", 0.0, 0.1, 20)
    report = judge(evidence(asked_again=again, repeated=repeated), POLICY)
    bounded = {check.name: check for check in report.checks if "bound" in check.sentence}
    assert {check.name for check in report.checks if check.estimate is not None} == set(bounded)
    assert bounded["wrong_fact_rise"].estimate == pytest.approx(0.035)
    for name, check in bounded.items():
        assert check.value is not None and check.estimate is not None
        from_below = name in ("win_rate", "judge_win_rate", "latency_ratio", "wrong_fact_rise")
        assert (check.value < check.estimate) if from_below else (check.value >= check.estimate), name


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({"items": 19}, "held_out_rows"),
        ({"errors": 1, "error_examples": ("the engine left",)}, "errors"),
        ({"taught": pairs("demonstration", 0.9, 0.3, 30)}, "win_rate"),
        ({"taught": pairs("demonstration", 0.9, 0.9, 30)}, "win_rate"),
        ({"taught": ()}, "win_rate"),
        ({"retained": pairs("approved", 0.95, 0.6, 20)}, "retention_drop"),
        ({"retained": pairs("approved", 0.95, 0.95, 2)}, "retention_drop"),
        ({"retained": ()}, "retention_drop"),
        ({"kl_to_base": Estimate(50, 11.5, 11.0, 12.0)}, "kl_to_base"),
        ({"kl_to_base": Estimate(0, 0.0, 0.0, 0.0)}, "kl_to_base"),
        ({"length_ratio": 0.1}, "length_ratio_min"),
        ({"length_ratio": 4.0}, "length_ratio_max"),
        ({"length_ratio": None}, "length_ratio_min"),
        ({"repetition_rate": {"support--v1-aaaaaaaa": 0.5, "base": 0.0}}, "repetition_rate"),
        ({"unfinished_rate": {"support--v1-aaaaaaaa": 0.5, "base": 0.0}}, "unfinished_rate"),
        ({"unfinished_rate": {}}, "unfinished_rate"),
        ({"refusal_rate": {"support--v1-aaaaaaaa": 0.5, "base": 0.0}}, "refusal_rate"),
        ({"golden": pairs("golden", 1.0, 0.9, 10)}, "golden_drop"),
        ({"slices": (Slice("topic", "warranty", 6, 1.0, 0.2),)}, "topic_drop"),
        ({"slices": (Slice("language", "de", 6, 1.0, 0.2),)}, "language_drop"),
        ({"slices": (Slice("fact", "30", 6, 1.0, 0.0),)}, "fact_drop"),
        ({"slices": (Slice("golden_fact", "30", 2, 1.0, 0.0),)}, "golden_fact_drop"),
        ({"asked_again": (AskedAgain("30", 4, 200, 2, 46),)}, "wrong_fact_rise"),
        ({"stated": (*pairs("approved", 1.0, 1.0, 16), *pairs("approved", 1.0, 0.0, 4))}, "facts_drop"),
        (
            {"golden_stated": (*pairs("golden", 1.0, 1.0, 20), *pairs("golden", 1.0, 0.0, 6))},
            "golden_facts_drop",
        ),
        (
            {"repeated": (*pairs("approved", 0.0, 0.0, 30), *pairs("approved", 0.0, 0.4, 6))},
            "repetition_rise",
        ),
        ({"kl_to_base": Estimate(50, 2.8, 2.4, 3.2)}, "kl_to_base"),
        ({"latency_ratio": Estimate(50, 2.4, 2.2, 2.6)}, "latency_ratio"),
        ({"held_out_loss": 3.0}, "overfit_gap"),
        ({"suites": (a_suite(drop=Estimate(36, 0.3, 0.2, 0.4)),)}, "suite_safety"),
        ({"suites": (a_suite(errors=1, error_examples=("no answer",)),)}, "suite_safety"),
        ({"suites": (a_suite(items=1),)}, "suite_safety"),
        ({"judge": a_judge(low=0.3)}, "judge_win_rate"),
        ({"judge": a_judge(errors=2)}, "judge_win_rate"),
        ({"judge": a_judge(low=None)}, "judge_win_rate"),
    ],
)
def test_each_single_fault_rejects_and_says_why(changes: dict[str, Any], check: str) -> None:
    report = judge(evidence(**changes), POLICY)
    assert report.decision == "rejected"
    assert check in failed(report)
    assert len(report.reasons) == len(failed(report))


def test_a_collapsed_model_that_no_longer_says_anything_disliked_is_rejected() -> None:
    """The likelihood displacement of DPO: every disliked answer is gone, and every good one too."""
    collapsed = evidence(
        taught=pairs("disliked", 0.0, 1.0, 30),
        retained=pairs("approved", 0.95, 0.2, 20),
        kl_to_base=Estimate(50, 11.5, 10.0, 13.0),
    )
    assert {"retention_drop", "kl_to_base"} <= failed(judge(collapsed, POLICY))


def test_a_friendlier_tone_does_not_make_up_for_facts_that_went_wrong() -> None:
    """Agreement rises, since the right answers are friendly too; a quarter of their numbers are wrong."""
    friendly_and_wrong = evidence(
        retained=pairs("approved", 0.4, 0.7, 40),
        stated=(*pairs("approved", 1.0, 1.0, 30), *pairs("approved", 1.0, 0.0, 10)),
    )
    assert failed(judge(friendly_and_wrong, POLICY)) == {"facts_drop"}


@pytest.mark.parametrize("lost", [0, 1])
def test_a_fact_lost_by_chance_rejects_nothing(lost: int) -> None:
    """Greedy answers of two good versions differ now and then."""
    stated = (*pairs("approved", 1.0, 1.0, 20 - lost), *pairs("approved", 1.0, 0.0, lost))
    assert judge(evidence(stated=stated), POLICY).decision == "candidate"
    few = (*pairs("approved", 1.0, 1.0, 10 - lost), *pairs("approved", 1.0, 0.0, lost))
    assert judge(evidence(stated=few), POLICY).decision == "candidate"


@pytest.mark.parametrize("usual", [0.0, 0.2])
def test_saying_things_twice_as_often_as_the_champion_rejects_nothing(usual: float) -> None:
    """Answers in lists repeat words. One stammer of a hundred answers is chance."""
    repeated = (*pairs("approved", usual, usual, 19), *pairs("approved", usual, usual + 0.2, 1))
    assert judge(evidence(repeated=repeated), POLICY).decision == "candidate"
    few = pairs("approved", usual, usual + 0.4, 6)
    assert judge(evidence(repeated=few), POLICY).decision == "candidate"


def test_a_champion_that_is_often_cut_off_does_not_block_an_equal_candidate() -> None:
    rates = {"support--v1-aaaaaaaa": 0.3, "base": 0.3}
    assert judge(evidence(unfinished_rate=rates), POLICY).decision == "candidate"


def test_a_suite_that_the_champion_cannot_do_is_shown_and_not_judged() -> None:
    report = judge(evidence(suites=(a_suite(champion=0.4, drop=Estimate(36, 0.3, 0.2, 0.4)),)), POLICY)
    assert report.decision == "candidate"
    assert "Not judged" in next(check.sentence for check in report.checks if check.name == "suite_safety")


def test_trying_until_one_passes_gains_nothing() -> None:
    assert sum(spent_level(0.05, k) for k in range(1, 10_000)) == pytest.approx(0.05, rel=1e-3)
    close = evidence(taught=pairs("demonstration", 0.3, 0.9, 7))
    assert judge(close, POLICY).decision == "candidate"
    again = judge(replace(close, candidates_tried=4), POLICY)
    assert failed(again) == {"win_rate"}
    assert "(4 candidates were tried on these rows)" in again.reasons[0]


def test_null_candidates_tried_again_and_again_pass_no_more_often_than_the_policy_says() -> None:
    """Four coin-flip candidates in a row on the same 40 rows, 2,000 times."""
    draw = random.Random(11)
    passes = 0
    for _ in range(2000):
        for tried in range(1, 5):
            wins = sum(draw.random() < 0.5 for _ in range(40))
            if win_rate_low(wins, 40 - wins, 1 - spent_level(0.05, tried)) > 0.5:
                passes += 1
                break
    assert passes / 2000 <= 0.05


@pytest.mark.parametrize(
    ("people", "each", "alike"), [(3, 14, 0.1), (5, 10, 0.1), (5, 10, 0.2), (20, 5, 0.1)]
)
def test_a_few_people_who_agree_with_themselves_do_not_pass_a_null_candidate(
    people: int, each: int, alike: float
) -> None:
    """Each person prefers one version by chance; rows counted as independent pass up to 12 of 100 at this level."""
    draw, passes, level = random.Random(7), 0, 0.025
    spread = 0.5 * (1 - alike) / alike
    for _ in range(1000):
        likes = [draw.betavariate(spread, spread) for _ in range(people)]
        taught = [
            Pair("disliked", f"rater-{n}", 0.5, float(draw.random() < share))
            for n, share in enumerate(likes)
            for _ in range(each)
        ]
        wins, losses, _ = outcome(taught)
        worth = design_effect(taught)
        passes += win_rate_low(wins / worth, losses / worth, 1 - level) > 0.5
    assert passes / 1000 <= 0.04


def test_one_persons_comparisons_count_for_fewer_and_those_of_nobody_known_for_themselves() -> None:
    def said(rater: str, wins: int, losses: int) -> list[Pair]:
        return [Pair("disliked", rater, 0.5, 1.0)] * wins + [Pair("disliked", rater, 0.5, 0.0)] * losses

    assert design_effect(pairs("disliked", 0.0, 1.0, 40)) == 1.0
    assert design_effect(said("", 30, 10)) == 1.0
    assert design_effect(said("ada", 30, 10)) == pytest.approx(1 + 39 * 0.05)
    assert design_effect([*said("ada", 20, 0), *said("bob", 0, 20)]) == pytest.approx(20.0)
    of_one = judge(evidence(taught=tuple(said("ada", 16, 6))), POLICY)
    assert failed(of_one) == {"win_rate"}
    assert "(0 ties; as one person's resemble each other, they count as 11)" in of_one.reasons[0]


def test_the_report_has_one_hash_and_any_other_number_another() -> None:
    assert judge(evidence(), POLICY).evidence_hash == judge(evidence(), POLICY).evidence_hash
    assert judge(evidence(items=51), POLICY).evidence_hash != judge(evidence(), POLICY).evidence_hash
    assert (
        judge(evidence(), GatePolicy(held_out_rows_min=5)).evidence_hash
        != judge(evidence(), POLICY).evidence_hash
    )


def test_numbers_that_are_not_finite_are_stored_as_null() -> None:
    report = judge(evidence(kl_to_base=Estimate(1, 0.4, -math.inf, math.inf)), POLICY)
    assert report.to_json()["evidence"]["kl_to_base"]["high"] is None


@pytest.mark.parametrize(
    ("wins", "losses", "passes"),
    [(4, 0, False), (5, 0, True), (58, 42, False), (59, 41, True), (0, 0, False)],
)
def test_the_win_rate_bound_is_the_sign_test_at_five_percent(wins: int, losses: int, passes: bool) -> None:
    assert (win_rate_low(wins, losses, 0.95) > 0.5) is passes


@given(st.integers(0, 60), st.integers(0, 60))
def test_more_wins_never_lower_the_bound_and_more_losses_never_raise_it(wins: int, losses: int) -> None:
    here = win_rate_low(wins, losses, 0.95)
    assert win_rate_low(wins + 1, losses, 0.95) >= here
    assert win_rate_low(wins, losses + 1, 0.95) <= here


def test_scores_that_hardly_differ_are_ties() -> None:
    assert outcome([Pair("x", "r", 0.5, 0.505), Pair("x", "r", 0.5, 0.6), Pair("x", "r", 0.5, 0.1)]) == (
        1,
        1,
        1,
    )


def test_one_value_alone_bounds_nothing() -> None:
    assert estimate([1.0]).high == math.inf
    assert estimate([1.0, 1.0, 1.0]).high == pytest.approx(1.0)
