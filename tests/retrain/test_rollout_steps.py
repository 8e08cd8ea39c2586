"""When a rollout takes its next step, and in which words it says what it waits for."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from feedback.errors import HoneError
from feedback.experiments import Arm, Experiment
from feedback.policy import RolloutPolicy, read_policy
from monitoring.outcomes import UnitOutcome
from monitoring.verdict import ExperimentPolicy, Verdict, decide
from retrain.rollout_steps import next_step

MONDAY_NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
POLICY = RolloutPolicy(steps=(0.1, 0.5), step_seconds_min=60, step_units_min=10, step_requests_min=20)


def split(step: int = 0, *, opened: datetime = MONDAY_NOON - timedelta(hours=1)) -> Experiment:
    return Experiment(
        experiment_id="exp-1",
        project="default",
        model="support",
        status="running",
        salt="salt",
        step=step,
        policy_version="p",
        verdict=None,
        outcome=None,
        reason=None,
        started_at=opened,
        step_started_at=opened,
        ended_at=None,
        arms=(Arm("champion", "a", 0.9), Arm("candidate", "b", 0.1)),
    )


def seen(units: int, requests: int) -> Verdict:
    rows = [UnitOutcome(f"u{n}", "candidate", requests, propensity=0.1) for n in range(units)]
    rows += [UnitOutcome(f"c{n}", "champion", requests, propensity=0.9) for n in range(9 * units)]
    return decide(rows, ExperimentPolicy(weights={"champion": 0.9, "candidate": 0.1}))


def test_a_step_that_was_open_long_enough_and_met_enough_is_followed_by_the_next() -> None:
    step = next_step(split(), POLICY, seen(10, 2), now=MONDAY_NOON)
    assert (step.index, step.share) == (1, 0.5)


def test_what_is_missing_is_said_with_its_number() -> None:
    step = next_step(split(opened=MONDAY_NOON), POLICY, seen(4, 3), now=MONDAY_NOON + timedelta(seconds=20))
    assert step.index is None
    assert step.waiting_for == (
        "The next step, 50%, waits for 40 more seconds and 6 more raters and 8 more requests."
    )


def test_after_the_last_step_only_a_decision_is_left() -> None:
    step = next_step(split(step=1), POLICY, seen(50, 5), now=MONDAY_NOON)
    assert step.index is None and "promote the candidate, or abort it" in step.waiting_for


@pytest.mark.parametrize(
    ("window", "timezone", "open_now"),
    [
        ("mon-fri 09:00-17:00", "UTC", True),
        ("mon-fri 09:00-12:00", "UTC", False),
        ("sat 00:00-23:59", "UTC", False),
        ("fri-mon 00:00-23:59", "UTC", True),
        ("mon 12:30-14:00", "Europe/Berlin", True),
    ],
)
def test_traffic_is_raised_only_inside_the_windows_of_the_policy(
    window: str, timezone: str, open_now: bool
) -> None:
    policy = RolloutPolicy(**(POLICY.model_dump() | {"windows": (window,), "timezone": timezone}))
    step = next_step(split(), policy, seen(10, 2), now=MONDAY_NOON)
    assert (step.index is not None) is open_now
    assert open_now or window in step.waiting_for


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"windows": ["weekdays 9-17"]}, "mon-fri 09:00-17:00"),
        ({"windows": ["mon 17:00-09:00"]}, "past midnight as two"),
        ({"windows": ["mon 25:00-26:00"]}, "no clock shows"),
        ({"timezone": "Mars/Base"}, "Europe/Berlin"),
        ({"steps": [0.1, 0.5], "pause_at": [0.2]}, "which are no steps"),
        ({"guardrails": {"pausing": ["moon"]}}, "bad_answers"),
    ],
)
def test_a_policy_that_cannot_hold_says_what_was_expected(changes: dict[str, object], says: str) -> None:
    with pytest.raises(HoneError, match=says):
        read_policy({"rollout": changes})


def test_a_broken_split_is_waited_for_even_when_a_person_resumed() -> None:
    broken = replace(seen(10, 2), sample_ratio=replace(seen(10, 2).sample_ratio, broken=True))
    step = next_step(split(), POLICY, broken, now=MONDAY_NOON)
    assert step.waiting_for == "The next step, 50%, waits for a split that holds."
