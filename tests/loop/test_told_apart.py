"""What tells versions apart forgives what rounding does, and nothing else."""

import pytest

from tests.loop.told_apart import Computed, Place, agree, clearly_differ

SURE = Place((1,), (-0.10, -3.0, -4.0, -5.0, -6.0))
TIE = Place((2,), (-2.23, -2.23, -2.9, -3.0, -3.1))
TURNED = Place((3,), (-2.22, -2.24, -2.9, -3.0, -3.1))
AFTER_ONE = Place((4,), (-2.04, -2.5, -2.6, -2.7, -2.8))
AFTER_THE_OTHER = Place((5,), (-0.99, -2.5, -2.6, -2.7, -2.8))


def computed(*places: Place) -> Computed:
    return Computed(places)


def test_answers_that_part_at_a_near_tie_may_be_of_one_version() -> None:
    assert agree(computed(SURE, TIE, AFTER_ONE), computed(SURE, TURNED, AFTER_THE_OTHER))


@pytest.mark.parametrize(
    "other",
    [
        computed(Place((1,), (-0.17, -3.0, -4.0, -5.0, -6.0)), TIE, AFTER_ONE),
        computed(Place((9,), SURE.top), TIE, AFTER_ONE),
        computed(SURE, TIE, AFTER_THE_OTHER),
        computed(SURE, Place((3,), (-2.1, -2.36, -2.9, -3.0, -3.1)), AFTER_ONE),
        computed(SURE, TIE),
    ],
    ids=["other numbers", "a sure token", "no reason to part", "parts where there is no tie", "shorter"],
)
def test_what_rounding_cannot_do_is_another_version(other: Computed) -> None:
    assert not agree(computed(SURE, TIE, AFTER_ONE), other)


def test_versions_are_told_apart_at_the_first_place() -> None:
    assert clearly_differ(computed(SURE), computed(Place((1,), (-0.5, -3.0, -4.0, -5.0, -6.0))))
    assert not clearly_differ(computed(SURE, AFTER_ONE), computed(SURE, AFTER_THE_OTHER))
