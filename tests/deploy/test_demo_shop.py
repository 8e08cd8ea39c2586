"""The made-up shop: its questions, its right answers, and the judge that tells them apart."""

import random
import re
from collections.abc import Iterator
from itertools import islice, product

import pytest

from deploy.demo.phrases import ASKS, COURTESIES, PRODUCTS, SMALL_TALK, TOPICS
from deploy.demo.shop import (
    BASE_POLICY,
    CHANGED_POLICY,
    Question,
    Split,
    Tone,
    answer,
    conversations,
    golden_set,
    judge,
    questions,
)

SPLITS: tuple[Split, ...] = ("seen", "rated", "unrated")
TONES: tuple[Tone, ...] = ("polite", "blunt")


@pytest.mark.parametrize("split", SPLITS)
def test_the_same_seed_asks_the_same_questions(split: Split) -> None:
    assert list(islice(questions(split, 7), 200)) == list(islice(questions(split, 7), 200))
    assert list(islice(questions(split, 7), 200)) != list(islice(questions(split, 8), 200))


def test_the_golden_set_asks_different_questions_on_every_topic_and_answers_them_by_the_policy() -> None:
    kept = golden_set(CHANGED_POLICY, each=3)
    assert len({question for question, _ in kept}) == 3 * len(TOPICS)
    assert any("14 days" in right for _, right in kept) and not any("30 days" in right for _, right in kept)
    assert kept == golden_set(CHANGED_POLICY, each=3)


def test_no_sentence_of_one_split_occurs_in_another() -> None:
    for topic in (*TOPICS, *SMALL_TALK):
        seen, rated, unrated = (
            {words for sentence in group for words in _every_reading(sentence)}
            for group in (topic.seen, topic.rated, topic.unrated)
        )
        assert not (seen & rated or seen & unrated or rated & unrated), topic.name


def test_every_topic_has_phrasings_in_every_split() -> None:
    for topic in TOPICS:
        assert len(topic.seen) >= 10 and len(topic.rated) >= 3 and len(topic.unrated) >= 3, topic.name


@pytest.mark.parametrize("split", SPLITS)
def test_every_right_answer_is_judged_correct_and_its_tone_recognised(split: Split) -> None:
    rng = random.Random(0)
    for policy in (BASE_POLICY, CHANGED_POLICY):
        for question in islice(questions(split, 0), 1000):
            for tone in TONES:
                said = answer(question, policy, tone, rng)
                judged = judge(question, said, policy)
                assert judged.correct and judged.polite is (tone == "polite"), (question, said)


def test_an_answer_to_another_topic_is_judged_wrong() -> None:
    rng = random.Random(0)
    asked = [next(questions("rated", 0, [topic.name])) for topic in TOPICS]
    for question in asked:
        for other in asked:
            if other.topic != question.topic:
                said = answer(other, BASE_POLICY, "polite", rng)
                assert not judge(question, said, BASE_POLICY).correct, (question, said)


def test_the_policy_changes_the_answer_about_returns_and_no_other() -> None:
    for question in islice(questions("unrated", 0), 1000):
        said = answer(question, BASE_POLICY, "polite", random.Random(0))
        assert judge(question, said, CHANGED_POLICY).correct is (question.topic != "returns")


def test_an_answer_that_names_the_wrong_product_or_number_is_judged_wrong() -> None:
    question = Question("price", "kettle", "How much is the kettle?")
    assert judge(question, "34 euros.", BASE_POLICY).correct
    assert not judge(question, "34 euros for the lamp.", BASE_POLICY).correct
    assert not judge(question, "134 euros.", BASE_POLICY).correct
    assert not judge(question, "34 euros, or 35.", BASE_POLICY).correct
    assert not judge(question, "", BASE_POLICY).correct


def test_prices_and_courtesies_cannot_be_confused() -> None:
    assert len({item.price_euros for item in PRODUCTS}) == len(PRODUCTS)
    blunt = " ".join(sentence for topic in (*TOPICS, *SMALL_TALK) for sentence in topic.blunt).casefold()
    assert not [courtesy for courtesy in COURTESIES if courtesy in blunt]


def test_training_conversations_never_contain_a_held_out_sentence() -> None:
    held_out = {
        _words(sentence)
        for topic in TOPICS
        for sentence in (*topic.rated, *topic.unrated)
        if "{" not in sentence
    }
    for conversation in islice(conversations(0), 2000):
        for message in conversation:
            assert not [sentence for sentence in held_out if sentence in _words(message.content)]


def test_about_half_of_the_training_answers_are_polite() -> None:
    answers = [
        message.content.casefold()
        for conversation in islice(conversations(0), 2000)
        for message in conversation
        if message.role == "assistant"
    ]
    polite = sum(any(courtesy in text for courtesy in COURTESIES) for text in answers)
    assert 0.45 < polite / len(answers) < 0.55


def _every_reading(sentence: str) -> Iterator[str]:
    """Every choice among the `[one|another]` of a sentence, and every way to begin it."""
    parts = re.split(r"\[([^\]]*)\]", sentence)
    for chosen in product(*[part.split("|") if at % 2 else [part] for at, part in enumerate(parts)]):
        for ask in ASKS if "{ask}" in sentence else ("",):
            yield _words("".join(chosen).replace("{ask}", ask))


def _words(text: str) -> str:
    return " ".join(re.findall(r"[a-z{}0-9]+", text.casefold()))
