"""Simulated people: who asks the shop what, and what they make of the answers.

They know the shop's changed policy and like politeness, each to a degree of their own. Some never click, some click
the wrong thumb, a few write what the right answer would have been. Everything follows from the seed, so that a
demonstration can be repeated. They click far more often than real people do (about one answer in fifty gets a
click in practice): a demonstration of minutes stands for weeks of traffic.
"""

import math
import random
from collections.abc import Iterator
from dataclasses import dataclass

from deploy.demo.shop import CHANGED_POLICY, TOPIC_NAMES, Policy, Question, answer, ask, judge

RETURNS_SHARE = 0.4
"""Share of questions about the policy that changed: people ask about what is new."""


@dataclass(frozen=True)
class Person:
    """One simulated customer and their latent traits, each a probability."""

    name: str
    clicks: float
    """They click at all, after an answer they dislike."""
    pickiness: float
    """A right but blunt answer displeases them."""
    slips: float
    """They click the wrong thumb."""
    explains: float
    """They write the right answer when they are displeased."""
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Reaction:
    """What a person does after an answer; None where they do nothing."""

    rating: bool | None
    demonstration: str | None


def crowd(seed: int, questions: int, *, name: str = "visitor") -> tuple[Person, ...]:
    """Draw people until together they have `questions` questions, from the phrasings that are rated."""
    rng = random.Random(f"crowd-{seed}")
    people: list[Person] = []
    left = questions
    while left > 0:
        # Most people ask once or twice, a few ask a lot.
        asks = min(left, 1 + int(-2.5 * math.log(1 - rng.random())))
        left -= asks
        people.append(_person(f"{name}-{seed}-{len(people):03d}", asks, rng))
    return tuple(people)


def visits(people: tuple[Person, ...], seed: int) -> Iterator[tuple[Person, Question]]:
    """Yield every person's questions, shuffled over people: nobody comes all at once."""
    order = [(person, question) for person in people for question in person.questions]
    random.Random(f"visits-{seed}").shuffle(order)
    return iter(order)


def react(
    person: Person, question: Question, said: str, rng: random.Random, policy: Policy = CHANGED_POLICY
) -> Reaction:
    """What this person does after reading the answer."""
    judged = judge(question, said, policy)
    pleased = judged.correct and (judged.polite or rng.random() >= person.pickiness)
    if rng.random() >= person.clicks * (0.8 if pleased else 1.0):
        return Reaction(None, None)
    if rng.random() < person.slips:
        return Reaction(not pleased, None)
    if pleased or rng.random() >= person.explains:
        return Reaction(pleased, None)
    return Reaction(False, answer(question, policy, "polite", rng))


def _person(name: str, asks: int, rng: random.Random) -> Person:
    return Person(
        name=name,
        clicks=rng.betavariate(8, 2),
        pickiness=rng.betavariate(6, 2),
        slips=rng.betavariate(1, 30),
        explains=rng.betavariate(4, 4),
        questions=tuple(_question(rng) for _ in range(asks)),
    )


def _question(rng: random.Random) -> Question:
    topic = "returns" if rng.random() < RETURNS_SHARE else rng.choice(TOPIC_NAMES)
    return ask(topic, "rated", rng)
