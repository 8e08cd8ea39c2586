"""Topics of questions: clusters of hashed character n-grams, found offline. The same questions, the same topics.

K-means on the sphere over TF-IDF of hashed 4-character shingles, seeded, from a sample. It needs no model and no
download, and it knows nothing of meaning: "return the lamp" and "send it back" may be two topics. It serves to see how
a dataset is spread, and to bound what one rater says on one subject.

A topic is named by words that at least three raters used, so that no name tells what one person wrote.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from retrain.similar import shingle_hashes

SAMPLE_MAX = 2000
TOPICS_MAX = 24
QUESTIONS_PER_TOPIC = 40
NAME_WORDS = 3
NAMED_BY_RATERS_MIN = 3

_BUCKETS = 4096
_AT_ONCE = 100
_ROUNDS = 25
SHARED_BY_MIN = 0.02
"""Shingles in a smaller share of the questions count for nothing."""
_WORD = re.compile(r"[^\W\d_]{3,}")


@dataclass(frozen=True, slots=True)
class Topics:
    """What was learnt of a sample; `assign` says where any text belongs."""

    weights: NDArray[np.float32]
    """Inverse document frequency of each bucket."""
    centres: NDArray[np.float32]
    """(topics, buckets), each of length one."""
    names: tuple[str, ...]

    def assign(self, texts: Sequence[str]) -> list[int]:
        """The topic of each normalised text."""
        found: list[int] = []
        for start in range(0, len(texts), _AT_ONCE):
            vectors = _vectors(texts[start : start + _AT_ONCE], self.weights)
            found += np.argmax(vectors @ self.centres.T, axis=1).tolist()
        return found


def find_topics(questions: Sequence[tuple[str, str]]) -> Topics:
    """Topics of a sample of (normalised text, rater)."""
    ordered = sorted(set(questions))[:SAMPLE_MAX] or [("", "")]
    texts = [text for text, _ in ordered]
    counts = np.stack([_counts(text) for text in texts])
    found_in = (counts > 0).sum(axis=0)
    weights = np.log((1 + len(texts)) / (1 + found_in)).astype(np.float32)
    # What hardly anybody else says is no topic, and would outweigh what many say.
    weights[found_in < max(2, SHARED_BY_MIN * len(texts))] = 0
    vectors = _scaled(counts * weights)
    number = max(1, min(TOPICS_MAX, len(texts) // QUESTIONS_PER_TOPIC))
    centres = _centres(vectors, number)
    topics = np.argmax(vectors @ centres.T, axis=1)
    return Topics(weights, centres, _names(ordered, topics, len(centres)))


def _centres(vectors: NDArray[np.float32], number: int) -> NDArray[np.float32]:
    """K-means++ and Lloyd's rounds, on unit vectors."""
    random = np.random.default_rng(0)
    centres = vectors[[0]]
    while len(centres) < number:
        distances = np.clip(1 - (vectors @ centres.T).max(axis=1), 0, None).astype(np.float64)
        if distances.sum() <= 1e-9:
            break
        chosen = random.choice(len(vectors), p=distances / distances.sum())
        centres = np.vstack([centres, vectors[chosen]])
    for _ in range(_ROUNDS):
        nearest = np.argmax(vectors @ centres.T, axis=1)
        members = np.eye(len(centres), dtype=np.float32)[nearest]
        moved = _scaled(members.T @ vectors)
        # A centre that lost its members stays where it is.
        moved = np.where(members.any(axis=0)[:, None], moved, centres).astype(np.float32)
        if np.array_equal(moved, centres):
            break
        centres = moved
    return centres


def _names(questions: Sequence[tuple[str, str]], topics: NDArray[np.int64], number: int) -> tuple[str, ...]:
    raters_of: list[dict[str, set[str]]] = [defaultdict(set) for _ in range(number)]
    everywhere: dict[str, set[str]] = defaultdict(set)
    for (text, rater), topic in zip(questions, topics, strict=True):
        for word in set(_WORD.findall(text)):
            raters_of[topic][word].add(rater)
            everywhere[word].add(rater)
    names = []
    for topic in range(number):
        said = {w: len(r) for w, r in raters_of[topic].items() if len(r) >= NAMED_BY_RATERS_MIN}
        typical = sorted(said, key=lambda word: (-(said[word] ** 2) / len(everywhere[word]), word))
        names.append(" ".join(typical[:NAME_WORDS]) or f"topic {topic + 1}")
    return tuple(names)


def _vectors(texts: Sequence[str], weights: NDArray[np.float32]) -> NDArray[np.float32]:
    return _scaled(np.stack([_counts(text) for text in texts]) * weights)


def _scaled(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return (vectors / np.where(lengths > 0, lengths, 1)).astype(np.float32)


def _counts(text: str) -> NDArray[np.float32]:
    buckets = (shingle_hashes(text, 4) >> np.uint64(40)).astype(np.int64) % _BUCKETS
    # Sublinear: a word said five times is not five times the topic.
    return np.log1p(np.bincount(buckets, minlength=_BUCKETS)).astype(np.float32)
