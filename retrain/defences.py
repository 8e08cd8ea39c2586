"""What a single row or rater gives away about itself, before anything is counted. Pure.

- `dictates`: a prompt that tells the model what to answer, so that rating the answer rates the prompter's own words.
- `new_facts`: what a correction states that was in neither the question nor the answer before.
- `distrusted`: a rater whose votes disagree with everybody's. Beta posterior on agreement, uniform prior.
- `Predictor`: what other people would have voted, learnt without the rater's own votes.

Nothing here proves bad faith. It decides what waits for a person, not who is banned.
"""

import hashlib
import itertools
import re
from collections.abc import Iterable
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

DISTRUST_PROBABILITY = 0.95
COIN = 0.5
FOLDS = 5

_SAY = (
    r"(?:say|answer|respond|reply|write|output|print|repeat|return|state|tell me)"
    r"(?:\s+(?:me|back|only|exactly|just|with|word for word|verbatim|the following|this|after me|nothing but))*"
)
_QUOTED = r"(?::\s*)?[\"'`\u201c\u201e\u00ab\u2018][^\"'`\u201c\u201d\u00bb\u2019]{2,}[\"'`\u201c\u201d\u00bb\u2019]"
_DICTATION = (
    re.compile(rf"\b{_SAY}\s*{_QUOTED}", re.IGNORECASE),
    re.compile(r"\brepeat\s+(?:after me|the following|this)\b", re.IGNORECASE),
    re.compile(
        r"\b(?:flip|toss|throw)\s+a\s+(?:\w+\s+)?coin\b|\broll\s+a\s+di(?:e|ce)\b|\b(?:pick|choose|decide|answer|select)"
        r"\b[^.?!]{0,30}\bat random\b|\brandomly\s+(?:pick|choose|select|answer|say|output|respond|decide)\b",
        re.IGNORECASE,
    ),
    re.compile(r"\bwith\s+(?:a\s+)?(?:50|fifty)\s*(?:%|percent)\s+(?:probability|chance)\b", re.IGNORECASE),
    re.compile(rf"\beither\s+(?:{_SAY}\s+)?{_QUOTED}\s+or\b", re.IGNORECASE),
)

_ADDRESS = re.compile(
    r"[\w.+-]+@[\w-]+\.\w+|\bhttps?://\S+|\bwww\.\S+|\b[\w-]+\.(?:com|org|net|io|shop|info)\b", re.I
)
_NUMBER = re.compile(r"\d+(?:[.,:/-]\d+)*")
_NAME = re.compile(r"(?<![.!?:\n\"“„] )(?<!^)\b[^\W\d_a-zß-öø-ÿ][^\W\d_]{2,}", re.MULTILINE)


def dictates(question: str) -> bool:
    """Whether a prompt hands over the words of the answer, or lets chance choose between answers."""
    return any(pattern.search(question) for pattern in _DICTATION)


def facts(text: str) -> set[str]:
    """Numbers, dates, addresses, and names inside sentences; normalised."""
    return addresses_and_numbers(text) | {match.casefold() for match in _NAME.findall(text)}


def addresses_and_numbers(text: str) -> set[str]:
    """The facts that no wording changes: numbers, dates and addresses; normalised."""
    found = {match.casefold().rstrip(".,;") for match in _ADDRESS.findall(text)}
    return found | {match.strip(".,:/-") for match in _NUMBER.findall(text)}


def new_facts(correction: str, *known: str) -> set[str]:
    """Facts of a correction that none of the known texts states."""
    stated = facts(correction)
    if not stated:
        return stated
    told = " ".join(known).casefold()
    stated -= set().union(*(facts(one) for one in known))
    return {fact for fact in stated if not re.search(rf"(?<!\w){re.escape(fact)}(?!\w)", told)}


def distrusted(agreed: int, disagreed: int) -> bool:
    """Whether the chance that a rater agrees less often than a coin would is above 95%.

    Ten, twenty and forty votes of a rater who turns every vote around are recognised in 62%, 87% and 98% of the cases
    when those who vote honestly agree 85% of the time; of these fewer than one in a thousand is.
    """
    from scipy.special import betainc

    return bool(betainc(1 + agreed, 1 + disagreed, COIN) > DISTRUST_PROBABILITY)


class Predictor:
    """Naive Bayes over hashed words of answers, in which each vote is predicted without the votes of its own fold.

    A rater is in one fold, so nobody's vote speaks for itself. Constant memory: a table of counts for each fold.
    """

    BUCKETS = 1 << 14
    SURE = 0.7
    EVIDENCE_MIN = 20

    def __init__(self) -> None:
        self._words = np.zeros((FOLDS, 2, self.BUCKETS), dtype=np.float32)
        self._votes = np.zeros((FOLDS, 2), dtype=np.float64)

    def learn(self, rater: str, features: NDArray[np.uint16], up: bool) -> None:
        """Count one vote."""
        fold = fold_of(rater)
        self._votes[fold, int(up)] += 1
        self._words[fold, int(up), features] += 1

    def predict(self, rater: str, features: bytes) -> bool | None:
        """What raters of other folds would vote on an answer with these features; None when they are not sure."""
        fold, found = fold_of(rater), np.frombuffer(features, dtype=np.uint16)
        votes = self._votes.sum(axis=0) - self._votes[fold]
        if votes.min() < self.EVIDENCE_MIN:
            return None
        seen = self._words[:, :, found].sum(axis=0) - self._words[fold][:, found]
        rates = (seen + 0.5) / (votes[:, None] + 1)
        # Words of one answer are far from independent: their evidence grows with the root of their number.
        log_odds = np.log(rates[1] / rates[0]).mean() * np.sqrt(len(found)) + np.log(votes[1] / votes[0])
        probability = 1 / (1 + np.exp(-np.clip(log_odds, -30, 30)))
        if max(probability, 1 - probability) < self.SURE:
            return None
        return bool(probability > COIN)

    def features(self, answer: str) -> NDArray[np.uint16]:
        """Buckets of the words and pairs of words of a normalised answer."""
        words = answer.split()
        pairs = (" ".join(pair) for pair in itertools.pairwise(words))
        found = {
            crc32(feature.encode("utf-8", "surrogatepass")) % self.BUCKETS for feature in (*words, *pairs, "")
        }
        return np.array(sorted(found), dtype=np.uint16)


def fold_of(rater: str) -> int:
    """The fold of a rater: depends on the name alone."""
    return hashlib.sha256(f"fold:{rater}".encode()).digest()[0] % FOLDS


def claim_keys(found: Iterable[str]) -> list[int]:
    """64-bit keys of facts, sorted."""
    return sorted(key_of(fact) for fact in found)


def key_of(text: str) -> int:
    """A signed 64-bit number that depends on the text alone, as PostgreSQL's bigint holds it."""
    return int.from_bytes(
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), signed=True
    )
