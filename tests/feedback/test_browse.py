"""Pages of the record hold what was asked for, once, in order, and nothing of another project."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import browse, submissions
from feedback.completions import Completion, insert_many
from feedback.database import Database
from feedback.errors import HoneError, NotFound
from feedback.importers.load import hex_id
from feedback.wanted import Wanted
from tests.builders import PROJECT, a_completion, a_model

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
EVERYTHING = Wanted(PROJECT)


def at(minute: int, **changes: Any) -> Completion:
    """A completion of that minute, under an id of that minute."""
    when = NOON + timedelta(minutes=minute)
    name = f"chatcmpl-{hex_id(when, str(minute), str(changes.get('project', '')))}"
    return a_completion(completion_id=name, created_at=when, **changes)


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[AsyncConnection]:
    async with database.begin() as connection:
        await a_model(connection)
        await a_model(connection, "sales")
        yield connection


async def record(connection: AsyncConnection, *rows: Completion) -> list[str]:
    await insert_many(connection, rows)
    return [row.completion_id for row in rows]


async def said(connection: AsyncConnection, completion_id: str, value: Any, **given: Any) -> str:
    given = {"project": PROJECT, "kind": "rating", "rater": "rater-a", **given}
    one = submissions.submission(completion_id=completion_id, value=value, **given)
    return await submissions.store(connection, one)


def ids(page: browse.Page) -> list[str]:
    return [row["completion_id"] for row in page.rows]


@pytest.mark.parametrize("oldest_first", [False, True])
@pytest.mark.parametrize("limit", [1, 2, 3, 7, 50])
async def test_pages_of_any_length_together_hold_every_completion_once_in_order(
    connection: AsyncConnection, limit: int, oldest_first: bool
) -> None:
    # Two of each minute, in two models, over the end of a day and of a month.
    rows = [at(60 * 24 * 6 * n, model=model) for n in range(4) for model in ("support", "sales")]
    expected = sorted(await record(connection, *{row.completion_id: row for row in rows}.values()))
    seen: list[str] = []
    after = None
    while True:
        page = await browse.completions_page(
            connection, EVERYTHING, after=after, limit=limit, oldest_first=oldest_first
        )
        seen += ids(page)
        if (after := page.after) is None:
            break
    assert seen == (expected if oldest_first else expected[::-1])


async def test_a_page_shows_nothing_of_another_project(connection: AsyncConnection) -> None:
    mine, theirs = await record(connection, at(1), at(2, project="other"))
    await said(connection, mine, True)
    assert ids(await browse.completions_page(connection, EVERYTHING)) == [mine]
    for wanted in (Wanted("other"), Wanted("other", text="days")):
        assert mine not in ids(await browse.completions_page(connection, wanted))
    assert (await browse.feedback_page(connection, Wanted("other"))).rows == []
    with pytest.raises(NotFound, match=theirs):
        await browse.completions_page(connection, EVERYTHING, after=theirs)


async def test_each_filter_keeps_what_it_names(connection: AsyncConnection) -> None:
    plain, versioned, armed, other, talking, yesterday = await record(
        connection,
        at(1),
        at(2, version=7),
        at(3, arm="candidate"),
        at(4, rater="rater-b"),
        at(5, session="chat-1"),
        at(-1440),
    )
    await said(connection, plain, False)
    await said(connection, versioned, True)

    async def found(**wanted: Any) -> list[str]:
        return ids(await browse.completions_page(connection, Wanted(PROJECT, **wanted)))

    assert await found(version=7) == [versioned]
    assert await found(arm="candidate") == [armed]
    assert await found(rater="rater-b") == [other]
    assert await found(session="chat-1") == [talking]
    assert await found(rating=False) == [plain]
    assert await found(rating=True) == [versioned]
    assert await found(until=NOON) == [yesterday]
    assert await found(since=NOON + timedelta(minutes=4)) == [talking, other]
    assert await found(model="sales") == []


async def test_a_completion_comes_with_what_counts_of_what_was_said(connection: AsyncConnection) -> None:
    (one,) = await record(connection, at(1))
    await said(connection, one, False)
    await said(connection, one, True, comment="It helped after all.")
    (row,) = (await browse.completions_page(connection, EVERYTHING)).rows
    assert [(vote["value"], vote["comment"]) for vote in row["feedback"]] == [(True, "It helped after all.")]


def asking(words: str) -> str:
    return orjson.dumps({"model": "support", "messages": [{"role": "user", "content": words}]}).decode()


async def test_text_is_found_in_question_and_answer_in_any_case(connection: AsyncConnection) -> None:
    asked, answered, _ = await record(
        connection, at(1, request=asking('The "Blue" 100% lamp')), at(2, output_text="A BLUE one."), at(3)
    )
    since = NOON - timedelta(days=30)

    async def found(text: str) -> list[str]:
        return ids(await browse.completions_page(connection, Wanted(PROJECT, text=text, since=since)))

    assert await found("blue") == [answered, asked]
    assert await found('"blue" 100%') == [asked]
    assert await found("1_0%") == []


async def test_a_search_goes_back_a_week_and_says_so(connection: AsyncConnection) -> None:
    now = datetime.now(UTC)
    minutes = int((now - NOON).total_seconds() / 60)
    recent, _ = await record(connection, at(minutes - 60), at(minutes - 60 * 24 * 8))
    page = await browse.completions_page(connection, Wanted(PROJECT, text="30 days"))
    assert ids(page) == [recent]
    assert page.searched_since is not None
    assert abs((now - page.searched_since) - timedelta(days=7)) < timedelta(minutes=1)


async def test_a_search_of_feedback_goes_back_a_week_from_where_it_ends(connection: AsyncConnection) -> None:
    (one,) = await record(connection, at(1))
    for days in (18, 26):
        await said(connection, one, "wrong colour", kind="comment", rater=f"rater-{days}")
    await connection.execute(
        text("UPDATE feedback SET created_at = now() - make_interval(days => substr(rater, 7)::int)")
    )
    until = datetime.now(UTC) - timedelta(days=17)
    page = await browse.feedback_page(connection, Wanted(PROJECT, text="colour", until=until))
    assert [row["rater"] for row in page.rows] == ["rater-18"]
    assert page.searched_since == until - timedelta(days=7)


@pytest.mark.parametrize("many", [False, True])
async def test_metadata_is_found_whether_many_or_few_carry_it(
    connection: AsyncConnection, many: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(browse, "METADATA_LOOKED_AT", 20 if many else 3)
    rows = [at(n, metadata=f'{{"shop": "north", "n": "{n % 2}"}}') for n in range(8)]
    expected = await record(connection, *rows)
    await record(connection, *(at(n) for n in range(10, 16)))
    wanted = Wanted(PROJECT, metadata={"shop": "north", "n": "1"})
    page = await browse.completions_page(connection, wanted, limit=3)
    assert ids(page) == expected[7:2:-2]
    rest = await browse.completions_page(connection, wanted, limit=3, after=page.after)
    assert ids(rest) == [expected[1]]


async def test_feedback_is_listed_with_the_version_it_is_about(connection: AsyncConnection) -> None:
    one, two = await record(connection, at(1, version=7, arm="candidate"), at(2))
    first = await said(connection, one, True, comment="Clear and short")
    second = await said(connection, two, "Say it in 30 days.", kind="demonstration")
    page = await browse.feedback_page(connection, EVERYTHING)
    assert [(row["feedback_id"], row["version"], row["arm"]) for row in page.rows] == [
        (second, 0, None),
        (first, 7, "candidate"),
    ]
    for wanted in (
        {"version": 7},
        {"kind": "rating"},
        {"rating": True},
        {"text": "CLEAR"},
        {"arm": "candidate"},
    ):
        (row,) = (await browse.feedback_page(connection, Wanted(PROJECT, **wanted))).rows
        assert row["feedback_id"] == first, wanted


async def test_feedback_that_no_longer_counts_is_history(connection: AsyncConnection) -> None:
    (one,) = await record(connection, at(1))
    before = await said(connection, one, True)
    after = await said(connection, one, False)
    plain = await browse.feedback_page(connection, EVERYTHING)
    history = await browse.feedback_page(connection, Wanted(PROJECT, history=True))
    assert [row["feedback_id"] for row in plain.rows] == [after]
    assert {row["feedback_id"] for row in history.rows} == {before, after}


async def test_feedback_pages_go_on_where_the_last_one_ended(connection: AsyncConnection) -> None:
    given = [
        await said(connection, one, True) for one in await record(connection, *(at(n) for n in range(5)))
    ]
    seen: list[str] = []
    after = None
    while True:
        page = await browse.feedback_page(connection, EVERYTHING, after=after, limit=2)
        seen += [row["feedback_id"] for row in page.rows]
        if (after := page.after) is None:
            break
    assert seen == given[::-1]


@pytest.mark.parametrize("limit", [0, 1001])
async def test_a_page_of_no_sensible_length_is_refused(connection: AsyncConnection, limit: int) -> None:
    with pytest.raises(HoneError, match=f"limit = {limit}; expected 1 to 1000"):
        await browse.completions_page(connection, EVERYTHING, limit=limit)


async def test_what_another_project_said_of_an_answer_finds_nothing_and_learns_nothing(
    connection: AsyncConnection,
) -> None:
    """Nobody knew whose the answer would be when it was said: the row had not been written yet."""
    [mine] = await record(connection, at(1, session="a talk of ours"))
    await said(connection, mine, True, project="stranger")
    assert ids(await browse.completions_page(connection, Wanted(PROJECT, rating=True))) == []
    [ours] = (await browse.completions_page(connection, EVERYTHING)).rows
    assert ours["feedback"] == []
    [theirs] = (await browse.feedback_page(connection, Wanted("stranger"))).rows
    assert [theirs["completion_id"], theirs["model"], theirs["about_session"]] == [mine, None, None]
