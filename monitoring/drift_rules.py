"""When a window of traffic has drifted, and when that is an alarm. Pure, with one sentence for each.

A window that differs beyond doubt is an alarm at once; one that differs less clearly must be followed by another before
anyone is woken. On traffic without drift that is at most one alarm in a hundred windows (`tests/bench/drift.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from monitoring.two_samples import Column, Difference, compare_windows

MEANS = {
    "prompt_text": "what people ask about",
    "prompt_characters": "how long their messages are",
    "prompt_language": "the language they write in",
    "turns": "how long their conversations are",
    "answer_text": "what is answered",
    "answer_tokens": "how long answers are",
    "finish_reason": "how answers end",
    "refused": "how often answers refuse",
    "vote": "how people vote, or whether",
    "channel": "where feedback comes from",
    "rater_kind": "how many people are named",
    "votes_of_rater": "how the votes spread over people",
}


@dataclass(frozen=True, slots=True)
class DriftRules:
    """Adjusted p-values: at most `alarm_p` is an alarm at once, at most `repeat_p` when it is repeated."""

    alarm_p: float = 0.005
    repeat_p: float = 0.02
    windows_in_a_row: int = 2


@dataclass(frozen=True, slots=True)
class Drift:
    """What one window shows against the reference."""

    drifted: bool
    alarm: bool
    sentence: str
    differences: tuple[Difference, ...]


def judge_window(
    columns: Sequence[Column],
    raters: Sequence[str],
    current: NDArray[np.bool_],
    rules: DriftRules,
    *,
    drifted_before: int = 0,
    seed: int = 0,
) -> Drift:
    """Compare the current window with the reference; `drifted_before` windows just before it drifted, in a row."""
    differences = tuple(compare_windows(columns, raters, current, seed=seed))
    least = min(one.adjusted_p for one in differences)
    drifted = least <= rules.repeat_p
    alarm = least <= rules.alarm_p or (drifted and drifted_before + 1 >= rules.windows_in_a_row)
    return Drift(drifted, alarm, _sentence(differences, rules, current), differences)


def _sentence(differences: Sequence[Difference], rules: DriftRules, current: NDArray[np.bool_]) -> str:
    rows = int(current.sum())
    changed = [one for one in differences if one.adjusted_p <= rules.repeat_p]
    if not changed:
        return f"No drift: {rows} completions look like the {len(current) - rows} of the reference."
    named = " and ".join(f"{MEANS.get(one.name, one.name)} (p = {one.adjusted_p:.4f})" for one in changed)
    return f"Changed against the reference: {named}, seen in {rows} completions."
