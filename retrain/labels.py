"""How well answers that are labels agree with the right ones. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Classification:
    """Over all items, and averaged over the labels that occur (macro); each in [0, 1]."""

    n: int
    accuracy: float
    precision: float
    recall: float
    f1: float


def classification(pairs: Sequence[tuple[str, str]]) -> Classification:
    """Measures of (right label, said label) pairs; a label that was never said has precision 0, as in scikit-learn."""
    if not pairs:
        return Classification(0, 0.0, 0.0, 0.0, 0.0)
    labels = sorted({right for right, _ in pairs})
    rows = [_of_label(label, pairs) for label in labels]
    means = [sum(column) / len(rows) for column in zip(*rows, strict=True)]
    accuracy = sum(right == said for right, said in pairs) / len(pairs)
    return Classification(len(pairs), accuracy, *means)


def _of_label(label: str, pairs: Sequence[tuple[str, str]]) -> tuple[float, float, float]:
    hits = sum(right == said == label for right, said in pairs)
    said = sum(one == label for _, one in pairs)
    right = sum(one == label for one, _ in pairs)
    precision = hits / said if said else 0.0
    recall = hits / right if right else 0.0
    f1 = 2 * precision * recall / (precision + recall) if hits else 0.0
    return precision, recall, f1
