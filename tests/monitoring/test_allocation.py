"""Pieces of the line go to the arms that do well, with a floor, and shares are what the pieces come to."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback.allocations import open_evenly, shares_of
from monitoring.allocation import FLOOR, open_by_merit, probabilities
from monitoring.sequential import RatioSums

ARMS = ("champion", "candidate", "candidate-2")


def sums(net: float, units: int) -> RatioSums:
    """An arm whose people give `net` on average, give or take one."""
    spread = np.resize([1.0, -1.0], units)
    return RatioSums.of(net + spread, np.ones(units))


def seen(*nets: float, units: int = 400) -> dict[str, RatioSums]:
    return {arm: sums(net, units) for arm, net in zip(ARMS, nets, strict=True)}


@pytest.mark.parametrize("rule", ["equal", "thompson", "top-two"])
def test_before_anything_is_known_every_rule_is_even(rule: str) -> None:
    found = probabilities(seen(0.0, 0.0, 0.0, units=0), rule, seed=1)
    assert list(found.values()) == pytest.approx([1 / 3] * 3, abs=0.03)


@given(
    nets=st.tuples(*(st.floats(-1, 1) for _ in ARMS)),
    units=st.integers(0, 500),
    rule=st.sampled_from(["equal", "thompson", "top-two"]),
)
def test_parts_sum_to_one_and_none_is_below_the_floor(nets: tuple[float, ...], units: int, rule: str) -> None:
    found = probabilities(seen(*nets, units=units), rule, seed=1)
    assert sum(found.values()) == pytest.approx(1.0)
    assert min(found.values()) >= FLOOR - 1e-9


def test_thompson_gives_nearly_all_to_a_clear_winner_and_top_two_half_of_it_to_the_runner_up() -> None:
    arms = seen(0.0, 0.5, 0.3)
    most = 1.0 - FLOOR * len(arms)
    thompson, top_two = (probabilities(arms, rule, seed=1) for rule in ("thompson", "top-two"))
    assert thompson["candidate"] == pytest.approx(FLOOR + most, abs=0.02)
    assert top_two["candidate"] == pytest.approx(FLOOR + most / 2, abs=0.03)
    assert top_two["candidate-2"] > 0.8 * top_two["candidate"] and top_two["champion"] < 0.1


def test_the_same_sums_and_seed_open_the_same_pieces() -> None:
    arms = seen(0.0, 0.1, 0.2)
    once, again = (open_by_merit([], arms, "top-two", 0.1, seed=7) for _ in range(2))
    assert once == again and sum(width for _, width in once) == pytest.approx(0.1)


def test_shares_are_those_of_people_who_still_count() -> None:
    pieces = [*open_evenly([], ["candidate", "candidate-2"], 0.4), ("champion", 0.1)]
    assert shares_of(pieces, ARMS, rest="champion") == pytest.approx(
        {"champion": 0.6, "candidate": 0.2, "candidate-2": 0.2}
    )
    assert shares_of(pieces, ARMS[:2], rest="champion") == pytest.approx(
        {"champion": 0.75, "candidate": 0.25}
    )
