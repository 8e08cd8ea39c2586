"""Do two windows of traffic come from the same source? Permutation tests that treat all rows of one rater as one.

Whole raters are dealt to the windows again and again; a window differs as far as the real deal stands out among those.
That needs no distribution, no minimum of rare categories, and no independence of one rater's rows, which the usual
tests assume and conversations break. All columns share the deals, so a window costs about as much as its widest column.

Sources: Gretton et al., "A kernel two-sample test" (2012) for texts; Kolmogorov-Smirnov's and Pearson's statistics for
numbers and categories; Benjamini, Hochberg (1995) for looking at several columns at once.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from monitoring.sequential import Floats, floats

Kind = Literal["texts", "numbers", "categories"]
Statistic: TypeAlias = Callable[[Floats], Floats]

FIRST_DEALS = 199
MORE_DEALS = 2_800
ENOUGH_BETTER = 8
"""Deals among the first that stand out as much as the real one and so settle that nothing is unusual."""


@dataclass(frozen=True, slots=True)
class Column:
    """One thing that is compared. `values` are (rows,) numbers, (rows,) category numbers, or (rows, n) embeddings."""

    name: str
    kind: Kind
    values: NDArray[np.float64] | NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Difference:
    """What one column shows. `adjusted_p` accounts for all columns that were looked at together."""

    name: str
    kind: Kind
    statistic: float
    p: float
    adjusted_p: float


def compare_windows(
    columns: Sequence[Column], raters: Sequence[str], current: NDArray[np.bool_], *, seed: int = 0
) -> list[Difference]:
    """Test every column; `raters` (rows,) say whose row it is, `current` (rows,) which window it belongs to.

    The smallest p-value is one over three thousand, enough for five columns at 0.2 per cent.
    """
    rng = np.random.default_rng(seed)
    statistics = {column.name: _statistic(column) for column in columns}
    seen = {name: float(of(_weights(current[None, :]))[0]) for name, of in statistics.items()}
    deals = _deals(raters, current, rng)
    exceeded, dealt = _count(statistics, seen, deals(FIRST_DEALS))
    if min(exceeded.values()) < ENOUGH_BETTER:
        for size in (MORE_DEALS // 4,) * 4:
            more, extra = _count(statistics, seen, deals(size))
            exceeded = {name: exceeded[name] + more[name] for name in exceeded}
            dealt += extra
    p = [(1 + exceeded[column.name]) / (1 + dealt) for column in columns]
    return [
        Difference(column.name, column.kind, seen[column.name], float(raw), float(adjusted))
        for column, raw, adjusted in zip(columns, p, adjust(p), strict=True)
    ]


def adjust(p: Sequence[float]) -> Floats:
    """Benjamini and Hochberg's adjusted p-values, in the order given."""
    values = floats(p)
    order = np.argsort(-values)
    ranks = np.arange(len(values), 0, -1)
    adjusted = np.minimum.accumulate(np.minimum(values[order] * len(values) / ranks, 1.0))
    found = np.empty_like(values)
    found[order] = adjusted
    return found


def _count(
    statistics: Mapping[str, Statistic], seen: Mapping[str, float], dealt: NDArray[np.bool_]
) -> tuple[dict[str, int], int]:
    weights = _weights(dealt)
    # Without this, rounding errors decide where a deal equals the real one, as all do in a column of one value.
    least = {name: value * (1 - 1e-9) - 1e-12 for name, value in seen.items()}
    better = {name: int((of(weights) >= least[name]).sum()) for name, of in statistics.items()}
    return better, len(dealt)


def _deals(
    raters: Sequence[str], current: NDArray[np.bool_], rng: np.random.Generator
) -> Callable[[int], NDArray[np.bool_]]:
    """A function that deals raters to the windows (deals, rows), as many to each window as there are.

    A rater of both windows is one in each: his two visits are as alike in every deal, which errs towards no difference.
    """
    names = [f"{rater}/{bool(inside)}" for rater, inside in zip(raters, current, strict=True)]
    _, rater = np.unique(names, return_inverse=True)
    is_current = np.zeros(int(rater.max()) + 1, dtype=np.bool_)
    is_current[rater] = current

    def deal(count: int) -> NDArray[np.bool_]:
        return rng.permuted(np.tile(is_current, (count, 1)), axis=1)[:, rater]

    return deal


def _weights(current: NDArray[np.bool_]) -> Floats:
    """Signed weights (deals, rows): one over the rows of its window, so that each side sums to one."""
    inside = floats(current)
    outside = 1.0 - inside
    return floats(inside / inside.sum(axis=1, keepdims=True) - outside / outside.sum(axis=1, keepdims=True))


def _statistic(column: Column) -> Statistic:
    if column.kind == "texts":
        return _mean_distance(floats(column.values))
    if column.kind == "numbers":
        return _widest_gap(floats(column.values))
    return _chi_squared(column.values.astype(np.int64))


def _mean_distance(embeddings: Floats) -> Statistic:
    """Squared maximum mean discrepancy under a Gaussian kernel of the median distance."""
    squares = (embeddings**2).sum(axis=1)
    distances = np.maximum(squares[:, None] + squares[None, :] - 2.0 * embeddings @ embeddings.T, 0.0)
    scale = float(np.median(distances[distances > 0])) if (distances > 0).any() else 1.0
    kernel = np.exp(-distances / scale)

    def statistic(weights: Floats) -> Floats:
        return floats(((weights @ kernel) * weights).sum(axis=1))

    return statistic


def _widest_gap(values: Floats) -> Statistic:
    """Kolmogorov-Smirnov: the widest gap between the two distribution functions."""
    order = np.argsort(values, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)

    def statistic(weights: Floats) -> Floats:
        return floats(np.abs(np.cumsum(weights[:, order], axis=1)[:, ends]).max(axis=1))

    return statistic


def _chi_squared(categories: NDArray[np.int64]) -> Statistic:
    """Pearson's statistic with each window's shares weighed alike: squared differences over the pooled share."""
    one_hot = floats(categories[:, None] == np.arange(int(categories.max()) + 1))
    pooled = np.maximum(one_hot.mean(axis=0), 1e-12)

    def statistic(weights: Floats) -> Floats:
        return floats(((weights @ one_hot) ** 2 / pooled).sum(axis=1))

    return statistic
