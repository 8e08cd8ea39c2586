"""The console's parts by themselves: searches that stop in time, scales and plots, differences, what people type."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback.completions import insert_many
from feedback.database import Database
from monitoring.console import charts, finding, gate_plots, view
from monitoring.console.differences import marked
from monitoring.console.policy_pages import read_value
from tests.builders import PROJECT, a_completion, a_model
from tests.monitoring.consoles import CHECKS


async def test_a_search_that_takes_long_stops_and_goes_on_from_there_without_losing_a_row(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = datetime.now(UTC) - timedelta(hours=1)
    # Many at the same moment: where a stretch ends must not depend on the clock alone.
    made = [a_completion(created_at=at, rater=f"rater-{number}") for number in range(60)]
    async with database.begin() as connection:
        await a_model(connection)
        await insert_many(connection, made)
        monkeypatch.setattr(finding, "SECONDS_MAX", 0.0)
        monkeypatch.setattr(finding, "ROWS_FIRST", 25)
        seen: list[str] = []
        before, stops = "", 0
        while True:
            found = await finding.find(connection, PROJECT, "support", finding.Asked(), before, most=50)
            seen += [row["completion_id"] for row in found.rows]
            if found.older is None:
                break
            before, stops = found.older, stops + (found.reached is not None)
    assert stops == 2
    assert sorted(seen) == sorted(one.completion_id for one in made)


async def test_a_page_of_completions_continues_where_it_ended(database: Database) -> None:
    at = datetime.now(UTC) - timedelta(hours=1)
    made = [a_completion(created_at=at) for _ in range(7)]
    async with database.begin() as connection:
        await a_model(connection)
        await insert_many(connection, made)
        first = await finding.find(connection, PROJECT, "support", finding.Asked(), "", most=5)
        assert first.older is not None and first.reached is None
        rest = await finding.find(connection, PROJECT, "support", finding.Asked(), first.older, most=5)
    found = [row["completion_id"] for row in (*first.rows, *rest.rows)]
    assert found == sorted((one.completion_id for one in made), reverse=True)
    assert rest.older is None


def test_an_interval_of_few_votes_is_wide_and_never_leaves_the_scale() -> None:
    assert charts.wilson(0, 0) is None
    assert charts.wilson(5, 5) == pytest.approx((0.5655, 1.0), abs=1e-3)
    assert charts.wilson(0, 5) == pytest.approx((0.0, 0.4345), abs=1e-3)


def test_a_line_has_a_gap_where_nothing_is_known() -> None:
    line = charts.line([1.0, None, 2.0, 3.0], [None] * 4, [None] * 4, ["a", "b", "c", "d"], show=view.number)
    assert line.path.count("M") == 2
    assert [label for *_, label in line.dots] == ["a", "c", "d"]
    assert line.band == ""
    assert line.ticks == ("3", "2.5", "2", "1.5", "1")


@given(values=st.lists(st.floats(-1e9, 1e9), min_size=1, max_size=30), zero=st.booleans())
def test_a_scale_has_round_ticks_around_everything_that_is_drawn(values: list[float], zero: bool) -> None:
    scale = charts.scale(values, among=[0.0] if zero else [])
    spare = 1e-6 * max(abs(scale.low), abs(scale.high), 1.0)
    assert scale.low <= min(values) + spare and max(values) <= scale.high + spare
    assert not zero or scale.low <= 0.0 <= scale.high
    assert 2 <= len(scale.ticks) <= 12


@pytest.mark.parametrize(
    ("left", "right", "only_left", "only_right"),
    [
        ("within 30 days", "within 14 days", ["30"], ["14"]),
        ("the same", "the same", [], []),
        ("", "new words", [], ["new words"]),
        ("a <b>bold</b> claim", "a claim", ["<b>bold</b> "], []),
    ],
)
def test_what_two_answers_do_not_share_is_marked_and_nothing_is_lost(
    left: str, right: str, only_left: list[str], only_right: list[str]
) -> None:
    one, other = marked(left, right)
    assert ("".join(piece for _, piece in one), "".join(piece for _, piece in other)) == (left, right)
    assert [piece for lacks, piece in one if lacks] == only_left
    assert [piece for lacks, piece in other if lacks] == only_right


def test_a_check_is_drawn_with_its_bound_on_the_side_of_its_limit() -> None:
    below = charts.bound(0.01, 0.05, 0.1, at_least=False)
    above = charts.bound(0.86, 0.67, 0.5, at_least=True)
    assert below.estimate < below.bound < below.limit and below.allowed == (0.0, below.limit)
    assert above.limit < above.bound < above.estimate
    assert sum(above.allowed) == pytest.approx(charts.WIDTH)


def test_a_gate_report_of_any_age_is_drawn_as_far_as_it_goes() -> None:
    failed = {"name": "kl_to_base", "passed": False, "value": None, "limit": 6.0, "sentence": "Not measured."}
    drawn = gate_plots.plots({"checks": [*CHECKS, failed]})
    assert drawn[0].sentence == "Not measured." and drawn[0].drawn is None
    assert [one.found for one in drawn if one.name == "win rate"] == ["0.857, bound 0.67"]
    without = [{name: value for name, value in one.items() if name != "estimate"} for one in CHECKS]
    assert gate_plots.plots({"checks": without})[0].found == "0.67"
    assert gate_plots.plots({}) == []


@pytest.mark.parametrize(
    ("typed", "value"), [("0.5", 0.5), ("operator", "operator"), ("[0.1, 0.5]", [0.1, 0.5]), ("true", True)]
)
def test_a_value_is_read_as_json_or_as_a_word(typed: str, value: object) -> None:
    assert read_value(typed) == value


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (4, "4 s"),
        (59.7, "1 min"),
        (180, "3 min"),
        (3599, "1 h"),
        (7200, "2 h"),
        (200_000, "2 d"),
        (None, view.NOT_KNOWN),
    ],
)
def test_a_length_of_time_has_one_unit(seconds: float | None, shown: str) -> None:
    assert view.span(seconds) == shown
