"""Measure how often guardrails and the champion watch cry wolf, and how soon they find harm, on simulated people.

    python -m tests.bench.guardrails [--quick] [--seed N]

Latencies and lengths are log-normal with heavy tails and belong to their raters; events cluster by rater as well. Every
experiment is looked at after each of its batches, at the limits that a policy has by default. Exits 1 if a promise is
not kept.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from math import log

import numpy as np

from feedback.policy import RolloutPolicy
from monitoring.champion import BUDGET, WatchRules, watch_champion
from monitoring.evidence import BAD_ANSWERS_PRIOR
from monitoring.guardrails import GuardrailRules
from monitoring.outcomes import UnitOutcome
from monitoring.sequential import (
    RatioSums,
    design_effect,
    difference_log_evidence,
    share_log_bayes_factor,
)
from tests.bench.verdicts import Array, Report

LOOKS = 60
RULES = GuardrailRules()
LIMITS = RolloutPolicy().guardrails


@dataclass(frozen=True)
class People:
    """Raters of both arms who come one after the other; each asks a few times."""

    units: int = 2_000
    share: float = 0.1
    requests_mean: float = 4.0

    def draw(self, experiments: int, rng: np.random.Generator) -> tuple[Array, Array]:
        shape = (experiments, self.units)
        return rng.random(shape) < self.share, rng.geometric(1.0 / self.requests_mean, shape)


def slow(people: People, experiments: int, ratio: float, limit: float, rng: np.random.Generator) -> Array:
    """Canary requests until a quantity `ratio` times as large fires at `limit`; infinite: never."""
    candidate, n = people.draw(experiments, rng)
    own = rng.normal(0.0, 0.5, n.shape)
    logs = n * own + np.sqrt(n) * rng.standard_t(4, n.shape) * 0.7 + candidate * n * log(ratio)
    alpha = RULES.harm_alpha("time_to_first_token")
    found = np.full(experiments, np.inf)
    for last in np.linspace(0, people.units, LOOKS + 1).astype(int)[1:]:
        seen = slice(0, last)
        arms = [
            RatioSums.of(logs[:, seen] * arm, n[:, seen] * arm)
            for arm in (candidate[:, seen], ~candidate[:, seen])
        ]
        evidence = difference_log_evidence(
            arms[0].ratio - arms[1].ratio - log(limit),
            (arms[0].units, arms[1].units),
            (arms[0].cautious_variance, arms[1].cautious_variance),
            alpha=alpha,
            tightest_at=RULES.tightest_at_units,
        )
        fired = (evidence >= log(1 / alpha)) & (arms[0].units >= RULES.units_min)
        found = np.where(fired & np.isinf(found), arms[0].n, found)
    return found


def events(
    people: People, experiments: int, rates: tuple[float, float], limit: float, rng: np.random.Generator
) -> Array:
    """Canary requests until events at `rates` (control, candidate), alike within raters, fire at odds `limit`."""
    candidate, n = people.draw(experiments, rng)
    rate = np.where(candidate, rates[1], rates[0])
    count = rng.binomial(n, rng.beta(rate * 9.0, (1.0 - rate) * 9.0))
    found = np.full(experiments, np.inf)
    for last in np.linspace(0, people.units, LOOKS + 1).astype(int)[1:]:
        seen = slice(0, last)
        arms = [
            RatioSums.of(count[:, seen] * arm, n[:, seen] * arm)
            for arm in (candidate[:, seen], ~candidate[:, seen])
        ]
        effect = design_effect((arms[0], arms[1]))
        share = arms[0].n / np.maximum(arms[0].n + arms[1].n, 1.0)
        tilted = np.clip(limit * share / (1.0 - share + limit * share), 1e-9, 1 - 1e-9)
        evidence = share_log_bayes_factor(
            (arms[0].y / effect)[:, None], (arms[1].y / effect)[:, None], tilted[:, None], BAD_ANSWERS_PRIOR
        )
        fired = (evidence >= log(1 / RULES.harm_alpha("refusals"))) & (arms[0].units >= RULES.units_min)
        found = np.where(fired & np.isinf(found), arms[0].n, found)
    return found


def champions(experiments: int, rates: tuple[float, float], rng: np.random.Generator) -> Array:
    """Raters until a champion with bad answers at `rates` (before, now) is called worse; infinite: never."""
    found = np.full(experiments, np.inf)
    for index in range(experiments):
        before = [_rater(f"b{n}", "champion", rates[0], rng) for n in range(1_000)]
        now = [_rater(f"n{n}", "candidate", rates[1], rng) for n in range(2_000)]
        for last in (50, 100, 200, 400, 800, 1_400, 2_000):
            if watch_champion([*before, *now[:last]], WatchRules(), name="support@1").state == "worse":
                found[index] = last
                break
    return found


def _rater(name: str, arm: str, rate: float, rng: np.random.Generator) -> UnitOutcome:
    requests = int(rng.geometric(0.25))
    bad = int(rng.binomial(requests, rng.beta(rate * 4.0, (1.0 - rate) * 4.0)))
    logs = float(requests * rng.normal(0.0, 0.5))
    return UnitOutcome(
        name, arm, requests, downs=bad, exposed=requests, bad=bad, answers=requests, log_answer_tokens=logs
    )


def measure(report: Report, many: int, rng: np.random.Generator) -> None:
    tests = 6 * RULES.alpha * 0.02
    first = LIMITS.time_to_first_token_ratio_max
    null = np.isfinite(slow(People(), many, 1.0, 1.0, rng)).mean()
    report.line("equal times, no tolerance at all: fired", f"{null:.2%} of {many}", "<= 0.2%", null <= 0.002)
    null = np.isfinite(slow(People(), many, first, first, rng)).mean()
    report.line("times exactly at the limit: fired", f"{null:.2%} of {many}", "<= 0.2%", null <= 0.002)
    for ratio in (2.0, 3.0):
        found = slow(People(), many // 2, ratio, first, rng)
        report.line(
            f"{ratio:.0f} times as slow, limit {first:g}, 10% canary",
            f"{np.isfinite(found).mean():.1%} found, median {np.median(found):.0f}",
            "",
        )
    for rate in (0.02, 0.1):
        null = np.isfinite(events(People(), many, (rate, rate), 1.0, rng)).mean()
        report.line(
            f"equal events at {rate:.0%}, no tolerance: fired",
            f"{null:.2%} of {many}",
            "<= 0.2%",
            null <= 0.002,
        )
    found = events(People(), many // 2, (0.03, 0.15), LIMITS.refusals_odds_max, rng)
    report.line(
        "refusals 3% -> 15%, 10% canary",
        f"{np.isfinite(found).mean():.1%} found, median {np.median(found):.0f}",
    )
    null = np.isfinite(champions(many // 5, (0.1, 0.1), rng)).mean()
    report.line("unchanged champion: called worse", f"{null:.2%} of {many // 5}", "<= 1%", null <= 0.01)
    found = champions(many // 10, (0.1, 0.3), rng)
    report.line(
        "champion's bad answers 10% -> 30%",
        f"{np.isfinite(found).mean():.1%} found, median {np.median(found):.0f}",
        ">= 90%",
        float(np.isfinite(found).mean()) >= 0.9,
    )
    print(f"six such tests may spend {tests:.2%} together; the champion's budget is {BUDGET}")


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.guardrails", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="A tenth of the experiments, for a look.")
    parser.add_argument("--seed", type=int, default=2026)
    chosen = parser.parse_args(arguments)
    report = Report()
    measure(report, 100 if chosen.quick else 1_000, np.random.default_rng(chosen.seed))
    print(f"{report.broken} promises broken." if report.broken else "All promises kept.")
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
