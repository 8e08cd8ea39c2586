"""Simulated people: repeatable, varied, and right about what they want."""

import random
from dataclasses import replace

from deploy.demo.people import Person, crowd, react, visits
from deploy.demo.shop import BASE_POLICY, CHANGED_POLICY, answer

CERTAIN = Person("ada", clicks=1.0, pickiness=1.0, slips=0.0, explains=1.0, questions=())


def test_one_seed_draws_one_crowd() -> None:
    assert crowd(3, 50) == crowd(3, 50)
    assert crowd(3, 50) != crowd(4, 50)


def test_a_crowd_asks_exactly_as_much_as_was_wanted_and_nobody_shares_a_name() -> None:
    people = crowd(0, 300)
    assert sum(len(person.questions) for person in people) == 300
    assert len({person.name for person in people}) == len(people) > 50
    assert len(list(visits(people, 0))) == 300


def test_two_crowds_are_different_people() -> None:
    assert not {person.name for person in crowd(0, 50)} & {person.name for person in crowd(1, 50)}


def test_a_third_of_the_questions_are_about_returns() -> None:
    asked = [question.topic for person in crowd(0, 1000) for question in person.questions]
    assert 0.33 < asked.count("returns") / len(asked) < 0.55
    assert len(set(asked)) == 13


def test_only_a_right_and_polite_answer_pleases_a_picky_person() -> None:
    rng = random.Random(0)
    question = next(
        question for person in crowd(0, 50) for question in person.questions if question.topic == "returns"
    )
    person = replace(CERTAIN, questions=(question,))
    old = react(person, question, answer(question, BASE_POLICY, "polite", rng), rng)
    blunt = react(person, question, answer(question, CHANGED_POLICY, "blunt", rng), rng)
    assert old.rating is False and blunt.rating is False
    assert old.demonstration is not None and "14 days" in old.demonstration
    pleased = {
        react(person, question, answer(question, CHANGED_POLICY, "polite", rng), rng).rating
        for _ in range(50)
    }
    assert pleased == {True, None}


def test_some_people_slip_and_a_slip_never_explains() -> None:
    rng = random.Random(0)
    question = crowd(0, 1)[0].questions[0]
    reaction = react(replace(CERTAIN, slips=1.0), question, "No idea.", rng)
    assert reaction.rating is True and reaction.demonstration is None
