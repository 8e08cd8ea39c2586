"""From settled statements to the frozen rows of one run. Pure: equal input, equal rows, equal hash.

- Rows are split by rater. A question (near-duplicates count as one) asked on both sides stays on the side
  that its hash says, so no question is both trained on and evaluated.
- Demonstrations are repeated, at most four times, until they are a third of the rows: what people taught must
  not drown in what they merely liked.

Held-out rows hold evaluation items instead of TRL's columns: `prompt`, `source`, and the answers known to be
right (`completion`) and wrong (`rejected`).
"""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import Any

from feedback.datasets import Row
from feedback.policy import TrainingPolicy
from retrain.prompts import answer_column, group_similar, prompt_text, share_of
from retrain.recipe import Method
from retrain.statements import Material, Statement

DEMONSTRATION_REPEATS_MAX = 4
SHARED_QUESTIONS_HELD_OUT = 1 / 3
"""Share of the questions asked on both sides that are kept for evaluation."""


def build_rows(
    material: Material, method: Method, policy: TrainingPolicy
) -> tuple[list[Row], dict[str, Any]]:
    """The rows of a dataset, ordered by their hashes, and its counts with reasons for what is left out."""
    excluded = Counter(material.excluded)
    chosen = _material_of(material, method)
    evaluated = [*material.demonstrations, *material.approved, *material.disliked]
    evaluated += [pair for pair in material.pairs if pair.source == "preferred"]
    sides = _sides([*chosen, *evaluated], policy.held_out_share)
    train = [statement for statement in chosen if sides(statement) == "train"]
    held_out = _once([statement for statement in evaluated if sides(statement) == "held_out"])
    for statement in chosen:
        if sides(statement) == "elsewhere":
            excluded["question asked on both sides of the split"] += 1
    repeats = _demonstration_repeats(train) if method == "sft" else 1
    rows = [_row("train", statement, _train_columns(method, statement)) for statement in train]
    rows += [
        _row("train", statement, _train_columns(method, statement))
        for statement in train
        if statement.source == "demonstration"
        for _ in range(repeats - 1)
    ]
    rows += [_row("held_out", statement, _item_columns(statement)) for statement in held_out]
    counts = {
        "train": sum(row.split == "train" for row in rows),
        "held_out": len(held_out),
        "train_sources": dict(Counter(statement.source for statement in train)),
        "held_out_sources": dict(Counter(statement.source for statement in held_out)),
        "raters": material.raters,
        "held_out_raters": len({statement.rater for statement in held_out}),
        "demonstration_repeats": repeats,
        "excluded": dict(sorted(excluded.items())),
    }
    return sorted(rows, key=lambda row: row.row_hash), counts


def _once(held_out: Sequence[Statement]) -> list[Statement]:
    """Without disliked answers that another item already holds as its wrong one."""
    known = {(prompt_text(s.prompt), s.rejected) for s in held_out if s.rejected is not None}
    return [s for s in held_out if s.source != "disliked" or (prompt_text(s.prompt), s.answer) not in known]


def _material_of(material: Material, method: Method) -> list[Statement]:
    if method == "sft":
        return [*material.demonstrations, *material.approved]
    if method == "kto":
        return [*material.demonstrations, *material.approved, *material.disliked]
    return list(material.pairs)


def _sides(statements: Sequence[Statement], held_out_share: float) -> Callable[[Statement], str]:
    """A function from a statement to `train`, `held_out` or, for the other side's questions, `elsewhere`."""
    raters = sorted({s.rater for s in statements}, key=lambda rater: (share_of(f"rater:{rater}"), rater))
    held_out_raters = set(raters[: max(1, round(held_out_share * len(raters)))])
    groups = group_similar(prompt_text(s.prompt) for s in statements)
    asked_by: dict[str, set[bool]] = defaultdict(set)
    for statement in statements:
        asked_by[groups[prompt_text(statement.prompt)]].add(statement.rater in held_out_raters)

    def side(statement: Statement) -> str:
        group = groups[prompt_text(statement.prompt)]
        held_out = statement.rater in held_out_raters
        if len(asked_by[group]) == 2:
            question_held_out = share_of(f"question:{group}") < SHARED_QUESTIONS_HELD_OUT
            if held_out != question_held_out:
                return "elsewhere"
        return "held_out" if held_out else "train"

    return side


def _demonstration_repeats(train: Sequence[Statement]) -> int:
    demonstrations = sum(statement.source == "demonstration" for statement in train)
    if not demonstrations:
        return 1
    liked = len(train) - demonstrations
    return max(1, min(DEMONSTRATION_REPEATS_MAX, math.ceil(liked / 2 / demonstrations)))


def _train_columns(method: Method, statement: Statement) -> dict[str, Any]:
    answer = answer_column(statement.prompt, statement.answer)
    if method == "sft":
        return {"prompt": statement.prompt, "completion": answer}
    if method == "kto":
        return {"prompt": statement.prompt, "completion": answer, "label": statement.source != "disliked"}
    assert statement.rejected is not None
    worse = answer_column(statement.prompt, statement.rejected)
    return {"prompt": statement.prompt, "chosen": answer, "rejected": worse}


def _item_columns(statement: Statement) -> dict[str, Any]:
    disliked = statement.source == "disliked"
    right = None if disliked else statement.answer
    wrong = statement.answer if disliked else statement.rejected
    return {
        "prompt": statement.prompt,
        "source": statement.source,
        "completion": None if right is None else answer_column(statement.prompt, right),
        "rejected": None if wrong is None else answer_column(statement.prompt, wrong),
    }


def _row(split: str, statement: Statement, columns: dict[str, Any]) -> Row:
    return Row(split, columns, statement.rater, statement.completion_ids, statement.feedback_ids)
