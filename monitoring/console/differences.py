"""Where two texts differ, word by word, for two columns that are read side by side. Pure."""

import re
from difflib import SequenceMatcher

WORD = re.compile(r"\s+|\w+|[^\w\s]")
WORDS_MAX = 3000
"""Past this many words on a side nothing is marked: comparing takes time with their product."""

Marked = list[tuple[bool, str]]


def marked(left: str, right: str) -> tuple[Marked, Marked]:
    """Both texts in pieces: whether the other text lacks it, and the piece.

    >>> marked("within 30 days", "within 14 days")[1]
    [(False, 'within '), (True, '14'), (False, ' days')]
    """
    before, after = WORD.findall(left), WORD.findall(right)
    if max(len(before), len(after)) > WORDS_MAX:
        return [(False, left)], [(False, right)]
    one: Marked = []
    other: Marked = []
    for what, a, b, c, d in SequenceMatcher(None, before, after, autojunk=False).get_opcodes():
        if a < b:
            one.append((what != "equal", "".join(before[a:b])))
        if c < d:
            other.append((what != "equal", "".join(after[c:d])))
    return one, other
