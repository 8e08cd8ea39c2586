"""Charts as numbers: where each point of an SVG lies. The pages draw them; nothing runs in the browser.

Coordinates are in the units of a view box of `WIDTH` by the chart's height. Values that are not known leave a gap.
"""

from collections.abc import Sequence
from dataclasses import dataclass

WIDTH = 600.0
PAD = 6.0


@dataclass(frozen=True, slots=True)
class Bars:
    """Bars over equal steps: `(x, y, width, height, label)`, the part of another colour on top."""

    height: float
    bars: tuple[tuple[float, float, float, float, str], ...]
    tops: tuple[tuple[float, float, float, float, str], ...]
    most: float


@dataclass(frozen=True, slots=True)
class Line:
    """A line with its interval: SVG path data, the points, and the values at the top and bottom edge."""

    height: float
    path: str
    band: str
    dots: tuple[tuple[float, float, str], ...]
    low: float
    high: float
    zero: float | None
    """Height of the zero line, where it is within the edges."""


@dataclass(frozen=True, slots=True)
class Whisker:
    """One interval on a shared scale, in view box units."""

    left: float
    middle: float
    right: float
    zero: float


def bars(
    totals: Sequence[float], parts: Sequence[float], labels: Sequence[str], *, height: float = 120.0
) -> Bars:
    """Totals as bars; `parts` is the share of each that is drawn apart."""
    most = max([*totals, 1.0])
    step = WIDTH / max(len(totals), 1)
    room = height - PAD

    def bar(index: int, low: float, high: float) -> tuple[float, float, float, float, str]:
        top, bottom = room * (1 - high / most), room * (1 - low / most)
        x = _round(index * step + step * 0.12)
        return x, _round(top + PAD), _round(step * 0.76), _round(bottom - top), labels[index]

    rest = [total - part for total, part in zip(totals, parts, strict=True)]
    return Bars(
        height,
        tuple(bar(index, 0.0, value) for index, value in enumerate(rest) if value > 0),
        tuple(bar(index, rest[index], rest[index] + part) for index, part in enumerate(parts) if part > 0),
        most,
    )


def line(
    values: Sequence[float | None],
    lows: Sequence[float | None],
    highs: Sequence[float | None],
    labels: Sequence[str],
    *,
    edges: tuple[float, float] | None = None,
    height: float = 150.0,
) -> Line:
    """A line through `values`, with a band from `lows` to `highs`; without `edges`, the values choose them."""
    low, high = edges or _edges([*values, *lows, *highs])
    room = height - 2 * PAD
    step = (WIDTH - 2 * PAD) / max(len(values) - 1, 1)

    def place(index: int, value: float) -> tuple[float, float]:
        share = (min(max(value, low), high) - low) / (high - low)
        return _round(PAD + index * step), _round(PAD + room * (1 - share))

    pieces = _pieces(values)
    path = " ".join(
        "M" + " L".join(_text(place(index, _known(values[index]))) for index in piece) for piece in pieces
    )
    band = " ".join(
        "M"
        + " L".join(
            [
                *(_text(place(index, _known(highs[index]))) for index in piece),
                *(_text(place(index, _known(lows[index]))) for index in reversed(piece)),
            ]
        )
        + " Z"
        for piece in _pieces(
            [None if a is None or b is None else a for a, b in zip(lows, highs, strict=True)]
        )
    )
    dots = tuple((*place(index, _known(values[index])), labels[index]) for piece in pieces for index in piece)
    zero = place(0, 0.0)[1] if low <= 0.0 <= high else None
    return Line(height, path, band, dots, low, high, zero)


def whisker(low: float, middle: float, high: float, *, edge: float) -> Whisker:
    """An interval on a scale from -`edge` to `edge`, zero in the middle."""

    def place(value: float) -> float:
        return _round(PAD + (WIDTH - 2 * PAD) * (min(max(value, -edge), edge) + edge) / (2 * edge))

    return Whisker(place(low), place(middle), place(high), place(0.0))


def wilson(ups: int, votes: int, z: float = 1.96) -> tuple[float, float] | None:
    """A 95% interval of a share (Wilson 1927); None without votes."""
    if votes == 0:
        return None
    share = ups / votes
    centre = (share + z * z / (2 * votes)) / (1 + z * z / votes)
    margin = z * ((share * (1 - share) + z * z / (4 * votes)) / votes) ** 0.5 / (1 + z * z / votes)
    # Rounding would otherwise let an interval of 0 of 5 begin below zero.
    return max(0.0, centre - margin), min(1.0, centre + margin)


def _edges(values: Sequence[float | None]) -> tuple[float, float]:
    known = [value for value in values if value is not None]
    low, high = (min(known), max(known)) if known else (0.0, 1.0)
    spare = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return low - spare, high + spare


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
