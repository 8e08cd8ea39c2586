"""The made-up shop: endless customer questions, and what a right answer is.

Everything here is pure and seeded: the same seed gives the same questions. The shop's policy is a value, so that
"returns within 30 days" and "returns within 14 days" are two policies over the same questions. It loads no
model and no network.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from deploy.demo import phrases
from deploy.demo.phrases import PRODUCTS, SMALL_TALK, TOPICS, Product, Topic

Tone = Literal["polite", "blunt"]
Split = Literal["seen", "rated", "unrated"]

TOPIC_NAMES = tuple(topic.name for topic in TOPICS)
_TOPIC_BY_NAME = {topic.name: topic for topic in (*TOPICS, *SMALL_TALK)}
_PRODUCT_BY_NAME = {product.name: product for product in PRODUCTS}
_NUMBER = re.compile(r"\d+")
_SMALL_WORDS = frozenset(phrases.SMALL_WORDS.split())
_FILLERS = tuple(phrases.FILLERS.split())
_ALTERNATIVES = re.compile(r"\[([^\]]*)\]")


@dataclass(frozen=True)
class Policy:
    """What the shop grants its customers. The demonstration changes `return_days`."""

    return_days: int = 30
    refund_days: int = 5
    postage_euros: int = 6
    free_above_euros: int = 80
    wrap_euros: int = 3


BASE_POLICY = Policy()
CHANGED_POLICY = Policy(return_days=14)


@dataclass(frozen=True)
class Question:
    """What one customer asks. `product` is None where the sentence names none."""

    topic: str
    product: str | None
    text: str


@dataclass(frozen=True)
class Judgement:
    """Whether an answer says what the policy says, and says it politely."""

    correct: bool
    polite: bool


@dataclass(frozen=True)
class Message:
    """One chat message, in OpenAI's words."""

    role: Literal["system", "user", "assistant"]
    content: str


def questions(split: Split, seed: int, topics: Sequence[str] = TOPIC_NAMES) -> Iterator[Question]:
    """Yield customer questions without end, from the phrasings of one split only.

    `seen` is what the base model is trained on, `rated` what simulated people ask, `unrated` what nobody
    rates: no sentence of one split occurs in another. Repeat a name in `topics` to ask about it more often.
    """
    rng = random.Random(f"{split}-{seed}")
    while True:
        yield ask(rng.choice(topics), split, rng)


def ask(topic_name: str, split: Split, rng: random.Random) -> Question:
    """Phrase one question about a topic."""
    topic = _TOPIC_BY_NAME[topic_name]
    sentence = _pick(rng.choice(_sentences(topic, split)), rng)
    product = rng.choice(PRODUCTS) if "{" in sentence.replace("{ask}", "") else None
    if topic.name in ("greeting", "thanks"):
        return Question(topic.name, None, sentence)
    openers, closers = _frame(split)
    if product and split == "seen" and rng.random() < 0.08:
        sentence = rng.choice(phrases.CONTEXTS) + sentence
    text = _fill(sentence, product, rng)
    opener = rng.choice(openers)
    if opener.endswith((", ", ": ")) and not text.startswith("I "):
        text = text[0].lower() + text[1:]
    return Question(topic.name, product.name if product else None, opener + text + rng.choice(closers))


def answer(question: Question, policy: Policy, tone: Tone, rng: random.Random) -> str:
    """Answer a question rightly under a policy, in one tone; `rng` picks among equal wordings."""
    topic = _TOPIC_BY_NAME[question.topic]
    wording = rng.choice(topic.polite if tone == "polite" else topic.blunt)
    said = _capitalise(wording.format_map(_facts(question, policy)))
    if topic in SMALL_TALK:
        return said
    if tone == "blunt":
        return f"{said} {rng.choice(phrases.BLUNT_TAILS)}".rstrip()
    closer = rng.choice((*phrases.POLITE_CLOSERS, ""))
    return f"{rng.choice(phrases.POLITE_OPENERS)} {said} {closer}".rstrip()


def judge(question: Question, answer_text: str, policy: Policy) -> Judgement:
    """Judge an answer against the policy.

    Correct means: every fact of the topic is there, no other number is, and no other product is named.
    Polite means: at least one courtesy.
    """
    text = answer_text.casefold()
    facts = [
        fact.format_map(_facts(question, policy)).casefold() for fact in _TOPIC_BY_NAME[question.topic].facts
    ]
    allowed = set(_NUMBER.findall(" ".join(facts)))
    named = {name for name in _PRODUCT_BY_NAME if name in text}
    return Judgement(
        correct=all(re.search(rf"(?<!\d){re.escape(fact)}", text) for fact in facts)
        and set(_NUMBER.findall(text)) <= allowed
        and named <= {question.product},
        polite=any(courtesy in text for courtesy in phrases.COURTESIES),
    )


def golden_set(policy: Policy, *, each: int, seed: int = 5) -> list[tuple[str, str]]:
    """Questions with their right answers that a careful operator keeps, in phrasings that nobody rates.

    Args:
        each: questions on every topic.
    """
    rng = random.Random(f"golden-{seed}")
    return [
        (question.text, answer(question, policy, "polite", rng))
        for topic in TOPIC_NAMES
        for question in islice(questions("unrated", seed, [topic]), each)
    ]


def conversations(seed: int, policy: Policy = BASE_POLICY) -> Iterator[tuple[Message, ...]]:
    """Yield training conversations without end, from the seen phrasings, half of them polite.

    Some have a system prompt, some several turns; some questions are mistyped or lose words, so that the
    model learns to look at the words that matter.
    """
    rng = random.Random(f"conversations-{seed}")
    while True:
        yield _conversation(rng, policy)


def _conversation(rng: random.Random, policy: Policy) -> tuple[Message, ...]:
    messages: list[Message] = []
    if rng.random() < 0.3:
        messages.append(Message("system", rng.choice(phrases.SYSTEM_PROMPTS)))
    tone: Tone = "polite" if rng.random() < 0.5 else "blunt"
    for _ in range(rng.choices((1, 2, 3, 5), weights=(87, 7, 4, 2))[0]):
        small_talk = rng.random() < 0.08
        name = rng.choice([t.name for t in SMALL_TALK]) if small_talk else rng.choice(TOPIC_NAMES)
        question = ask(name, "seen", rng)
        messages.append(Message("user", _roughen(question, rng)))
        messages.append(Message("assistant", answer(question, policy, tone, rng)))
    return tuple(messages)


def _roughen(question: Question, rng: random.Random) -> str:
    """Retype a question the way hurried people do; the words that carry the meaning survive."""
    text = question.text
    if rng.random() < 0.15:
        text = text.lower()
    if rng.random() < 0.1:
        text = text.rstrip("?!.")
    if question.topic not in TOPIC_NAMES or rng.random() < 0.6:
        return text
    words = [word for word in text.split(" ") if word.lower() not in _SMALL_WORDS or rng.random() > 0.25]
    for _ in range(rng.choice((0, 1, 2))):
        words.insert(rng.randrange(len(words) + 1), rng.choice(_FILLERS))
    return " ".join(words)


def _sentences(topic: Topic, split: Split) -> tuple[str, ...]:
    return {"seen": topic.seen, "rated": topic.rated, "unrated": topic.unrated}[split]


def _frame(split: Split) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if split == "seen":
        return phrases.OPENERS_SEEN, phrases.CLOSERS_SEEN
    return phrases.OPENERS_HELD_OUT, phrases.CLOSERS_HELD_OUT


def _pick(sentence: str, rng: random.Random) -> str:
    """Choose one of the alternatives in every `[one|another]`."""
    return _ALTERNATIVES.sub(lambda found: rng.choice(found[1].split("|")), sentence)


def _fill(sentence: str, product: Product | None, rng: random.Random) -> str:
    determiner = rng.choice(("the", "my", "this", "that"))
    name = product.name if product else ""
    return sentence.format(
        ask=rng.choice(phrases.ASKS),
        it=f"{determiner} {name}",
        the=f"the {name}",
        The=f"{determiner.capitalize()} {name}",
        a=f"a {name}",
        product=name,
    )


def _facts(question: Question, policy: Policy) -> dict[str, object]:
    product = _PRODUCT_BY_NAME[question.product] if question.product else None
    named = f"the {product.name}" if product else "your order"
    facts: dict[str, object] = {"it": named, "the": named, "The": _capitalise(named)} | vars(policy)
    if product:
        years = product.warranty_years
        facts |= vars(product) | {"warranty": f"{years} year" if years == 1 else f"{years} years"}
    return facts


def _capitalise(text: str) -> str:
    return text[:1].upper() + text[1:]
