"""Texts that say nearly the same: sketched one by one, grouped at the end. Equal texts, equal groups, in any order.

A text is its set of 5-character shingles after normalisation (Unicode form, case, spaces). Two texts are alike when the
Jaccard index of their sets is at least 0.8, as their MinHash sketches estimate it (128 permutations: standard error
0.035 at 0.8). Groups are chains: what is alike to something alike is in the group, which is named by its smallest key.

Only the sketches are kept, 300 bytes a text with its key: one byte of each minimum (b-bit minwise hashing, Li and
König 2010) and a hash of each band. 18 bands of 7 rows propose 98.5% of the pairs at 0.8; datasketch's own index
chooses 9 bands of 13 rows for that threshold, which propose 40% of them.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

SHINGLE_LENGTH = 5
SIMILARITY_MIN = 0.8
PERMUTATIONS = 128
BANDS, BAND_ROWS = 18, 7

_WEIGHTS = np.array([0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D, 0x27D4EB2F, 0x165667B1], dtype=np.uint64)
_MIX = np.uint64(0x9E3779B97F4A7C15)
_BLOCK = 4096


class Sketches:
    """Sketches of texts, each under a 64-bit key of the caller's."""

    def __init__(self) -> None:
        self._keys: list[int] = []
        self._known: set[int] = set()
        self._rows: list[NDArray[np.uint8]] = []
        self._bands: list[NDArray[np.uint32]] = []
        self._pending: list[NDArray[np.uint32]] = []

    def __len__(self) -> int:
        return len(self._known)

    def add(self, key: int, text: str) -> None:
        """Sketch a normalised text, unless its key is known already."""
        if key in self._known:
            return
        self._known.add(key)
        self._keys.append(key)
        self._pending.append(sketch(text))
        if len(self._pending) == _BLOCK:
            self._compress()

    def groups(self) -> dict[int, int]:
        """The name of the group of each key that is not alone in its group."""
        self._compress()
        if len(self._keys) < 2:
            return {}
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        # One after the other, and the parts let go: together they would need twice the memory.
        self._rows = [np.concatenate(self._rows)]
        self._bands = [np.concatenate(self._bands)]
        keys, pairs = np.array(self._keys, dtype=np.int64), _alike(self._rows[0], self._bands[0])
        size = len(keys)
        links = coo_array(
            (np.ones(len(pairs), dtype=np.int8), (pairs[:, 0], pairs[:, 1])), shape=(size, size)
        )
        count, label = connected_components(links, directed=False)
        name = np.full(count, np.iinfo(np.int64).max)
        np.minimum.at(name, label, keys)
        shared = np.flatnonzero(np.bincount(label, minlength=count)[label] > 1)
        return {int(keys[i]): int(name[label[i]]) for i in shared}

    def _compress(self) -> None:
        if not self._pending:
            return
        minima = np.stack(self._pending)
        self._pending.clear()
        self._rows.append(minima.astype(np.uint8))
        parts = minima[:, : BANDS * BAND_ROWS].reshape(len(minima), BANDS, BAND_ROWS).astype(np.uint64)
        mixed = np.zeros(parts.shape[:2], dtype=np.uint64)
        for row in range(BAND_ROWS):
            mixed = (mixed ^ parts[:, :, row]) * _MIX
            mixed ^= mixed >> np.uint64(29)
        self._bands.append((mixed >> np.uint64(32)).astype(np.uint32))


def sketch(text: str) -> NDArray[np.uint32]:
    """The MinHash of a normalised text."""
    empty = _empty()
    one = empty.copy()
    one.update_batch(shingles(text))
    minima: NDArray[np.uint32] = one.hashvalues
    return minima


def shingles(text: str) -> NDArray[np.uint64]:
    """Hashes, 32 bits wide, of the distinct shingles of a text."""
    return np.unique(shingle_hashes(text, SHINGLE_LENGTH) >> np.uint64(32))


def shingle_hashes(text: str, length: int) -> NDArray[np.uint64]:
    """A 64-bit hash of each run of `length` characters; a shorter text is filled up."""
    points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), dtype=np.uint32).astype(np.uint64)
    if len(points) < length:
        points = np.concatenate([points, np.zeros(length - len(points), dtype=np.uint64)])
    number = len(points) - length + 1
    hashes = points[:number] * _WEIGHTS[0]
    for place in range(1, length):
        hashes += points[place : place + number] * _WEIGHTS[place]
    mixed: NDArray[np.uint64] = (hashes ^ (hashes >> np.uint64(31))) * _MIX
    return mixed


def groups_of(texts: Iterable[tuple[int, str]]) -> dict[int, int]:
    """Groups of texts given with their keys; see `Sketches.groups`."""
    sketches = Sketches()
    for key, text in texts:
        sketches.add(key, text)
    return sketches.groups()


@functools.cache
def _empty() -> Any:
    from datasketch import MinHash

    # Its permutations take longer to draw than a text takes to sketch: one is made, and copied.
    return MinHash(num_perm=PERMUTATIONS, seed=1, hashfunc=int, scheme="affine32")


def _alike(rows: NDArray[np.uint8], bands: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Pairs of row numbers, alike as far as the sketches tell."""
    found = [np.empty((0, 2), dtype=np.int64)]
    for candidates in _candidates(bands):
        same = (rows[candidates[:, 0]] == rows[candidates[:, 1]]).mean(axis=1)
        # Two different minima have the same last byte once in 256.
        estimated = (same - 1 / 256) / (1 - 1 / 256)
        found.append(candidates[estimated >= SIMILARITY_MIN])
    return np.concatenate(found)


def _candidates(bands: NDArray[np.uint32]) -> Iterator[NDArray[np.int64]]:
    """Pairs whose hashes agree in a band: each text with those next to it in its bucket, and with the first."""
    for band in bands.T:
        order = np.argsort(band, kind="stable")
        ordered = band[order]
        starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        first = np.repeat(starts, np.diff(np.r_[starts, len(ordered)]))
        later = np.flatnonzero(first != np.arange(len(ordered)))
        for part in range(0, len(later), _BLOCK):
            here = later[part : part + _BLOCK]
            yield np.stack([order[here], order[here - 1]], axis=1)
            yield np.stack([order[here], order[first[here]]], axis=1)
