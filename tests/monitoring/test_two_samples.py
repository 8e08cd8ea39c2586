"""Windows that differ, windows that do not, and raters who say the same thing many times."""

import numpy as np
import pytest
from scipy.stats import ks_2samp

from monitoring.drift_rules import DriftRules, judge_window
from monitoring.texts import embed, guess_language
from monitoring.two_samples import Column, adjust, compare_windows

SHOP = ("where is my parcel", "how long may I return a lamp", "can you repair the kettle", "is it on sale")


def rows(count: int) -> list[str]:
    return [f"rater-{number}" for number in range(count)]


def halves(count: int) -> np.ndarray:
    return np.arange(count) >= count // 2


def test_numbers_from_one_source_do_not_differ_and_a_shift_does() -> None:
    rng = np.random.default_rng(1)
    values = rng.normal(size=600)
    shifted = values + np.where(halves(600), 0.5, 0.0)
    same, moved = (
        compare_windows([Column("x", "numbers", one)], rows(600), halves(600))[0] for one in (values, shifted)
    )
    assert same.p > 0.05 and moved.p < 0.001
    assert moved.statistic == pytest.approx(ks_2samp(shifted[300:], shifted[:300]).statistic)


def test_categories_differ_when_their_shares_do() -> None:
    rng = np.random.default_rng(5)
    votes = rng.choice(3, 1000, p=[0.1, 0.02, 0.88])
    worse = np.where(halves(1000), rng.choice(3, 1000, p=[0.1, 0.1, 0.8]), votes)
    same, moved = (
        compare_windows([Column("vote", "categories", one)], rows(1000), halves(1000))[0]
        for one in (votes, worse)
    )
    assert same.p > 0.05 and moved.p < 0.001


def test_texts_about_something_else_differ() -> None:
    rng = np.random.default_rng(3)
    asked = [f"{SHOP[int(rng.integers(4))]} {rng.integers(100)}" for _ in range(600)]
    other = [
        "write a poem about the sea" if late and number % 5 == 0 else text
        for number, (text, late) in enumerate(zip(asked, halves(600), strict=True))
    ]
    same, moved = (
        compare_windows([Column("text", "texts", embed(texts))], rows(600), halves(600))[0]
        for texts in (asked, other)
    )
    assert same.p > 0.05 and moved.p < 0.001


def test_one_rater_who_repeats_himself_is_no_drift() -> None:
    values = np.concatenate([np.zeros(300), np.zeros(250), np.ones(50)])
    raters = [*rows(550), *["the same rater"] * 50]
    [alone] = compare_windows([Column("x", "numbers", values)], raters, halves(600))
    [many] = compare_windows([Column("x", "numbers", values)], rows(600), halves(600))
    assert alone.p > 0.05 and many.p < 0.001


def test_adjusted_p_values_are_those_of_benjamini_and_hochberg() -> None:
    assert adjust([0.01, 0.04, 0.03, 0.005]).tolist() == pytest.approx([0.02, 0.04, 0.04, 0.02])


def test_equal_questions_give_equal_answers() -> None:
    values = np.random.default_rng(4).normal(size=400)
    column = [Column("x", "numbers", values)]
    assert compare_windows(column, rows(400), halves(400), seed=9) == compare_windows(
        column, rows(400), halves(400), seed=9
    )


def test_a_small_change_is_an_alarm_only_when_it_is_repeated() -> None:
    values = np.random.default_rng(7).normal(size=1000) + np.where(halves(1000), 0.22, 0.0)
    column = [Column("prompt_characters", "numbers", values)]
    rules = DriftRules(alarm_p=0.0002, repeat_p=0.05)
    once = judge_window(column, rows(1000), halves(1000), rules)
    again = judge_window(column, rows(1000), halves(1000), rules, drifted_before=1)
    assert (once.drifted, once.alarm) == (True, False)
    assert again.alarm
    assert "how long their messages are (p = 0.0" in again.sentence


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("How long may I return the lamp?", "en"),
        ("Wie lange kann ich die Lampe zurückgeben?", "de"),
        ("Où est mon colis et comment le suivre?", "fr"),
        ("Где моя посылка?", "cyrillic"),
        ("荷物はどこですか", "japanese"),
        ("12345", "other"),
        ("", "other"),
    ],
)
def test_a_language_is_guessed_from_common_words_or_the_script(text: str, language: str) -> None:
    assert guess_language(text) == language


def test_an_empty_text_has_an_embedding() -> None:
    assert embed(["", "lamp"]).shape[0] == 2
    assert float(np.linalg.norm(embed(["lamp"])[0])) == pytest.approx(1.0)
