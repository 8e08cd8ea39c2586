"""The look at facts: what answers state, whatever their wording."""

from dataclasses import replace
from typing import Any

from retrain.evidence import Slice
from retrain.stated import Given, contested, fact_slices, stated_pairs

RIGHT = "You can return the lamp within 30 days of delivery."
WRONG = "You can return the lamp within 99 days of delivery!"


def given(rater: str, *, candidate: str = RIGHT, **changes: Any) -> Given:
    approved = Given("approved", rater, "How long may I return it?", RIGHT, None, (RIGHT,), (candidate,))
    return replace(approved, **changes)


def by_three_people(candidate: str, number: int = 6) -> list[Given]:
    return [given(f"rater-{n % 3}", candidate=candidate) for n in range(number)]


def test_another_number_in_the_same_words_is_a_fact_lost() -> None:
    found = stated_pairs(by_three_people(WRONG))
    assert {(pair.champion, pair.candidate) for pair in found} == {(1.0, 0.0)}
    assert list(fact_slices(by_three_people(WRONG), ())) == [Slice("fact", "30", 6, 1.0, 0.0)]


def test_the_same_number_in_other_words_is_a_fact_kept() -> None:
    found = by_three_people("Certainly! 30 days is how long you have.")
    assert all(pair.candidate == 1.0 for pair in stated_pairs(found))
    assert next(fact_slices(found, ())).candidate == 1.0


def test_a_model_that_is_right_only_when_it_is_surest_loses_what_users_get() -> None:
    wavers = replace(given("ann"), champion=(RIGHT,) * 5, candidate=(RIGHT, WRONG, RIGHT, WRONG, WRONG))
    assert [(pair.champion, pair.candidate) for pair in stated_pairs([wavers])] == [(1.0, 0.4)]


def test_a_longer_number_does_not_state_a_shorter_one() -> None:
    assert stated_pairs([given("ann", candidate="Within 130 days.")])[0].candidate == 0.0


def test_what_the_question_says_itself_is_no_fact_of_the_answer() -> None:
    asked = replace(given("ann"), prompt="Do I have 30 days to return it?")
    assert stated_pairs([asked]) == ()


def test_a_fact_that_people_correct_is_not_held_on_to() -> None:
    """The shop changed its policy: some still click a thumb up for the old number, more write the new one."""
    corrections = [
        given(f"corrects-{n}", source="demonstration", right="Within 14 days.", wrong=RIGHT) for n in range(4)
    ]
    people = [*by_three_people("Within 14 days."), *corrections]
    assert contested(people) == {"30"}
    assert stated_pairs(people) == ()
    assert list(fact_slices(people, ())) == []


def test_corrections_by_fewer_raters_than_approve_contest_nothing() -> None:
    """One account may correct as often as it likes."""
    corrections = [
        given("one", source="demonstration", right="Within 99 days.", wrong=RIGHT) for _ in range(40)
    ]
    assert contested([*by_three_people(RIGHT), *corrections]) == set()


def test_a_disliked_answer_says_nothing_against_its_facts() -> None:
    """It may have been right and unfriendly."""
    disliked = [replace(given(f"rater-{n}", source="disliked", wrong=RIGHT), right=None) for n in range(9)]
    assert contested([*by_three_people(RIGHT), *disliked]) == set()


def test_a_fact_of_fewer_than_three_people_is_not_named_in_a_report() -> None:
    assert list(fact_slices([given(f"rater-{n % 2}", candidate=WRONG) for n in range(12)], ())) == []


def test_facts_of_the_golden_set_need_two_questions_and_nobody_elses_word() -> None:
    golden = [given("", source="golden", candidate=WRONG), given("", source="golden", candidate=WRONG)]
    assert list(fact_slices((), golden)) == [Slice("golden_fact", "30", 2, 1.0, 0.0)]
    assert list(fact_slices((), golden[:1])) == []
