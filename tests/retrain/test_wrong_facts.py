"""Facts that a candidate replaces by others: found in few answers, proven in many."""

from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from retrain.engine_client import EngineClient
from retrain.evaluate import evaluate
from retrain.evidence import AskedAgain, Evidence
from retrain.stated import Given
from retrain.wrong_facts import (
    ANSWERS,
    FACTS_MAX,
    PORTION,
    QUESTIONS_MAX,
    QUESTIONS_MIN,
    known_facts,
    suspects,
    wrong_about,
)
from tests.fakes import Asked, Behaviour, answer_evaluations, fake_engine, refuse
from tests.retrain.test_evaluate import CANDIDATE, VERSIONS, an_item
from tests.retrain.test_stated import RIGHT, WRONG, given

ASK = [{"role": "user", "content": "How long may I return it?"}]


def kept(**changes: Any) -> Given:
    return replace(given("", source="golden"), **changes)


def approved(number: int = 6, people: int = 3) -> list[Given]:
    return [given(f"rater-{n % people}") for n in range(number)]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (RIGHT, False),
        (WRONG, True),
        ("For a month.", False),  # left out, not replaced
        ("1. Pack it.\n2. Send it.", False),  # steps that are numbered
        ("Order 7: you have 30 days.", False),  # more was said, nothing replaced
        ("30 days, not 99.", False),
        ("See 2 for that.", False),  # what the prompt says is nobody's fact
        ("See order 17 for that.", False),
        ("Write to help@example.org.", True),
    ],
)
def test_a_fact_is_wrong_where_another_stands_in_its_place(text: str, wrong: bool) -> None:
    prompt = [
        {"role": "user", "content": "This is about order 17."},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "How long for parcel 2?"},
    ]
    assert wrong_about("30", given("ann", prompt=prompt), text) is wrong


@pytest.mark.parametrize(
    ("right", "fact", "text"),
    [
        ("It costs 1,000 euros.", "1,000", "It costs 1000 euros."),
        ("It costs 5.00 euros.", "5.00", "It costs 5 euros."),
        ("We open at 9:00.", "9:00", "We open at 9 am."),
        ("It takes 3-5 days.", "3-5", "It takes 3 to 5 days."),
    ],
)
def test_the_same_number_may_be_written_in_another_way(right: str, fact: str, text: str) -> None:
    one = kept(right=right)
    assert fact in one.facts
    assert not wrong_about(fact, one, text)
    assert wrong_about(fact, one, "It is 77.")


def test_the_golden_set_is_believed_whatever_a_crowd_says() -> None:
    crowd = [given(f"new-{n}", source="demonstration", right=WRONG, wrong=RIGHT) for n in range(60)]
    assert known_facts([*approved(), *crowd], []) == {}
    assert list(known_facts([*approved(), *crowd], [kept()])) == ["30"]
    assert len(known_facts([*approved(), *crowd], [kept()])["30"]) == 1


def test_without_an_operator_a_fact_needs_three_people_and_five_answers() -> None:
    assert list(known_facts(approved(), [])) == ["30"]
    assert known_facts(approved(people=2), []) == {}
    assert known_facts(approved(4), []) == {}


WAVERS = (RIGHT, RIGHT, WRONG, RIGHT, RIGHT)


def test_only_facts_that_look_worse_than_the_champions_are_asked_about() -> None:
    assert suspects({"30": [kept(champion=WAVERS, candidate=WAVERS)]}) == []
    assert suspects({"30": [kept(champion=WAVERS, candidate=(RIGHT,) * 5)]}) == []
    (found,) = suspects({"30": [kept(champion=(RIGHT,) * 5, candidate=WAVERS), kept()]})
    assert (found.fact, len(found.questions)) == ("30", 2)


def test_the_questions_that_look_worst_are_asked_again_and_a_few_beside_them() -> None:
    """Many others with the same number hide one that is wrong; one by itself may be a question of two minds."""
    fine = [kept(champion=(RIGHT,) * 5, candidate=(RIGHT,) * 5) for _ in range(20)]
    worse = kept(champion=(RIGHT,) * 5, candidate=WAVERS)
    (found,) = suspects({"30": [*fine, worse]})
    assert (len(found.questions), found.questions[0]) == (QUESTIONS_MIN, worse)
    (found,) = suspects({"30": [*fine, *[worse] * 15]})
    assert found.questions == (worse,) * QUESTIONS_MAX


def test_of_many_the_worst_are_asked_about_and_chance_in_few_answers_goes_last() -> None:
    def one_of(n: int, wrong: int, of: int) -> Given:
        right = f"{n} days."
        return kept(right=right, champion=(right,) * of, candidate=(WRONG,) * wrong + (right,) * (of - wrong))

    chance = {f"{n}": [one_of(n, 1, 5)] for n in range(200, 240)}
    real = {"30": [one_of(30, 1, 6) for _ in range(9)]}
    found = suspects(chance | real)
    assert (len(found), found[0].fact) == (FACTS_MAX, "30")


GOLDEN = an_item(source="golden", right=RIGHT, wrong=None, split="golden", prompt=ASK)


def every(nth: int, *, only_the_first: int | None = None) -> Callable[[str, str], str]:
    """What versions say: every n-th answer of the candidate is wrong, or of its first answers only."""
    said = count(1)

    def say(model: str, prompt: str) -> str:
        number = next(said) if model == CANDIDATE else 1
        return WRONG if number % nth == 0 and number <= (only_the_first or number) else RIGHT

    return say


async def found_with(behaviour: Behaviour) -> tuple[Evidence, list[tuple[int, int]]]:
    told: list[tuple[int, int]] = []
    async with (
        fake_engine(behaviour) as engine,
        EngineClient(engine.url, timeout_seconds=60, answer_tokens_max=64) as client,
    ):
        asked = evaluate([GOLDEN], VERSIONS, client, report=lambda done, total: told.append((done, total)))
        return (await asked).evidence, told


async def test_what_looked_wrong_is_asked_about_often_and_reported() -> None:
    evidence, told = await found_with(answer_evaluations(every(5)))
    (again,) = evidence.asked_again
    assert (again.fact, again.questions, again.answers, again.champion) == ("30", 1, ANSWERS, 0)
    assert again.candidate == ANSWERS // 5
    assert told == [(1, 1), (2, 2)]


async def test_bad_luck_in_the_first_answers_does_not_count() -> None:
    evidence, _ = await found_with(answer_evaluations(every(2, only_the_first=5)))
    (again,) = evidence.asked_again
    assert (again.answers, again.champion, again.candidate) == (PORTION, 0, 0)


async def test_nothing_is_asked_again_where_nothing_looks_wrong() -> None:
    evidence, told = await found_with(answer_evaluations(lambda model, prompt: RIGHT))
    assert (evidence.known_facts, evidence.asked_again) == (1, ())
    assert told == [(1, 1)]


async def test_an_engine_that_fails_then_is_an_error_of_the_evaluation() -> None:
    right, refused, asked = answer_evaluations(every(5)), refuse(500, "The engine left."), count()

    async def behave(one: Asked) -> None:
        await (right if next(asked) < 100 else refused)(one)

    evidence, _ = await found_with(behave)
    assert evidence.errors > 100
    assert "The engine left." in evidence.error_examples[0]


@pytest.mark.parametrize(
    ("champion", "candidate", "low"),
    [(2, 46, 0.1499), (2, 26, 0.0633), (0, 2, -0.0175), (20, 20, -0.0720)],
)
def test_the_lower_bound_is_newcombes(champion: int, candidate: int, low: float) -> None:
    """Held to statsmodels' confint_proportions_2indep(method="newcomb")."""
    one = AskedAgain("30", 4, 200, champion, candidate)
    assert one.rise_low(0.99) == pytest.approx(low, abs=1e-4)
