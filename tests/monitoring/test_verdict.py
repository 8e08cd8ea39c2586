from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import orjson
import pytest

from monitoring.outcomes import Outcomes, UnitOutcome
from monitoring.verdict import ExperimentPolicy, Verdict, decide

EVEN = ExperimentPolicy()
CANARY = ExperimentPolicy(weights={"champion": 0.9, "candidate": 0.1})
START = datetime(2026, 1, 1, tzinfo=UTC)


def bounds(verdict: Verdict) -> tuple[float, float, float]:
    """Low, difference, high of a verdict that has them."""
    assert verdict.low is not None
    assert verdict.difference is not None
    assert verdict.high is not None
    return verdict.low, verdict.difference, verdict.high


def people(
    units: int,
    *,
    up: tuple[float, float],
    share: float = 0.5,
    votes: tuple[float, float] = (0.6, 0.6),
    errors: tuple[float, float] = (0.0, 0.0),
    seed: int = 1,
) -> list[UnitOutcome]:
    """Units with 2 to 4 requests each; pairs are (champion, candidate)."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(units):
        side = int((number + 1) * share) - int(number * share)
        requests = int(rng.integers(2, 5))
        voted = int(rng.binomial(requests, votes[side]))
        ups = int(rng.binomial(voted, up[side]))
        failed = int(rng.binomial(requests, errors[side]))
        arm = ("champion", "candidate")[side]
        rows.append(UnitOutcome(f"rater-{number}", arm, requests, ups, voted - ups, failed))
    return rows


def test_nothing_seen_is_too_early() -> None:
    verdict = decide([], EVEN)
    assert verdict.state == "insufficient_data"
    assert verdict.difference is verdict.low is verdict.high is None


def test_before_fifty_units_per_arm_even_a_great_candidate_is_too_early() -> None:
    verdict = decide(people(98, up=(0.3, 0.9)), EVEN)
    assert verdict.state == "insufficient_data"
    assert "candidate has 49 raters" in verdict.sentence
    assert "needs 50" in verdict.sentence


def test_a_great_candidate_is_better_as_soon_as_each_arm_has_fifty_units() -> None:
    states = [decide(people(100, up=(0.3, 0.9), seed=seed), EVEN).state for seed in range(40)]
    assert states.count("better") >= 38
    verdict = decide(people(120, up=(0.3, 0.9)), EVEN)
    assert verdict.state == "better"
    assert bounds(verdict)[0] > 0
    assert verdict.sentence.startswith("Candidate is better than champion: net approval per request +")
    assert "60 and 60 raters" in verdict.sentence


def test_equal_arms_are_inconclusive() -> None:
    verdict = decide(people(1000, up=(0.7, 0.7)), EVEN)
    assert verdict.state == "inconclusive"
    assert bounds(verdict)[0] < 0 < bounds(verdict)[2]
    assert verdict.sentence.startswith("No winner between candidate and champion yet")


def test_a_candidate_that_is_voted_down_is_worse() -> None:
    verdict = decide(people(200, up=(0.9, 0.3)), EVEN)
    assert verdict.state == "worse"
    assert "failed or were voted down" in verdict.sentence


def test_a_candidate_that_loses_its_ups_is_worse_by_ratings_alone() -> None:
    policy = replace(EVEN, bad_odds_limit=20.0)
    verdict = decide(people(600, up=(0.9, 0.4)), policy)
    assert verdict.state == "worse"
    assert bounds(verdict)[2] < 0
    assert "net approval per request" in verdict.sentence


def test_a_small_win_below_the_demanded_effect_is_inconclusive() -> None:
    rows = people(4000, up=(0.6, 0.7))
    assert decide(rows, EVEN).state == "better"
    assert decide(rows, replace(EVEN, min_effect=0.2)).state == "inconclusive"


def test_during_the_burn_in_a_crashing_candidate_is_worse_at_once() -> None:
    rows = [UnitOutcome(f"a{n}", "champion", 2) for n in range(80)]
    rows += [UnitOutcome(f"b{n}", "candidate", 2, errors=2) for n in range(8)]
    verdict = decide(rows, CANARY)
    assert verdict.state == "worse"
    assert "8 of 8 raters met an error" in verdict.sentence


def test_a_few_errors_of_both_arms_trigger_nothing() -> None:
    verdict = decide(people(3000, share=0.1, up=(0.7, 0.7), errors=(0.02, 0.02)), CANARY)
    assert verdict.state == "inconclusive"
    assert not any(guardrail.fired for guardrail in verdict.guardrails)


def test_one_angry_rater_cannot_abort_a_canary() -> None:
    rows = people(1000, share=0.1, up=(0.8, 0.8))
    rows.append(UnitOutcome("angry", "candidate", 60, downs=60))
    assert decide(rows, CANARY).state != "worse"


def test_no_feedback_at_all_triggers_nothing() -> None:
    silent = people(400, up=(0.5, 0.5), votes=(0.0, 0.0))
    assert decide(silent, EVEN).state == "insufficient_data"


def test_a_candidate_whose_feedback_is_lost_is_not_called_worse() -> None:
    lost = decide(people(2000, up=(0.8, 0.8), votes=(0.6, 0.2)), EVEN)
    assert lost.state == "inconclusive"
    assert "check that feedback reaches both" in lost.sentence
    gone = decide(people(2000, up=(0.8, 0.8), votes=(0.6, 0.0)), EVEN)
    assert gone.state == "insufficient_data"


def test_fewer_votes_of_the_same_opinion_are_not_a_difference() -> None:
    verdict = decide(people(8000, up=(0.80, 0.81), votes=(0.6, 0.5)), EVEN)
    assert verdict.state == "inconclusive"
    assert "who votes may have changed" in verdict.sentence


def test_a_broken_split_is_never_better() -> None:
    rows = [row for row in people(2000, up=(0.3, 0.9)) if row.arm == "champion" or int(row.unit[6:]) % 3]
    verdict = decide(rows, EVEN)
    assert verdict.sample_ratio.broken
    assert verdict.state == "inconclusive"
    assert "split is broken" in verdict.sentence
    assert "candidate has 667 raters where 834 were expected" in verdict.sentence


def test_rows_lost_from_the_control_do_not_abort_the_candidate() -> None:
    rows = people(2000, up=(0.7, 0.7))
    kept = [row for row in rows if row.arm == "candidate" or int(row.unit[6:]) % 3]
    assert decide(kept, EVEN).state == "inconclusive"


def ramp(steps: tuple[float, ...], per_step: int, *, up: tuple[float, ...]) -> list[UnitOutcome]:
    """New units at every step, with the step's propensity logged; approval changes over time, not between arms."""
    rng = np.random.default_rng(3)
    rows = []
    for step, (share, rate) in enumerate(zip(steps, up, strict=True)):
        for number in range(per_step):
            inside = rng.random() < share
            ups = int(rng.binomial(3, rate))
            propensity = share if inside else 1 - share
            arm = "candidate" if inside else "champion"
            rows.append(UnitOutcome(f"{step}-{number}", arm, 3, ups, 3 - ups, propensity=propensity))
    return rows


def test_a_ramp_in_steps_is_judged_by_its_logged_propensities() -> None:
    rows = ramp((0.01, 0.05, 0.1, 0.25, 0.5), 1000, up=(0.7,) * 5)
    logged = decide(rows, EVEN)
    assert not logged.sample_ratio.broken
    assert logged.sample_ratio.expected["candidate"] == pytest.approx(910)
    forgotten = decide([replace(row, propensity=None) for row in rows], EVEN)
    assert forgotten.sample_ratio.broken


def test_a_change_over_time_is_not_mistaken_for_a_difference_between_arms() -> None:
    """Approval falls from 90% to 50% while the candidate's share rises: pooled, the candidate looks far worse."""
    rows = ramp((0.05, 0.5), 4000, up=(0.9, 0.5))
    verdict = decide(rows, EVEN)
    pooled = {arm.arm: (arm.ups - arm.downs) / arm.requests for arm in verdict.arms}
    assert pooled["candidate"] - pooled["champion"] < -0.2
    assert verdict.state == "inconclusive"
    assert abs(bounds(verdict)[1]) < 0.05


def test_a_unit_that_moves_to_the_candidate_has_its_first_bad_answer_once() -> None:
    moved = [
        UnitOutcome("a", "champion", 1, downs=1, propensity=0.9, met_at=START, bad_at=START),
        UnitOutcome("a", "candidate", 1, downs=1, propensity=0.5, met_at=START + timedelta(hours=1)),
    ]
    seen = Outcomes.of(moved, EVEN.weights)
    assert seen.first_bad.tolist() == [True, False]
    assert seen.met.tolist() == [True, False]


def test_three_arms_are_compared_two_by_two() -> None:
    policy = ExperimentPolicy(weights={"champion": 1, "candidate": 1, "other": 1})
    rows = people(400, up=(0.3, 0.9))
    rows += [UnitOutcome(f"o{n}", "other", 3, ups=2, downs=1) for n in range(200)]
    verdict = decide(rows, policy)
    assert verdict.state == "better"
    assert [arm.arm for arm in verdict.arms] == ["champion", "candidate", "other"]


def test_the_order_of_outcomes_does_not_matter() -> None:
    rows = people(300, up=(0.5, 0.6))
    assert decide(rows[::-1], EVEN) == decide(rows, EVEN)


def test_a_verdict_is_plain_json() -> None:
    verdict = decide(people(300, up=(0.5, 0.6)), EVEN)
    told = orjson.loads(orjson.dumps(verdict))
    assert told["state"] == verdict.state
    assert {arm["arm"] for arm in told["arms"]} == {"champion", "candidate"}
    assert all(arm["coverage"] == pytest.approx(0.6, abs=0.1) for arm in told["arms"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (UnitOutcome("a", "stranger", 1), "arm 'stranger'"),
        (UnitOutcome("a", "champion", -1), "cannot be negative"),
        (UnitOutcome("a", "champion", 1, propensity=0.0), "propensity 0.0"),
    ],
)
def test_outcomes_that_cannot_be_are_refused_with_the_value(row: UnitOutcome, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        decide([row], EVEN)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 0.0}, "alpha is 0.0"),
        ({"control": "king"}, "control is 'king'"),
        ({"candidate": "champion"}, "expected two arms"),
        ({"weights": {"champion": -1.0, "candidate": 1.0}}, "none below 0"),
        ({"units_min": 1}, "units_min is 1"),
        ({"bad_odds_limit": 0.5}, "at least 1"),
    ],
)
def test_a_policy_that_cannot_be_is_refused_with_the_value(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExperimentPolicy(**change)
