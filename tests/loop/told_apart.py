"""Which version computed an answer, told by its log-probabilities, on any processor and in any batch.

Answers are greedy. Rounding may turn a near-tie over, and what follows has another context, so two answers are
compared up to the first place where they part: parting is allowed at a near-tie only, and the values at that place
still have to agree. The first place always counts, and `clearly_differ` asks of it more than rounding can do.
"""

from dataclasses import dataclass

from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion

QUESTION = "How long may I return a lamp?"
ALTERNATIVES = 5
ROUNDING_NATS = 0.05
"""Batched and single answers differ in the last digits of float32 sums, and so do processors: far below this."""
VERSIONS_NATS = 0.3
"""By how much the first place of two versions must differ, at least."""


@dataclass(frozen=True)
class Place:
    """One token of an answer: the chosen one, and the largest log-probabilities, descending."""

    token: tuple[int, ...]
    top: tuple[float, ...]

    @property
    def is_near_tie(self) -> bool:
        return self.top[0] - self.top[1] <= ROUNDING_NATS

    def __str__(self) -> str:
        return f"{bytes(self.token)!r} {' '.join(f'{value:.2f}' for value in self.top)}"


@dataclass(frozen=True)
class Computed:
    """What a version computed for one answer."""

    places: tuple[Place, ...]

    @classmethod
    def of(cls, answer: ChatCompletion) -> "Computed":
        logprobs = answer.choices[0].logprobs
        assert logprobs is not None and logprobs.content
        places = []
        for one in logprobs.content:
            top = sorted((other.logprob for other in one.top_logprobs), reverse=True)
            assert len(top) >= ALTERNATIVES, f"{len(top)} alternatives of {ALTERNATIVES} came back"
            places.append(Place(tuple(one.bytes or one.token.encode()), tuple(top[:ALTERNATIVES])))
        return cls(tuple(places))

    def __str__(self) -> str:
        return " | ".join(str(place) for place in self.places)


async def ask(
    client: AsyncOpenAI, model: str, text: str = QUESTION, *, rater: str = "examiner"
) -> ChatCompletion:
    return await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": text}],
        max_tokens=8,
        temperature=0,
        logprobs=True,
        top_logprobs=ALTERNATIVES,
        safety_identifier=rater,
    )


def agree(one: Computed, other: Computed) -> bool:
    """Whether one version may have computed both."""
    for ours, theirs in zip(one.places, other.places, strict=False):
        if _largest_difference(ours, theirs) > ROUNDING_NATS:
            return False
        if ours.token != theirs.token:
            return ours.is_near_tie and theirs.is_near_tie
    return len(one.places) == len(other.places)


def clearly_differ(one: Computed, other: Computed) -> bool:
    """Whether no rounding makes one of the other, seen at the first place, whose context is the same."""
    return _largest_difference(one.places[0], other.places[0]) >= VERSIONS_NATS


def _largest_difference(one: Place, other: Place) -> float:
    return max(abs(a - b) for a, b in zip(one.top, other.top, strict=True))
