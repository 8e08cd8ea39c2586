"""Charts as numbers: where each point of an SVG lies, and what stands at its edges. The pages draw them.

Nothing runs in the browser. Coordinates are in the units of a view box of `WIDTH` by the chart's height, which a page
may stretch; what is written stands beside it and is never stretched. Values that are not known leave a gap. Each chart
carries its numbers as rows, for who reads them rather than looks.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

WIDTH = 600.0
TICKS = 4

Row = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Scale:
    """Edges and the step between ticks; the edges are ticks."""

    low: float
    high: float
    step: float

    @property
    def ticks(self) -> tuple[float, ...]:
        """From the top edge down."""
        count = round((self.high - self.low) / self.step)
        return tuple(self.high - number * self.step for number in range(count + 1))


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars over equal steps: `(x, y, width, height, label)`, the part of another colour on top."""

    height: float
    bars: tuple[tuple[float, float, float, float, str], ...]
    tops: tuple[tuple[float, float, float, float, str], ...]
    ticks: tuple[str, ...]
    most: float


@dataclass(frozen=True, slots=True)
class Line:
    """A line with its interval: SVG path data, and points `(x, y, left, width, label)` and what each speaks for."""

    height: float
    path: str
    band: str
    dots: tuple[tuple[float, float, float, float, str], ...]
    ticks: tuple[str, ...]
    grid: tuple[float, ...]
    zero: float | None
    """Height of the zero line, where it is drawn."""
    marks: tuple[tuple[float, str], ...] = ()
    """Moments that matter: `(x, label)`."""


@dataclass(frozen=True, slots=True)
class Bound:
    """An estimate, the bound that a check looks at, and the limit it is held against, left to right."""

    estimate: float
    bound: float
    limit: float
    allowed: tuple[float, float]
    """Left edge and width of what is tolerated."""


def scale(values: Sequence[float | None], *, among: Sequence[float] = ()) -> Scale:
    """Round edges around what is known and `among`."""
    known = [*(value for value in values if value is not None), *among]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    if high - low < 1e-9 * max(abs(low), abs(high), 1e-3):
        low, high = low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)
    step = _round_step((high - low) / TICKS)
    return Scale(step * math.floor(low / step + 1e-9), step * math.ceil(high / step - 1e-9), step)


def bars(
    totals: Sequence[float],
    parts: Sequence[float],
    labels: Sequence[str],
    *,
    show: Callable[[float], str],
    height: float = 130.0,
) -> Bars:
    """Totals as bars; `parts` is the share of each that is drawn apart."""
    edges = scale([], among=[0.0, max([*totals, 1.0])])
    step = WIDTH / max(len(totals), 1)

    def bar(index: int, low: float, high: float) -> tuple[float, float, float, float, str]:
        top, bottom = height * (1 - high / edges.high), height * (1 - low / edges.high)
        x = _round(index * step + step * 0.14)
        return x, _round(top), _round(step * 0.72), _round(bottom - top), labels[index]

    rest = [total - part for total, part in zip(totals, parts, strict=True)]
    return Bars(
        height,
        tuple(bar(index, 0.0, value) for index, value in enumerate(rest) if value > 0),
        tuple(bar(index, rest[index], rest[index] + part) for index, part in enumerate(parts) if part > 0),
        tuple(show(one) for one in edges.ticks),
        max([*totals, 0.0]),
    )


def line(
    values: Sequence[float | None],
    lows: Sequence[float | None],
    highs: Sequence[float | None],
    labels: Sequence[str],
    *,
    show: Callable[[float], str],
    edges: Scale | None = None,
    at: Sequence[float] | None = None,
    zero: bool = False,
    marks: Sequence[tuple[float, str]] = (),
    height: float = 170.0,
) -> Line:
    """A line through `values`, with a band from `lows` to `highs`; without `edges`, the values choose them.

    `at` says where each value lies from 0 to 1, equally far apart unless given; `marks` are such places with a label.
    With `zero`, the line at zero is drawn.
    """
    edges = edges or scale([*values, *lows, *highs])
    places = list(at or [index / max(len(values) - 1, 1) for index in range(len(values))])

    def place(index: int, value: float) -> tuple[float, float]:
        share = (min(max(value, edges.low), edges.high) - edges.low) / (edges.high - edges.low)
        return _round(WIDTH * places[index]), _round(height * (1 - share))

    pieces = _pieces(values)
    path = " ".join(
        "M" + " L".join(_text(place(index, _known(values[index]))) for index in piece) for piece in pieces
    )
    known = [None if a is None or b is None else a for a, b in zip(lows, highs, strict=True)]
    band = " ".join(
        f"M{' L'.join([*_edge(piece, highs, place), *_edge(piece[::-1], lows, place)])} Z"
        for piece in _pieces(known)
    )
    shown = [index for piece in pieces for index in piece]
    dots = tuple(
        (*place(index, _known(values[index])), *_reach(places, shown, number), labels[index])
        for number, index in enumerate(shown)
    )
    span = edges.high - edges.low
    return Line(
        height,
        path,
        band,
        dots,
        tuple(show(one) for one in edges.ticks),
        tuple(_round(height * (edges.high - one) / span) for one in edges.ticks),
        _round(height * edges.high / span) if zero and edges.low <= 0 <= edges.high else None,
        tuple((_round(WIDTH * share), label) for share, label in marks),
    )


def bound(estimate: float, value: float, limit: float, *, at_least: bool) -> Bound:
    """A check on a scale of its own: what was found, the bound that counts, and what is tolerated."""
    low, high = min(estimate, value, limit), max(estimate, value, limit)
    spare = (high - low) * 0.25 or abs(limit) * 0.5 or 1.0

    def place(one: float) -> float:
        return _round(WIDTH * (one - low + spare) / (high - low + 2 * spare))

    edge = place(limit)
    return Bound(
        place(estimate), place(value), edge, (edge, _round(WIDTH - edge)) if at_least else (0.0, edge)
    )


def wilson(ups: int, votes: int, z: float = 1.96) -> tuple[float, float] | None:
    """A 95% interval of a share (Wilson 1927); None without votes."""
    if votes == 0:
        return None
    share = ups / votes
    centre = (share + z * z / (2 * votes)) / (1 + z * z / votes)
    margin = z * ((share * (1 - share) + z * z / (4 * votes)) / votes) ** 0.5 / (1 + z * z / votes)
    # Rounding would otherwise let an interval of 0 of 5 begin below zero.
    return max(0.0, centre - margin), min(1.0, centre + margin)


def _round_step(rough: float) -> float:
    magnitude = 10.0 ** math.floor(math.log10(rough))
    return next(size * magnitude for size in (1.0, 2.0, 2.5, 5.0, 10.0) if rough <= size * magnitude * 1.0001)


def _edge(
    piece: Sequence[int], values: Sequence[float | None], place: Callable[[int, float], tuple[float, float]]
) -> list[str]:
    return [_text(place(index, _known(values[index]))) for index in piece]


def _reach(places: Sequence[float], shown: Sequence[int], number: int) -> tuple[float, float]:
    """Left edge and width of what lies nearer to this point than to its neighbours."""
    here = places[shown[number]]
    left = (places[shown[number - 1]] + here) / 2 if number else 0.0
    right = (places[shown[number + 1]] + here) / 2 if number + 1 < len(shown) else 1.0
    return _round(WIDTH * left), _round(WIDTH * (right - left))


def _pieces(values: Sequence[float | None]) -> list[list[int]]:
    """Runs of neighbouring indices whose values are known."""
    pieces: list[list[int]] = [[]]
    for index, value in enumerate(values):
        if value is None:
            pieces.append([])
        else:
            pieces[-1].append(index)
    return [piece for piece in pieces if piece]


def _known(value: float | None) -> float:
    assert value is not None
    return value


def _text(point: tuple[float, float]) -> str:
    return f"{point[0]:g} {point[1]:g}"


def _round(value: float) -> float:
    return round(value, 1)
