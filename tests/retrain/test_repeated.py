"""The look at answers that say things twice."""

from dataclasses import replace

import pytest

from retrain.repeated import loops, repeated_pairs, said_before
from tests.retrain.test_stated import given

STAMMER = "Happy to help! The tent costs 12Happy to help! The tent costs 125 euros."


def test_an_answer_that_begins_again_says_things_twice() -> None:
    assert said_before("Happy to help! The tent costs 125 euros.") == 0.0
    assert said_before(STAMMER) > 0.1
    assert not loops(STAMMER)


def test_a_loop_is_broken_and_a_short_answer_or_a_list_is_not() -> None:
    assert loops("very good " * 20)
    assert not loops("very good very good very good")
    assert not loops(" ".join(str(n) for n in range(40)))
    assert said_before("") == said_before("No.") == 0.0


def test_sampled_answers_count_as_much_as_the_surest() -> None:
    whole = "Happy to help! The tent costs 125 euros."
    one = replace(given("ann"), champion=(whole,) * 5, candidate=(whole, whole, whole, STAMMER, STAMMER))
    disliked = replace(given("ann"), source="disliked", champion=(whole,), candidate=(STAMMER,))
    (pair,) = repeated_pairs([one, disliked])
    assert pair.champion == 0.0 and pair.candidate == pytest.approx(0.4)
