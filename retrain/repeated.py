"""Whether a version says the same thing twice in one answer: how a model that was trained too hard breaks first.

It begins an answer, breaks off and begins again: "The tent costs 12Thank you for asking! The tent costs 125 euros."
Numbers are still there, the tone is right, and the surest answer is often whole. So it is looked for in sampled answers
too, as users get them, beside the champion's to the same prompts: who answers in lists repeats words, and may go on to.
"""

from collections.abc import Sequence

from retrain.evidence import Pair
from retrain.stated import KNOWN, Given

SEQUENCE_WORDS = 3
WORDS_MIN = 12
LOOPS_SHARE = 0.5
"""An answer of which more than this was said before is broken, whoever gives it."""
TWICE_SHARE = 0.1
"""An answer of which more than this was said before is counted."""


def said_before(text: str) -> float:
    """The share of a text's three-word sequences that it already had."""
    words = text.split()
    found = [tuple(words[n : n + SEQUENCE_WORDS]) for n in range(len(words) - SEQUENCE_WORDS + 1)]
    return 1 - len(set(found)) / len(found) if found else 0.0


def loops(text: str) -> bool:
    """Whether a text of some length says most of it again."""
    return len(text.split()) >= WORDS_MIN and said_before(text) > LOOPS_SHARE


def repeated_pairs(given: Sequence[Given]) -> tuple[Pair, ...]:
    """For each approved or golden answer, in how many of its answers a version says things twice."""
    return tuple(
        Pair(one.source, one.rater, _share(one.champion), _share(one.candidate))
        for one in given
        if one.source in KNOWN
    )


def _share(answers: Sequence[str]) -> float:
    return sum(said_before(text) > TWICE_SHARE for text in answers) / len(answers)
