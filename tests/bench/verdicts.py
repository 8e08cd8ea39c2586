"""Measure how often verdicts are wrong, and how soon they are right, on simulated people who are looked at constantly.

    python -m tests.bench.verdicts [--quick] [--seed N]

Whole experiments run side by side as arrays, on the functions of `monitoring.sequential` that decide in the product;
some are handed to `monitoring.verdict.decide` at their end, and the two must agree. Exits 1 if a promise is not kept.
It measures the statistics, not the taste of people: raters here are beta-distributed around an arm's rate.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import log
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitoring.evidence import BAD_ANSWERS_PRIOR, SAMPLE_RATIO_PRIOR
from monitoring.outcomes import UnitOutcome
from monitoring.sequential import RatioSums, design_effect, difference_margin, share_log_bayes_factor
from monitoring.verdict import ExperimentPolicy, decide
from serving.routing import bucket

Array = NDArray[Any]
SPLIT_LIMIT = log(1 / ExperimentPolicy().sample_ratio_alpha)


@dataclass(frozen=True)
class World:
    """People and what they think. Rates are of all requests that got a vote; `bad` of all requests."""

    units: int
    share: float = 0.5
    approval: tuple[float, float] = (0.7, 0.7)  # control, candidate
    coverage: float = 1.0
    bad: tuple[float, float] | None = (
        None  # guardrail only: every bad answer is voted down, nothing else is voted on
    )
    icc: float = 0.2
    requests_mean: float = 5.0
    visit: float = 0.2  # share of the whole experiment over which one unit spreads its requests


@dataclass
class Experiments:
    """Many experiments at one moment: (experiments, units) counts so far."""

    candidate: Array
    requests: Array
    ups: Array
    downs: Array

    def only(self, which: Array) -> "Experiments":
        if len(which) == len(self.requests):
            return self
        return Experiments(self.candidate[which], self.requests[which], self.ups[which], self.downs[which])


def run(world: World, experiments: int, looks: int, rng: np.random.Generator) -> Iterator[Experiments]:
    """Play experiments side by side and show them after every batch of requests."""
    shape = (experiments, world.units)
    candidate = rng.random(shape) < world.share
    n = rng.geometric(1.0 / world.requests_mean, shape)
    rates = world.bad or world.approval
    rate = np.where(candidate, rates[1], rates[0])
    if world.icc > 0:
        precision = 1.0 / world.icc - 1.0
        rate = rng.beta(rate * precision, (1.0 - rate) * precision)
    cell = np.repeat(np.arange(n.size), n.ravel())
    arrival = np.broadcast_to(np.arange(world.units) / world.units * (1.0 - world.visit), shape)
    at = arrival.ravel()[cell] + world.visit * rng.random(cell.size)
    good = rng.random(cell.size) < rate.ravel()[cell]
    down = good if world.bad else ~good
    voted = down if world.bad else rng.random(cell.size) < world.coverage
    look = np.minimum((at * looks).astype(np.int64), looks - 1)
    order = np.argsort(look, kind="stable")
    cell, down, voted = cell[order], down[order], voted[order]
    edges = np.searchsorted(look[order], np.arange(looks + 1))
    seen = Experiments(candidate, *(np.zeros(shape) for _ in range(3)))
    for first, last in pairwise(edges):
        now, vote, bad = cell[first:last], voted[first:last], down[first:last]
        for counts, which in (
            (seen.requests, now),
            (seen.ups, now[vote & ~bad]),
            (seen.downs, now[vote & bad]),
        ):
            counts += np.bincount(which, minlength=counts.size).reshape(shape)
        yield seen


@dataclass(frozen=True)
class Calls:
    """What the tests say of every experiment at one moment, (experiments,) each."""

    better: Array
    worse: Array
    canary_requests: Array
    units: Array


def judge(seen: Experiments, policy: ExperimentPolicy, share: float) -> Calls:
    """`monitoring.verdict.decide` for many experiments at once, without split and coverage checks or errors."""

    def sums(top: Array, below: Array) -> tuple[RatioSums, RatioSums]:
        return (
            RatioSums.of(top * seen.candidate, below * seen.candidate),
            RatioSums.of(top * ~seen.candidate, below * ~seen.candidate),
        )

    votes, net = seen.ups + seen.downs, seen.ups - seen.downs
    compared, rated = sums(net, seen.requests), sums(net, votes)
    difference = compared[0].ratio - compared[1].ratio

    def margin(arms: tuple[RatioSums, RatioSums], alpha: float) -> Array:
        return difference_margin(
            (arms[0].units, arms[1].units),
            (arms[0].cautious_variance, arms[1].cautious_variance),
            alpha=alpha,
            tightest_at=policy.tightest_at_units,
        )

    grown = np.minimum(compared[0].units, compared[1].units) >= policy.units_min
    enough = grown & (np.minimum(rated[0].units, rated[1].units) >= policy.rated_units_min)
    per_vote = rated[0].ratio - rated[1].ratio
    better = enough & (difference - margin(compared, policy.alpha) > policy.min_effect)
    better &= per_vote - margin(rated, policy.alpha) > 0
    harm_alpha = 2 * policy.harm_alpha("ratings")
    by_ratings = enough & (difference + margin(compared, harm_alpha) < -policy.harm_limit)
    by_ratings &= per_vote + margin(rated, harm_alpha) < 0
    bad = sums(seen.downs, seen.requests)
    effect = design_effect(bad)
    requests = np.maximum(bad[0].n + bad[1].n, 1.0)
    counted = evidence(bad[0].y / effect, bad[1].y / effect, np.clip(bad[0].n / requests, 1e-9, 1 - 1e-9))
    once = [np.count_nonzero((seen.downs > 0) & arm, axis=1) for arm in (seen.candidate, ~seen.candidate)]
    by_count = grown & (counted >= log(1 / policy.harm_alpha("bad_answers")))
    by_unit = evidence(once[0], once[1], np.full(len(once[0]), share))
    worse = by_ratings | by_count | (by_unit >= log(1 / policy.harm_alpha("units_with_bad_answers")))
    return Calls(better & ~worse, worse, bad[0].n, compared[0].units + compared[1].units)


def evidence(inside: Array, outside: Array, share: Array) -> Array:
    return share_log_bayes_factor(inside[:, None], outside[:, None], share[:, None], BAD_ANSWERS_PRIOR)


@dataclass(frozen=True)
class First:
    """At which count each experiment was first called so (infinite: never), and how many ends `decide` disputed."""

    better_units: Array
    worse_units: Array
    worse_canary_requests: Array
    disputed: int


def first_calls(world: World, experiments: int, looks: int, rng: np.random.Generator) -> First:
    policy = ExperimentPolicy(weights={"champion": 1.0 - world.share, "candidate": world.share})
    batch = max(1, 200_000 // world.units)
    parts: list[First] = []
    for start in range(0, experiments, batch):
        size = min(batch, experiments - start)
        better, worse, canary = (np.full(size, np.inf) for _ in range(3))
        disputed = 0
        for moment, seen in enumerate(run(world, size, looks, rng)):
            running = np.flatnonzero(np.isinf(worse))
            if not running.size:
                break
            calls = judge(seen.only(running), policy, world.share)
            better[running] = np.where(
                calls.better, np.minimum(better[running], calls.units), better[running]
            )
            canary[running] = np.where(calls.worse, calls.canary_requests, np.inf)
            worse[running] = np.where(calls.worse, calls.units, np.inf)
            if moment in (looks // 10, looks // 2, looks - 1):
                disputed += verdict_of(seen, policy, running[0]) != (calls.better[0], calls.worse[0])
        parts.append(First(better, worse, canary, disputed))
    return First(
        better_units=np.concatenate([part.better_units for part in parts]),
        worse_units=np.concatenate([part.worse_units for part in parts]),
        worse_canary_requests=np.concatenate([part.worse_canary_requests for part in parts]),
        disputed=sum(part.disputed for part in parts),
    )


def verdict_of(seen: Experiments, policy: ExperimentPolicy, index: int) -> tuple[bool, bool]:
    rows = [
        UnitOutcome(str(unit), "candidate" if inside else "champion", int(n), int(up), int(down))
        for unit, (inside, n, up, down) in enumerate(
            zip(seen.candidate[index], seen.requests[index], seen.ups[index], seen.downs[index], strict=True)
        )
        if n
    ]
    state = decide(rows, policy).state
    return state == "better", state == "worse"


def split_alarms(
    steps: Sequence[float], experiments: int, units: int, rng: np.random.Generator, lost: float = 0.0
) -> Array:
    """Units until the sample-ratio test fires, looked at every 25 units; `lost` of the candidate's never arrive.

    Raters lie where the gateway's own hash puts them, under a salt of their own in every experiment.
    """
    share = np.repeat(steps, units // len(steps))
    group = np.repeat(np.arange(len(steps)), units // len(steps))
    salts = rng.integers(2**62, size=experiments)
    places = (bucket(str(salt), f"rater-{unit}") for salt in salts for unit in range(len(share)))
    inside = np.fromiter(places, float, experiments * len(share)).reshape(experiments, -1) < share
    arrived = ~(inside & (rng.random(inside.shape) < lost))
    alarm = np.full(experiments, np.inf)
    totals = [
        np.stack([(rows & (group == step)).cumsum(axis=1) for step in range(len(steps))], axis=2)
        for rows in (inside & arrived, ~inside & arrived)
    ]
    for last in range(25, len(share) + 1, 25):
        counts = [total[:, last - 1] for total in totals]
        evidence = share_log_bayes_factor(counts[0], counts[1], np.asarray(steps), SAMPLE_RATIO_PRIOR)
        alarm = np.where((evidence >= SPLIT_LIMIT) & np.isinf(alarm), last, alarm)
    return alarm


def exact_split_alarm(steps: Sequence[float], units: int) -> float:
    """The probability that a right split is ever called broken, looked at after every unit: summed, not simulated.

    The evidence depends on how many raters are in the candidate's arm, whichever step they came in. So it is enough to
    follow how likely each count is, and to take out what reaches the alarm.
    """
    share = np.repeat(steps, units // len(steps))
    seen = np.stack([np.cumsum(share == step) for step in steps], axis=1)
    middle = np.cumsum(share)
    low = _last_alarm(seen, steps, np.full(len(share), -1.0), middle)
    high = _last_alarm(seen, steps, np.arange(len(share)) + 2.0, middle)
    chance, alarmed, counts = np.zeros(len(share) + 2), 0.0, np.arange(len(share) + 2)
    chance[0] = 1.0
    for number, here in enumerate(share):
        chance[1:] = chance[1:] * (1.0 - here) + chance[:-1] * here
        chance[0] *= 1.0 - here
        fired = (counts <= low[number]) | (counts >= high[number])
        alarmed += float(chance[fired].sum())
        chance[fired] = 0.0
    return alarmed


def _last_alarm(seen: Array, steps: Sequence[float], alarmed: Array, quiet: Array) -> Array:
    """By bisection, for every look: the count nearest to the expected one that is an alarm, from one side."""
    for _ in range(int(np.log2(len(seen))) + 2):
        counts = np.rint((alarmed + quiet) / 2.0)
        inside = np.zeros(seen.shape)
        inside[:, 0] = counts
        evidence = share_log_bayes_factor(inside, seen - inside, np.asarray(steps), SAMPLE_RATIO_PRIOR)
        fires = evidence >= SPLIT_LIMIT
        alarmed, quiet = np.where(fires, counts, alarmed), np.where(fires, quiet, counts)
    return alarmed


class Report:
    """Prints one line per measurement and remembers which promises were broken."""

    def __init__(self) -> None:
        self.broken = 0
        self.started = time.monotonic()

    def line(self, what: str, measured: str, goal: str = "", kept: bool = True) -> None:
        self.broken += not kept
        mark = "" if not goal else ("kept" if kept else "BROKEN")
        print(
            f"{time.monotonic() - self.started:6.1f}s  {what:<66} {measured:<34} {goal:<14} {mark}",
            flush=True,
        )


def measure_null(report: Report, experiments: int, rng: np.random.Generator) -> None:
    for share, approval, coverage in ((0.5, 0.7, 0.6), (0.1, 0.7, 0.6), (0.1, 0.95, 0.2)):
        world = World(2_000, share=share, approval=(approval, approval), coverage=coverage)
        found = first_calls(world, experiments, 80, rng)
        better, worse = np.isfinite(found.better_units).mean(), np.isfinite(found.worse_units).mean()
        name = f"equal, {share:.0%} of traffic, {approval:.0%} up, {coverage:.0%} vote, ICC 0.2"
        report.line(f"{name}: false better", f"{better:.2%} of {experiments}", "<= 5%", better <= 0.05)
        report.line(f"{name}: false worse", f"{worse:.2%} of {experiments}", "<= 1%", worse <= 0.01)
        report.line("  `decide` disagrees with the simulation", f"{found.disputed}", "0", found.disputed == 0)


def measure_power(report: Report, experiments: int, rng: np.random.Generator) -> None:
    for coverage, goal in ((1.0, True), (0.6, False), (0.3, False)):
        found = first_calls(World(3_000, approval=(0.7, 0.75), coverage=coverage), experiments, 60, rng)
        power = np.isfinite(found.better_units).mean()
        median = np.median(found.better_units)
        report.line(
            f"+5 points of approval, 50%, {coverage:.0%} of requests get a vote, 3,000 raters",
            f"{power:.1%} found, median {median:.0f}",
            ">= 90%" if goal else "",
            power >= 0.9 or not goal,
        )


def measure_abort(report: Report, experiments: int, rng: np.random.Generator) -> None:
    for worse, icc, mean, goal in (
        (0.10, 0.0, 5.0, True),
        (0.10, 0.0, 2.0, True),
        (0.10, 0.2, 2.0, False),
        (0.10, 0.2, 5.0, False),
        (0.25, 0.2, 5.0, False),
        (0.05, 0.0, 5.0, False),
    ):
        world = World(int(10_000 / mean), share=0.1, bad=(0.05, worse), icc=icc, requests_mean=mean)
        found = first_calls(world, experiments, 200, rng)
        stopped = np.isfinite(found.worse_canary_requests).mean()
        median = np.median(found.worse_canary_requests)
        report.line(
            f"bad answers 5% -> {worse:.0%}, 10% canary, {mean:.0f} requests per rater, ICC {icc}",
            f"{stopped:.1%} aborted, median {median:.0f}",
            "<= 300" if goal else "",
            median <= 300 or not goal,
        )


def measure_split(report: Report, experiments: int, rng: np.random.Generator) -> None:
    level = ExperimentPolicy().sample_ratio_alpha
    for steps in ((0.5,), (0.1,), (0.01, 0.05, 0.1, 0.25, 0.5)):
        name = ", ".join(f"{step:.0%}" for step in steps)
        alarms = np.isfinite(split_alarms(steps, experiments, 5_000, rng)).sum()
        report.line(f"right split {name}: false alarms", f"{alarms} of {experiments}", "0", alarms == 0)
        chance = exact_split_alarm(steps, 5_000)
        report.line(
            "  its exact probability, looked at 5,000 times",
            f"{chance:.1e}",
            f"<= {level:.0e}",
            chance <= level,
        )
    for share, lost in ((0.5, 0.15), (0.1, 0.3)):
        found = split_alarms((share,), 100, 10_000, rng, lost=lost)
        report.line(
            f"{lost:.0%} of the candidate's raters lost, {share:.0%}: alarm",
            f"{np.isfinite(found).mean():.0%}, median {np.median(found):.0f}",
        )


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.verdicts", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="A tenth of the experiments, for a look.")
    parser.add_argument("--seed", type=int, default=2026)
    chosen = parser.parse_args(arguments)
    rng, report = np.random.default_rng(chosen.seed), Report()
    many = 100 if chosen.quick else 1_000
    measure_null(report, many, rng)
    measure_power(report, many // 5, rng)
    measure_abort(report, many // 2, rng)
    measure_split(report, many, rng)
    print(f"{report.broken} promises broken." if report.broken else "All promises kept.")
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
