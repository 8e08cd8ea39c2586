"""What a training said at each step: kept with its result, and written as OpenAI's result files are. Pure.

Accuracy is the share of answer tokens that the model would have chosen itself; KTO measures none. Losses on rows that
were not trained on stand at the steps after which they were taken.
"""

import csv
from collections.abc import Iterable, Mapping, Sequence
from io import StringIO
from itertools import pairwise
from typing import Any

Steps = Sequence[Mapping[str, float]]
COLUMNS = ("step", "train_loss", "train_accuracy", "valid_loss", "valid_mean_token_accuracy")
LOGGED = {
    "loss": "train_loss",
    "mean_token_accuracy": "train_accuracy",
    "eval_loss": "valid_loss",
    "eval_mean_token_accuracy": "valid_mean_token_accuracy",
    "num_tokens": "tokens",
}
"""A trainer's names, and ours."""


def history_of(log_history: Iterable[Mapping[str, Any]]) -> list[dict[str, float]]:
    """One row a step, from a trainer's log."""
    rows: dict[int, dict[str, float]] = {}
    for entry in log_history:
        found = {ours: float(entry[theirs]) for theirs, ours in LOGGED.items() if theirs in entry}
        if found:
            rows.setdefault(int(entry["step"]), {"step": int(entry["step"])}).update(found)
    return [rows[step] for step in sorted(rows)]


def last_loss(history: Steps, otherwise: float) -> float:
    """Mean training loss over the last tenth of the steps: one batch alone is noise."""
    losses = [row["train_loss"] for row in history if "train_loss" in row]
    tail = losses[-max(1, len(losses) // 10) :]
    return sum(tail) / len(tail) if tail else otherwise


def one_after_the_other(histories: Iterable[Steps]) -> list[dict[str, float]]:
    """The steps of several stages, counted on."""
    rows: list[dict[str, float]] = []
    for history in histories:
        before = rows[-1]["step"] if rows else 0
        rows += [{**row, "step": before + row["step"]} for row in history]
    return rows


def trained_tokens(history: Steps) -> int | None:
    """Tokens trained on, repetitions counted. A trainer that was resumed, or of the next stage, counts from 0 again."""
    counted = [int(row["tokens"]) for row in history if "tokens" in row]
    if not counted:
        return None
    ends = [one for one, following in pairwise(counted) if following < one]
    return sum(ends) + counted[-1]


def to_csv(history: Steps) -> bytes:
    """The columns of OpenAI's `step_metrics.csv`; what was not measured at a step is empty."""
    out = StringIO()
    writer = csv.DictWriter(out, COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(history)
    return out.getvalue().encode()
