"""What a rollout does next: pause, take its next step, or wait, and for what.

Pure: the clock and the numbers come in, nothing is read or written.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from feedback.experiments import CANDIDATE_ARM, Experiment
from feedback.policy import RolloutPolicy
from monitoring.verdict import ArmNumbers, Verdict


@dataclass(frozen=True, slots=True)
class Cause:
    """Why a rollout should pause: a name that a person's resume remembers, and a sentence."""

    name: str
    sentence: str


@dataclass(frozen=True, slots=True)
class NextStep:
    """The step to go to and its share of units; or None, and `waiting_for` says what is missing."""

    index: int | None
    share: float
    waiting_for: str


def causes_to_pause(experiment: Experiment, policy: RolloutPolicy, verdict: Verdict) -> list[Cause]:
    """Everything that asks for a person's look before the candidate gets more traffic."""
    causes = [
        Cause(guardrail.name, guardrail.sentence)
        for guardrail in verdict.guardrails
        if guardrail.fired and guardrail.action == "pause"
    ]
    if verdict.sample_ratio.broken:
        causes.insert(0, Cause("sample_ratio", verdict.sample_ratio.sentence))
    opened = policy.steps[min(experiment.step, len(policy.steps) - 1)]
    share = experiment.arm(CANDIDATE_ARM).weight if experiment.allocation is None else opened
    if share in policy.pause_at:
        causes.append(Cause(f"step {share:g}", f"The policy pauses every rollout at {share:.0%}."))
    return causes


def next_step(
    experiment: Experiment,
    policy: RolloutPolicy,
    verdict: Verdict,
    *,
    now: datetime,
    arm: str = CANDIDATE_ARM,
) -> NextStep:
    """The step that is due.

    A step is done when it has been open for `step_seconds_min`, and as many units have met the candidate, and as many
    requests were answered by it, as the policy asks for each step so far. A split that does not hold is not widened.
    """
    following = experiment.step + 1
    if following >= len(policy.steps):
        return NextStep(None, 0.0, "The last step is reached: promote the candidate, or abort it.")
    share = policy.steps[following]
    candidate = next(one for one in verdict.arms if one.arm == arm)
    missing = list(_missing(experiment, policy, verdict, candidate, now))
    if missing:
        return NextStep(None, share, f"The next step, {share:.0%}, waits for {' and '.join(missing)}.")
    return NextStep(following, share, "")


def _missing(
    experiment: Experiment, policy: RolloutPolicy, verdict: Verdict, candidate: ArmNumbers, now: datetime
) -> Iterator[str]:
    following = experiment.step + 1
    if verdict.sample_ratio.broken:
        yield "a split that holds"
    open_seconds = (now - experiment.step_started_at).total_seconds()
    if (seconds := policy.step_seconds_min - open_seconds) > 0:
        yield f"{seconds:.0f} more seconds" if seconds < 120 else f"{seconds / 60:.0f} more minutes"
    if (units := policy.step_units_min * following - candidate.units) > 0:
        yield f"{units} more raters"
    if (requests := policy.step_requests_min * following - candidate.exposed) > 0:
        yield f"{requests} more requests"
    if not policy.may_widen(now):
        yield f"the next of its windows ({', '.join(policy.windows)}; {policy.timezone})"
