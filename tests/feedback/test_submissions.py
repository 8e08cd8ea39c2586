"""Feedback: one effective vote, whatever arrives when, however often."""

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback import submissions
from feedback.completions import ESCAPED_NUL, get, insert_many
from feedback.database import Database
from feedback.errors import HoneError, NotFound
from feedback.submissions import Retraction, Submission
from tests.builders import PROJECT, a_completion


def a_vote(value: Any = True, **changes: Any) -> Submission:
    completion_id = changes.pop("completion_id", "chatcmpl-1")
    rater = changes.pop("rater", "rater-a")
    return submissions.submission(
        project=PROJECT, completion_id=completion_id, rater=rater, kind="rating", value=value, **changes
    )


async def effective(database: Database, completion_id: str = "chatcmpl-1") -> list[Any]:
    async with database.begin() as connection:
        rows = await submissions.of_completion(connection, PROJECT, completion_id)
    return [row["value"] for row in rows if row["effective"]]


async def test_a_changed_vote_counts_once_and_keeps_its_history(database: Database) -> None:
    async with database.begin() as connection:
        for value in (True, False, True, False):
            await submissions.store(connection, a_vote(value))
        assert len(await submissions.of_completion(connection, PROJECT, "chatcmpl-1")) == 4
    assert await effective(database) == [False]


async def test_votes_of_two_raters_both_count(database: Database) -> None:
    async with database.begin() as connection:
        await submissions.store(connection, a_vote(True, rater="rater-a"))
        await submissions.store(connection, a_vote(False, rater="rater-b"))
    assert sorted(await effective(database)) == [False, True]


async def test_the_same_id_sent_five_times_is_one_submission(database: Database) -> None:
    async with database.begin() as connection:
        kept = {await submissions.store(connection, a_vote(idempotency_id="once")) for _ in range(5)}
        assert len(await submissions.of_completion(connection, PROJECT, "chatcmpl-1")) == 1
    assert len(kept) == 1


async def test_votes_sent_at_once_leave_one_effective(database: Database) -> None:
    async def vote(value: bool) -> None:
        async with database.begin() as connection:
            await submissions.store(connection, a_vote(value))

    await asyncio.gather(*(vote(number % 2 == 0) for number in range(8)))
    assert len(await effective(database)) == 1


async def test_a_vote_that_was_delayed_does_not_replace_a_newer_one(database: Database) -> None:
    late = a_vote(False)
    async with database.begin() as connection:
        await submissions.store(
            connection, replace(a_vote(True), created_at=late.created_at + timedelta(seconds=1))
        )
        await submissions.store(connection, late)
    assert await effective(database) == [True]


async def test_a_vote_that_was_delayed_does_not_come_to_life_when_a_newer_one_is_taken_back(
    database: Database,
) -> None:
    late = a_vote(False)
    newer = replace(a_vote(True), created_at=late.created_at + timedelta(seconds=1))
    async with database.begin() as connection:
        await submissions.store(connection, newer)
        await submissions.retract(connection, PROJECT, newer.feedback_id)
        await submissions.store(connection, late)
    assert await effective(database) == []


async def test_a_vote_sent_again_counts_from_when_it_was_sent_first(database: Database) -> None:
    first = a_vote(False, idempotency_id="once")
    between, again = (
        replace(one, created_at=first.created_at + timedelta(seconds=seconds))
        for seconds, one in ((1, a_vote(True)), (2, first))
    )
    async with database.begin() as connection:
        for one in (between, again, first):
            await submissions.store(connection, one)
        assert len(await submissions.of_completion(connection, PROJECT, "chatcmpl-1")) == 2
    assert await effective(database) == [True]


async def test_what_was_taken_back_before_it_arrived_arrives_taken_back(database: Database) -> None:
    vote = a_vote()
    gone = Retraction(vote.feedback_id, PROJECT, None, None, vote.created_at)
    async with database.begin() as connection:
        await submissions.apply_all(connection, [gone, vote])
    assert await effective(database) == []


async def test_a_vote_may_come_before_the_completion_it_rates(database: Database) -> None:
    completion = a_completion()
    async with database.begin() as connection:
        await submissions.store(connection, a_vote(completion_id=completion.completion_id))
        await insert_many(connection, [completion])
        assert (await get(connection, PROJECT, completion.completion_id))["version"] == 0
    assert await effective(database, completion.completion_id) == [True]


async def test_a_retracted_vote_no_longer_counts_and_only_its_rater_may_retract_it(
    database: Database,
) -> None:
    async with database.begin() as connection:
        kept = await submissions.store(connection, a_vote())
        with pytest.raises(NotFound):
            await submissions.retract(connection, PROJECT, kept, rater="rater-b")
        await submissions.retract(connection, PROJECT, kept, rater="rater-a")
        await submissions.retract(connection, PROJECT, kept, rater="rater-a")
    assert await effective(database) == []


async def test_recording_a_completion_twice_keeps_one(database: Database) -> None:
    completion = a_completion()
    async with database.begin() as connection:
        assert await insert_many(connection, [completion, a_completion()]) == 2
        assert await insert_many(connection, [completion, completion]) == 0


async def test_an_answer_with_a_nul_character_is_recorded(database: Database) -> None:
    completion = a_completion(output_text="a\x00b", message=r'{"content":"a\u0000b \\u0000"}')
    async with database.begin() as connection:
        await insert_many(connection, [completion])
        row = await get(connection, PROJECT, completion.completion_id)
    assert row["output_text"] == "a\ufffdb"
    assert row["message"]["content"] == "a\ufffdb \\u0000"


@given(backslashes=st.integers(0, 6))
def test_only_a_real_escape_of_nul_is_replaced(backslashes: int) -> None:
    text = "\\" * backslashes + "u0000"
    assert (ESCAPED_NUL.search(text) is not None) == (backslashes % 2 == 1)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("thumb", True, "unknown"),
        ("signal", True, "name of this signal"),
        ("rating", "up", "expected true or false"),
        ("rating", 1, "expected true or false"),
        ("comment", " ", "expected text"),
        ("demonstration", [{"role": "user", "content": "hi"}], "ending with the assistant"),
    ],
)
def test_feedback_that_makes_no_sense_is_refused_with_what_was_expected(
    kind: str, value: Any, expected: str
) -> None:
    with pytest.raises(HoneError, match=expected):
        submissions.submission(project=PROJECT, completion_id="c", rater="r", kind=kind, value=value)
