"""Measure how often drift is cried without one, and whether a fifth of another topic is found in one window.

    python -m tests.bench.drift [--quick] [--seed N]

Raters have habits: each asks about two of the topics, in his own words and length, several times. Windows of 500
completions follow a reference of 1,000, and every rule of the product applies. Exits 1 if a promise is not kept.
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from monitoring.drift_rules import Drift, DriftRules, judge_window
from monitoring.texts import embed, guess_language
from monitoring.two_samples import Column
from tests.bench.verdicts import Report

TOPICS = (
    "how long may I return a {} that I bought {}",
    "where is my parcel with the {} I ordered {}",
    "can you repair the {} that broke {}",
    "is the {} still on sale {}",
    "please change the address for the {} {}",
    "my invoice for the {} is wrong {}",
)
OTHER = "write a poem about the {} and the sea {}"
THINGS = ("lamp", "kettle", "toaster", "chair", "desk", "mirror", "carpet", "clock", "shelf", "vase")
WHEN = ("today", "last week", "in May", "yesterday", "a year ago", "on Monday")
WINDOW, REFERENCE = 500, 1_000


class Shop:
    """Prompts of raters with habits; `other` is the share of another topic."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.visits = 0

    def window(self, rows: int, *, other: float = 0.0, down: float = 0.05) -> list[tuple[str, str, int, str]]:
        """Rows of (rater, prompt, turns, vote)."""
        found: list[tuple[str, str, int, str]] = []
        rng = self.rng
        while len(found) < rows:
            self.visits += 1
            liked, thing = rng.choice(len(TOPICS), 2), rng.choice(THINGS)
            patience, grumpy = int(rng.geometric(0.4)), rng.beta(down * 9, (1 - down) * 9)
            for _ in range(min(int(rng.geometric(0.2)), 5, rows - len(found))):
                topic = OTHER if rng.random() < other else TOPICS[int(rng.choice(liked))]
                vote = "down" if rng.random() < grumpy else "up" if rng.random() < 0.1 else "none"
                text = topic.format(thing, rng.choice(WHEN)) + " please" * int(rng.integers(0, 3))
                found.append((f"rater-{self.visits}", text, patience, vote))
        return found


def judge(
    reference: list[tuple[str, str, int, str]],
    window: list[tuple[str, str, int, str]],
    before: int,
    seed: int,
    texts: dict[str, np.ndarray],
) -> Drift:
    rows = [*reference, *window]
    for _, text, _, _ in rows:
        if text not in texts:
            texts[text] = embed([text])[0]
    votes, languages = [row[3] for row in rows], [guess_language(row[1]) for row in rows]
    columns = [
        Column("prompt_text", "texts", np.array([texts[row[1]] for row in rows])),
        Column("prompt_characters", "numbers", np.array([float(len(row[1])) for row in rows])),
        Column("turns", "numbers", np.array([float(row[2]) for row in rows])),
        Column("vote", "categories", np.array([sorted(set(votes)).index(vote) for vote in votes])),
        Column("prompt_language", "categories", np.unique(languages, return_inverse=True)[1]),
    ]
    current = np.arange(len(rows)) >= len(reference)
    return judge_window(
        columns, [row[0] for row in rows], current, DriftRules(), drifted_before=before, seed=seed
    )


def quiet(report: Report, series: int, windows: int, rng: np.random.Generator) -> None:
    alarms = drifted = 0
    for number in range(series):
        shop, before, texts = Shop(rng), 0, dict[str, np.ndarray]()
        reference = shop.window(REFERENCE)
        for index in range(windows):
            drift = judge(reference, shop.window(WINDOW), before, number * windows + index, texts)
            before = before + 1 if drift.drifted else 0
            alarms, drifted = alarms + drift.alarm, drifted + drift.drifted
    total = series * windows
    report.line("no drift: windows that differ at all", f"{drifted} of {total}")
    report.line("no drift: alarms", f"{alarms} of {total}", "<= 1%", alarms <= total / 100)


def changed(report: Report, trials: int, rng: np.random.Generator) -> None:
    for what, change, goal in (
        ("5% of another topic", {"other": 0.05}, 0.0),
        ("10% of another topic", {"other": 0.1}, 0.0),
        ("20% of another topic", {"other": 0.2}, 0.95),
        ("thumbs down 5% -> 10%", {"down": 0.1}, 0.0),
        ("thumbs down 5% -> 15%", {"down": 0.15}, 0.0),
    ):
        found = 0
        for trial in range(trials):
            shop = Shop(rng)
            drift = judge(shop.window(REFERENCE), shop.window(WINDOW, **change), 0, trial, {})
            found += drift.alarm
        report.line(
            f"{what}: alarm in one window of {WINDOW}",
            f"{found} of {trials}",
            f">= {goal:.0%}" if goal else "",
            found >= goal * trials,
        )


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.drift", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="A fifth of the windows, for a look.")
    parser.add_argument("--seed", type=int, default=2026)
    chosen = parser.parse_args(arguments)
    rng, report = np.random.default_rng(chosen.seed), Report()
    changed(report, 8 if chosen.quick else 40, rng)
    quiet(report, 10 if chosen.quick else 30, 10, rng)
    print(f"{report.broken} promises broken." if report.broken else "All promises kept.")
    return 1 if report.broken else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
