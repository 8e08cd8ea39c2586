"""Measure splits with several candidates: false verdicts, the intervals' coverage, and what adapting spares people.

    python -m tests.bench.arms [--quick] [--seed N]

Whole rollouts are played on the functions that decide in the product: `monitoring.allocation` opens the adaptive slice,
`feedback.allocations` makes the shares, and verdicts come from `monitoring.verdict.judge` on `monitoring.totals`, at
every one of `LOOKS` looks. People come once each, ask a few times, and their requests resemble each other. The last
line of each world compares the net approval that people lost, against the best arm for everybody, with an equal split.
Exits 1 if a promise is not kept.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from feedback.allocations import open_evenly, shares_of
from monitoring.allocation import open_by_merit
from monitoring.outcomes import UnitOutcome
from monitoring.totals import Totals
from monitoring.verdict import ExperimentPolicy, Verdict, judge
from tests.bench.verdicts import Report

STEPS = (0.05, 0.1, 0.25, 0.5)
PARTS = 4
LOOKS = 16
UNIFORM = 0.5
ICC = 0.2
Pieces = list[tuple[str, float]]


@dataclass(frozen=True)
class World:
    """What people think of the champion and of each candidate: the chance that a vote is up."""

    approval: tuple[float, ...]
    units: int = 4_000
    coverage: float = 0.6
    requests_mean: float = 3.0

    @property
    def arms(self) -> tuple[str, ...]:
        return ("champion", *(f"candidate-{number}" for number in range(1, len(self.approval))))


@dataclass(frozen=True)
class Played:
    """One rollout: verdicts of every look by candidate, and net approval lost per request."""

    verdicts: list[dict[str, Verdict]]
    lost: float
    lost_to_adapting: float


def play(world: World, rule: str, rng: np.random.Generator) -> Played:
    """One rollout, a look after every sixteenth of the people; each look may open more of either slice."""
    weights = {arm: 1.0 / len(world.arms) for arm in world.arms}
    policy = ExperimentPolicy(weights=weights, candidate=world.arms[1])
    totals = Totals(world.arms, "champion")
    pieces: dict[bool, Pieces] = {
        True: open_evenly([], world.arms[1:], STEPS[0]),
        False: open_evenly([], world.arms[1:], STEPS[0]),
    }
    truth = dict(zip(world.arms, world.approval, strict=True))
    best, lost, lost_adaptive, requests, requests_adaptive = max(world.approval), 0.0, 0.0, 0, 0
    found: list[dict[str, Verdict]] = []
    for look in range(LOOKS):
        rows = []
        shares = {side: shares_of(pieces[side], world.arms, rest="champion") for side in (True, False)}
        for number in range(world.units // LOOKS):
            uniform = rng.random() < UNIFORM
            arm, row = _person(f"{look}-{number}", world, truth, pieces[uniform], rng)
            rows.append(
                replace(row, shares=tuple(shares[uniform][name] for name in world.arms), decides=uniform)
            )
            regret = 2.0 * world.coverage * (best - truth[arm]) * row.requests
            lost, requests = lost + regret, requests + row.requests
            if not uniform:
                lost_adaptive, requests_adaptive = lost_adaptive + regret, requests_adaptive + row.requests
        totals.add(rows, weights)
        found.append(judge_all(totals, policy))
        _open(pieces, totals, world, rule, look, int(rng.integers(2**62)))
    return Played(found, lost / requests, lost_adaptive / max(requests_adaptive, 1))


def judge_all(totals: Totals, policy: ExperimentPolicy) -> dict[str, Verdict]:
    """As `retrain.rollout_arms` does: an even part of the error rates each."""
    many = len(totals.arms) - 1
    return {
        arm: judge(
            totals,
            replace(
                policy,
                candidate=arm,
                alpha=policy.alpha / many,
                guardrail_alpha=policy.guardrail_alpha / many,
            ),
        )
        for arm in totals.arms[1:]
    }


def _person(
    name: str, world: World, truth: dict[str, float], pieces: Pieces, rng: np.random.Generator
) -> tuple[str, UnitOutcome]:
    position, edge, arm = rng.random(), 0.0, "champion"
    for owner, width in pieces:
        edge += width
        if position < edge:
            arm = owner
            break
    requests = int(rng.geometric(1.0 / world.requests_mean))
    precision = 1.0 / ICC - 1.0
    likes = rng.beta(truth[arm] * precision, (1.0 - truth[arm]) * precision)
    votes = int(rng.binomial(requests, world.coverage))
    ups = int(rng.binomial(votes, likes))
    return arm, UnitOutcome(name, arm, requests, ups, votes - ups)


def _open(pieces: dict[bool, Pieces], totals: Totals, world: World, rule: str, look: int, seed: int) -> None:
    """After every fourth look a step; in between, parts of the adaptive slice."""
    step = min(look // (LOOKS // len(STEPS)), len(STEPS) - 1)
    following = min((look + 1) // (LOOKS // len(STEPS)), len(STEPS) - 1)
    if following > step:
        pieces[True] = open_evenly(pieces[True], world.arms[1:], STEPS[following] - STEPS[step])
    width = (STEPS[following] - STEPS[max(following - 1, 0)]) / PARTS
    opened = sum(part for _, part in pieces[False])
    if following and opened < STEPS[following] - 1e-9:
        sums = {arm: totals.everybody(arm) for arm in world.arms}
        pieces[False] = open_by_merit(pieces[False], sums, rule, width, seed=seed)


def false_verdicts(report: Report, many: int, rng: np.random.Generator) -> None:
    """All arms equal: no candidate may be called better, or worse, more often than the policy says for all together."""
    for candidates, rule in ((2, "top-two"), (4, "top-two"), (3, "thompson")):
        world = World((0.7,) * (candidates + 1), units=3_200)
        better = worse = missed = broken = 0
        for _ in range(many):
            states = play(world, rule, rng).verdicts
            seen = [one for look in states for one in look.values()]
            better += any(one.state == "better" for one in seen)
            worse += any(one.state == "worse" for one in seen)
            missed += any(one.low is not None and not one.low <= 0 <= (one.high or 0) for one in seen)
            broken += any(one.sample_ratio.broken for one in seen)
        name = f"{candidates} equal candidates, {rule}"
        report.line(
            f"{name}: any ever called better",
            f"{better / many:.2%} of {many}",
            "<= 5%",
            better <= 0.05 * many,
        )
        report.line(
            f"{name}: any ever called worse", f"{worse / many:.2%} of {many}", "<= 1%", worse <= 0.01 * many
        )
        report.line(
            f"{name}: an interval ever missed 0", f"{missed / many:.2%}", "<= 5%", missed <= 0.05 * many
        )
        report.line(f"{name}: split called broken", f"{broken}", "0", broken == 0)


def coverage_and_regret(report: Report, many: int, rng: np.random.Generator) -> None:
    """Candidates differ: do all intervals of all looks hold the true differences, and what does adapting spare?"""
    worlds = (
        ("one of three is 10 points better", World((0.7, 0.8, 0.7, 0.7))),
        ("one of three is 10 points worse", World((0.7, 0.7, 0.7, 0.6))),
        ("5 better, equal, 10 worse", World((0.7, 0.75, 0.7, 0.6))),
        ("all three are 10 points worse", World((0.7, 0.6, 0.6, 0.6))),
    )
    for name, world in worlds:
        equal = np.mean([play(world, "equal", rng).lost_to_adapting for _ in range(many)])
        for rule in ("thompson", "top-two"):
            played = [play(world, rule, rng) for _ in range(many)]
            missed = sum(not _covers(one, world) for one in played)
            won = np.mean([_wins(one, world) for one in played])
            report.line(
                f"{name}, {rule}: an interval ever missed the truth",
                f"{missed / many:.2%} of {many}",
                "<= 5%",
                missed <= 0.05 * many,
            )
            lost = np.mean([one.lost_to_adapting for one in played])
            report.line(
                f"  points lost per request where it adapts, against {100 * equal:.2f} when equal",
                f"{100 * lost:.2f} ({lost / equal - 1.0:+.0%}); best found {won:.0%}",
            )


def _covers(played: Played, world: World) -> bool:
    """Whether every interval of every look holds the true difference of its candidate."""
    for look in played.verdicts:
        for (_, one), approval in zip(look.items(), world.approval[1:], strict=True):
            truth = 2.0 * world.coverage * (approval - world.approval[0])
            if one.low is not None and one.high is not None and not one.low <= truth <= one.high:
                return False
    return True


def _wins(played: Played, world: World) -> bool:
    best = world.arms[int(np.argmax(world.approval))]
    return best != "champion" and any(look[best].state == "better" for look in played.verdicts)


def main(arguments: Sequence[str]) -> int:
    """Print every measurement; 1 if a promise was broken."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.arms", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="A tenth of the rollouts, for a look.")
    parser.add_argument("--rollouts", type=int, default=400, help="Rollouts of equal candidates, per line.")
    parser.add_argument("--seed", type=int, default=2026)
    chosen = parser.parse_args(arguments)
    rng, report = np.random.default_rng(chosen.seed), Report()
    many = chosen.rollouts // 10 if chosen.quick else chosen.rollouts
    false_verdicts(report, many, rng)
    coverage_and_regret(report, max(many // 8, 4), rng)
    print(f"{report.broken} promises broken." if report.broken else "All promises kept.")
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
