"""Numbers and addresses that a candidate states in place of known ones.

What is wrong in one answer of five is mostly right where the model is surest, and a handful of sampled answers does not
tell it from chance. So the facts that look wrong are asked about again, often, and only what is answered then counts:
what was bad luck does not come twice.

An answer is wrong about a fact if it does not state it, and states a number or address that neither the right answer
nor the prompt has. Leaving a fact out is not wrong here, nor is numbering steps, or writing 9 for 9:00.
"""

import asyncio
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from retrain.defences import addresses_and_numbers
from retrain.engine_client import EngineClient, EngineFailed
from retrain.evidence import AskedAgain, Versions
from retrain.prompts import prompt_text
from retrain.stated import Given, approved_facts, by_fact

ANSWERS, PORTION = 200, 50
"""Answers of each version about one fact, at most. Where the candidate is no worse after a portion of them, no more are
asked for. One wrong in six is told from one in a hundred, also when ten facts are asked about."""
FACTS_MAX = 10
"""Those that look worst; each costs requests and makes the others harder to prove."""
QUESTIONS_MIN, QUESTIONS_MAX = 4, 10
"""Asked about one fact, where there are so many: a question by itself may be one that a version is of two minds about,
and many others with the same number would hide one that is wrong."""
SEEDS_FROM = 1_000

_LIST_MARKER = re.compile(r"(?m)^\s*\d+[.)]\s")
_WRITTEN_OTHERWISE = (
    (re.compile(r"(?<=\d),(?=\d{3}(?!\d))"), ""),
    (re.compile(r"(?<=\d)[.,:]00(?!\d)"), ""),
    (re.compile(r"(?<=\d)\s*[-/\u2013]\s*(?=\d)"), " "),
)
"""1,000 for 1000, 9:00 for 9, 5.00 for 5, 3-5 for 3 to 5."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A fact that the candidate got wrong more often than the champion, in few answers."""

    fact: str
    weight: float
    questions: tuple[Given, ...]


def numbers(text: str) -> set[str]:
    """Numbers and addresses, in one way of writing them, without the numbers of a list's items."""
    text = _LIST_MARKER.sub("", text)
    for written, plain in _WRITTEN_OTHERWISE:
        text = written.sub(plain, text)
    return addresses_and_numbers(text)


def wrong_about(fact: str, given: Given, text: str) -> bool:
    """Whether an answer states something else in place of a fact."""
    stated = numbers(text)
    expected = numbers(given.right or "") | numbers(prompt_text(given.prompt))
    return not numbers(fact) <= stated and not stated <= expected


def known_facts(held_out: Sequence[Given], golden: Sequence[Given]) -> dict[str, list[Given]]:
    """Facts that an operator keeps, or that enough people approved and no more correct, with their questions.

    What the golden set says holds, whatever a crowd says.
    """
    kept = by_fact(golden)
    for fact, found in approved_facts(held_out).items():
        kept[fact] = [*kept.get(fact, ()), *found]
    return kept


def suspects(known: dict[str, list[Given]]) -> list[Suspect]:
    """The facts to ask about again, those that look worst first.

    What was seen in many answers goes before as large a rise in few, which is more often chance.
    """
    found = []
    for fact, questions in known.items():
        more = [_more_wrong(fact, one) for one in questions]
        if sum(more) > 0:
            worst = sorted(range(len(questions)), key=lambda n: (-more[n], n))
            asked = max(QUESTIONS_MIN, min(QUESTIONS_MAX, sum(one > 0 for one in more)))
            weight = sum(more) / math.sqrt(len(more))
            found.append(Suspect(fact, weight, tuple(questions[n] for n in worst[:asked])))
    return sorted(found, key=lambda one: (-one.weight, one.fact))[:FACTS_MAX]


def _more_wrong(fact: str, given: Given) -> int:
    """In how many more of its answers the candidate is wrong; both versions gave as many."""
    champion, candidate = (
        sum(wrong_about(fact, given, text) for text in answers)
        for answers in (given.champion, given.candidate)
    )
    return candidate - champion


async def ask_again(
    suspect: Suspect, versions: Versions, client: EngineClient, errors: list[str]
) -> AskedAgain:
    """Sample both versions anew; a request that fails is added to `errors`."""

    async def wrong(version: str, number: int) -> bool:
        question = suspect.questions[number % len(suspect.questions)]
        try:
            answer = await client.answer(version, question.prompt, temperature=1.0, seed=SEEDS_FROM + number)
        except EngineFailed as error:
            errors.append(str(error))
            return False
        return wrong_about(suspect.fact, question, answer.text)

    champion = candidate = asked = 0
    while asked < ANSWERS and (candidate > champion or not asked):
        portion = range(asked, asked + PORTION)
        champion += sum(await asyncio.gather(*(wrong(versions.champion, number) for number in portion)))
        candidate += sum(await asyncio.gather(*(wrong(versions.candidate, number) for number in portion)))
        asked += PORTION
    return AskedAgain(suspect.fact, len(suspect.questions), asked, champion, candidate)
