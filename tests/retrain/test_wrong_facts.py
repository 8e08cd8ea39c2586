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
from retrain.wrong_facts import ANSWERS, FACTS_MAX, PORTION, Question, known_facts, suspects, wrong_about
from tests.fakes import Asked, Behaviour, answer_evaluations, fake_engine, refuse
from tests.retrain.test_evaluate import CANDIDATE, VERSIONS, an_item
from tests.retrain.test_stated import RIGHT, WRONG, given

ASK = [{"role": "user", "content": "How long may I return it?"}]


def asked(one: Given) -> Question:
    return Question([{"role": "user", "content": one.asked}], one)


def kept(**changes: Any) -> Question:
    return asked(replace(given("", source="golden"), **changes))


def approved(number: int = 6, people: int = 3, **changes: Any) -> list[Question]:
    return [asked(given(f"rater-{n % people}", **changes)) for n in range(number)]


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        (RIGHT, False),
        (WRONG, True),
        ("For a month.", False),  # left out, not replaced
        ("Order 7: you have 30 days.", False),  # more was said, nothing replaced
        ("30 days, not 99.", False),
        ("See 2 for that.", False),  # what the question says is nobody's fact
        ("Write to help@example.org.", True),
    ],
)
def test_a_fact_is_wrong_where_another_stands_in_its_place(text: str, wrong: bool) -> None:
    one = replace(given("ann"), asked="How long for parcel 2?")
    assert wrong_about("30", one, text) is wrong


def test_the_golden_set_is_believed_whatever_a_crowd_says() -> None:
    crowd = [asked(given(f"new-{n}", source="demonstration", right=WRONG, wrong=RIGHT)) for n in range(60)]
    assert known_facts([*approved(), *crowd], []) == {}
    assert list(known_facts([*approved(), *crowd], [kept()])) == ["30"]
    assert len(known_facts([*approved(), *crowd], [kept()])["30"]) == 1


def test_without_an_operator_a_fact_needs_three_people_and_five_answers() -> None:
    assert list(known_facts(approved(), [])) == ["30"]
    assert known_facts(approved(people=2), []) == {}
    assert known_facts(approved(4), []) == {}


def test_only_facts_that_look_worse_than_the_champions_are_asked_about() -> None:
    wavers = (RIGHT, RIGHT, WRONG, RIGHT, RIGHT)
    assert suspects({"30": [kept(champion=wavers, candidate=wavers)]}) == []
    assert suspects({"30": [kept(champion=wavers, candidate=(RIGHT,) * 5)]}) == []
    (found,) = suspects({"30": [kept(champion=(RIGHT,) * 5, candidate=wavers), kept()]})
    assert (found.fact, len(found.questions)) == ("30", 2)
    assert found.rise == pytest.approx(1 / 6)


def test_of_many_the_worst_are_asked_about() -> None:
    def one_of(n: int) -> Question:
        right = f"{n} days."
        return kept(right=right, champion=(right,), candidate=(WRONG,) * (n % 20 + 1) + (right,) * 20)

    known = {f"{n}": [one_of(n)] for n in range(200, 240)}
    found = suspects(known)
    assert len(found) == FACTS_MAX
    assert found[0].rise == max(one.rise for one in found) == pytest.approx(20 / 40)


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
