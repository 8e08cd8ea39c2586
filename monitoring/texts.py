"""Texts as numbers, without a model and without a download: hashed character n-grams, and a guess at the language.

Good enough to see that people talk about something else, or in another tongue; not meant to find similar texts.
"""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from monitoring.sequential import Floats, floats

SIZES = (3, 4, 5)
DIMENSIONS = 512
CHARACTERS_MAX = 2_000
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
WORD = re.compile(r"[^\W\d_]+")

COMMON_WORDS: dict[str, frozenset[str]] = {
    code: frozenset(words.split())
    for code, words in {
        "en": "the and you is are what how can my for to it do with this that have i a",
        "de": "der die das und ich ist nicht wie kann mein für zu es mit sie wir ein eine haben",
        "fr": "le la les et je est pas comment mon pour il avec vous nous un une des que ce",
        "es": "el los las y yo es no cómo mi para lo con usted nosotros un una qué este por",
        "it": "il gli e io è non come mio per lo con lei noi un una che questo del sono",
        "pt": "o os as e eu é não como meu para com você nós um uma que este do da",
        "nl": "de het en ik is niet hoe kan mijn voor te met u wij een van dat dit",
    }.items()
}
SCRIPTS: tuple[tuple[str, int, int], ...] = (
    ("greek", 0x370, 0x3FF),
    ("cyrillic", 0x400, 0x52F),
    ("hebrew", 0x590, 0x5FF),
    ("arabic", 0x600, 0x6FF),
    ("indic", 0x900, 0xDFF),
    ("thai", 0xE00, 0xE7F),
    ("japanese", 0x3040, 0x30FF),
    ("chinese", 0x4E00, 0x9FFF),
    ("korean", 0xAC00, 0xD7AF),
)


def embed(texts: Sequence[str]) -> Floats:
    """Embeddings (texts, DIMENSIONS) of length one; an empty text is all zeros."""
    found = np.zeros((len(texts), DIMENSIONS))
    for row, text in zip(found, texts, strict=True):
        row += _counts(text.lower()[:CHARACTERS_MAX])
    # Square roots keep a word that is repeated from drowning the others.
    found = np.sqrt(found)
    length = np.linalg.norm(found, axis=1, keepdims=True)
    return floats(np.divide(found, length, out=found, where=length > 0))


def _counts(text: str) -> NDArray[np.int64]:
    points = np.frombuffer(f" {text} ".encode("utf-32-le", "replace"), dtype=np.uint32).astype(np.uint64)
    counts = np.zeros(DIMENSIONS, dtype=np.int64)
    for size in SIZES:
        if len(points) >= size:
            windows = np.lib.stride_tricks.sliding_window_view(points, size)
            hashed = np.zeros(len(windows), dtype=np.uint64)
            for place in range(size):
                hashed = (hashed ^ windows[:, place]) * MULTIPLIER
            buckets = (hashed >> np.uint64(40)) % np.uint64(DIMENSIONS)
            counts += np.bincount(buckets.astype(np.int64), minlength=DIMENSIONS)
    return counts


def guess_language(text: str) -> str:
    """A language code by its commonest words, else the name of its script; `other` when nothing tells."""
    letters = [ord(letter) for letter in text[:CHARACTERS_MAX] if letter.isalpha()]
    for name, first, last in SCRIPTS:
        if letters and sum(first <= letter <= last for letter in letters) > 0.3 * len(letters):
            return name
    words = WORD.findall(text[:CHARACTERS_MAX].lower())
    hits = {code: sum(word in common for word in words) for code, common in COMMON_WORDS.items()}
    best = max(hits, key=lambda code: hits[code])
    return best if hits[best] else "other"
