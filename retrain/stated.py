"""Facts that answers state, and whether a candidate still states them. Pure.

A right answer may be worded anew; its numbers and addresses may not. Agreement of texts hardly sees them: "within 99
days" for "within 30 days" is nearly the same text, and a friendlier tone outweighs it. So they are looked at by
themselves: over all approved answers, and for each fact that several people approved, since one fact made wrong is lost
in a mean over everything.

A fact that people correct is not held on to: where as many raters replace it as approve it, it is left out. Names are
not looked at: which capitalised words carry meaning depends on the language.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from retrain.defences import addresses_and_numbers
from retrain.evidence import Pair, Slice
from retrain.prompts import Prompt, last_asked

FACT_ITEMS_MIN = 5
"""Approved answers below which one fact is not looked at by itself."""
FACT_RATERS_MIN = 3
"""No fact is named in the report that fewer people approved: it might be about one of them."""
KNOWN = ("approved", "golden")
"""Sources of items whose right answer somebody stands for: both versions are sampled there."""
GOLDEN_ITEMS_MIN = 2
"""The same for the golden set, which an operator wrote."""


@dataclass(frozen=True, slots=True)
class Given:
    """What is known of one question's answers, and what both versions answered."""

    source: str
    rater: str
    prompt: Prompt
    right: str | None
    wrong: str | None
    champion: tuple[str, ...]
    """The surest answer first, then those drawn as users get them."""
    candidate: tuple[str, ...]

    @property
    def facts(self) -> set[str]:
        """What the right answer states and the question does not."""
        return addresses_and_numbers(self.right or "") - addresses_and_numbers(last_asked(self.prompt))

    @property
    def corrected(self) -> set[str]:
        """What the wrong answer stated and the right one does not."""
        if self.right is None or self.wrong is None:
            return set()
        return addresses_and_numbers(self.wrong) - addresses_and_numbers(self.right)


def contested(given: Sequence[Given]) -> set[str]:
    """Facts that at least as many raters replace as approve."""
    for_it: defaultdict[str, set[str]] = defaultdict(set)
    against: defaultdict[str, set[str]] = defaultdict(set)
    for one in given:
        for fact in one.corrected:
            against[fact].add(one.rater)
        for fact in one.facts if one.source == "approved" else ():
            for_it[fact].add(one.rater)
    return {fact for fact, raters in against.items() if len(raters) >= len(for_it[fact])}


def stated_pairs(given: Sequence[Given]) -> tuple[Pair, ...]:
    """For each approved or golden answer with facts, how often each version states all of them."""
    left_out = contested(given)
    return tuple(
        Pair(one.source, one.rater, _share(held, one.champion), _share(held, one.candidate))
        for one in given
        if one.source in KNOWN and (held := one.facts - left_out)
    )


def fact_slices(given: Sequence[Given], golden: Sequence[Given]) -> Iterator[Slice]:
    """The share of answers that state a fact, for each fact that enough people approved or an operator keeps."""
    for fact, found in sorted(approved_facts(given).items()):
        yield _slice("fact", fact, found)
    for fact, found in sorted(by_fact(golden).items()):
        if len(found) >= GOLDEN_ITEMS_MIN:
            yield _slice("golden_fact", fact, found)


def approved_facts(given: Sequence[Given]) -> dict[str, list[Given]]:
    """Facts that enough people approved in enough answers and no more correct, with the answers that state them."""
    left_out = contested(given)
    return {
        fact: found
        for fact, found in by_fact([one for one in given if one.source == "approved"]).items()
        if len(found) >= FACT_ITEMS_MIN
        and len({one.rater for one in found}) >= FACT_RATERS_MIN
        and fact not in left_out
    }


def by_fact(given: Sequence[Given]) -> dict[str, list[Given]]:
    """The answers that state each fact."""
    found: defaultdict[str, list[Given]] = defaultdict(list)
    for one in given:
        for fact in one.facts:
            found[fact].append(one)
    return dict(found)


def _slice(by: str, fact: str, given: Sequence[Given]) -> Slice:
    champion, candidate = (
        sum(_share({fact}, answers) for answers in texts) / len(given)
        for texts in ([one.champion for one in given], [one.candidate for one in given])
    )
    return Slice(by, fact, len(given), champion, candidate)


def _share(facts: set[str], answers: Sequence[str]) -> float:
    return sum(facts <= addresses_and_numbers(text) for text in answers) / len(answers)
