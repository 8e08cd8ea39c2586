import random

from hypothesis import given, settings
from hypothesis import strategies as st

from retrain.language import language_of
from retrain.similar import Sketches, groups_of, shingles
from retrain.topics import find_topics

WORDS = [random.Random(n).randbytes(random.Random(n).randint(1, 4)).hex() for n in range(2000)]


def planted_pairs(number: int, seed: int = 0) -> list[tuple[str, str, float]]:
    """Pairs of texts, a few words of the second changed, with the Jaccard index of their 5-character shingles."""
    rng, pairs = random.Random(seed), []
    for _ in range(number):
        words = [rng.choice(WORDS) for _ in range(16)]
        changed = list(words)
        for place in rng.sample(range(16), rng.randint(0, 4)):
            changed[place] = rng.choice(WORDS)
        left, right = " ".join(words), " ".join(changed)
        ours, theirs = ({text[i : i + 5] for i in range(len(text) - 4)} for text in (left, right))
        pairs.append((left, right, len(ours & theirs) / len(ours | theirs)))
    return pairs


def test_near_duplicates_are_found_and_others_are_not() -> None:
    pairs = planted_pairs(2500)
    named = groups_of(
        (key, text) for key, text in enumerate(t for left, right, _ in pairs for t in (left, right))
    )
    together = [named.get(2 * n, 2 * n) == named.get(2 * n + 1, 2 * n + 1) for n in range(len(pairs))]

    def share(low: float, high: float) -> float:
        found = [hit for hit, (_, _, alike) in zip(together, pairs, strict=True) if low <= alike <= high]
        assert len(found) > 50
        return sum(found) / len(found)

    assert share(1.0, 1.0) == 1
    assert share(0.87, 0.99) > 0.95
    assert share(0.0, 0.68) < 0.01


def test_nearly_equal_texts_are_found_that_datasketchs_own_index_misses() -> None:
    from datasketch import MinHashLSH

    from retrain.similar import sketch

    pairs = [(left, right) for left, right, alike in planted_pairs(1500, seed=1) if 0.8 <= alike <= 0.9]
    index = MinHashLSH(threshold=0.8, num_perm=128)
    assert (index.b, index.r) == (9, 13)
    ours = groups_of((key, text) for key, text in enumerate(t for pair in pairs for t in pair))
    bands = [slice(start, start + index.r) for start in range(0, index.b * index.r, index.r)]
    theirs = sum(any((sketch(a)[band] == sketch(b)[band]).all() for band in bands) for a, b in pairs)
    assert sum(2 * n in ours for n in range(len(pairs))) > 0.6 * len(pairs)
    assert theirs < 0.75 * len(pairs)


@settings(max_examples=30)
@given(st.lists(st.text(min_size=1, max_size=40), min_size=1, max_size=12), st.randoms())
def test_groups_do_not_depend_on_the_order_of_texts(texts: list[str], rng: random.Random) -> None:
    keyed = list(enumerate(texts))
    shuffled = list(keyed)
    rng.shuffle(shuffled)
    assert groups_of(keyed) == groups_of(shuffled)


def test_a_key_is_sketched_once() -> None:
    sketches = Sketches()
    for _ in range(3):
        sketches.add(7, "the same text")
    assert len(sketches) == 1
    assert sketches.groups() == {}


@given(st.text(max_size=30))
def test_every_text_has_shingles_of_32_bits(text: str) -> None:
    found = shingles(text)
    assert len(found) >= 1
    assert int(found.max()) < 2**32


def test_topics_do_not_depend_on_the_order_of_questions_and_separate_subjects() -> None:
    rng = random.Random(0)
    subjects = (
        "where is the parcel that you sent",
        "may i give the broken kettle back",
        "which hours are you open",
    )
    asked = [(f"{rng.choice(subjects)} {rng.choice(WORDS)}?", f"r{n}") for n in range(300)]
    topics, again = find_topics(asked), find_topics(asked[::-1])
    assert topics.assign([text for text, _ in asked]) == again.assign([text for text, _ in asked])
    assert topics.names == again.names
    per_subject = [set(topics.assign([t for t, _ in asked if t.startswith(subject)])) for subject in subjects]
    assert all(not left & right for left in per_subject for right in per_subject if left is not right)


def test_a_topics_name_has_no_word_that_fewer_than_three_people_used() -> None:
    asked = [
        ("where is the parcel of mrs winterbottom", "r0"),
        ("where is the parcel of mrs winterbottom?", "r0"),
    ]
    asked += [(f"where is the parcel number {n}", f"r{n}") for n in range(60)]
    assert "parcel" in " ".join(find_topics(asked).names)
    assert "winterbottom" not in " ".join(find_topics(asked).names)


def test_languages_are_told_apart_by_script_and_common_words() -> None:
    written = {
        "en": "How long may I return a lamp?",
        "de": "Wie lange kann ich die Lampe zurückgeben?",
        "fr": "Combien de temps ai-je pour rendre la lampe ?",
        "es": "¿Cuánto tiempo tengo para devolver la lámpara?",
        "it": "Quanto tempo ho per restituire la lampada?",
        "nl": "Hoe lang kan ik de lamp terugbrengen?",
        "sv": "Hur länge kan jag lämna tillbaka lampan?",
        "pl": "Jak długo mogę zwrócić lampę?",
        "ja": "返品はいつまでできますか",
        "zh": "退货期限是多久",
        "ru": "Сколько дней на возврат?",
        "unknown": "ok 42",
    }
    assert {language_of(text): text for text in written.values()} == written
