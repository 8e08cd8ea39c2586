"""Exports have TRL's columns, hold only what may be trained on, and read back as what they are."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import export, submissions
from feedback.completions import insert_many
from feedback.database import Database
from feedback.errors import HoneError
from feedback.wanted import Wanted
from tests.builders import PROJECT, a_completion, a_model

QUESTION = {"role": "user", "content": "How long may I return a lamp?"}
ANSWER = {"role": "assistant", "content": "Within 30 days."}


@pytest.fixture
async def connection(database: Database) -> AsyncIterator[AsyncConnection]:
    async with database.begin() as connection:
        await a_model(connection)
        yield connection


async def said(connection: AsyncConnection, value: Any, kind: str = "rating", **changes: Any) -> str:
    """Feedback on a completion of its own; returns the id of the completion."""
    completion = a_completion(**changes)
    await insert_many(connection, [completion])
    given = submissions.submission(
        project=PROJECT, completion_id=completion.completion_id, rater="rater-a", kind=kind, value=value
    )
    await submissions.store(connection, given)
    return completion.completion_id


async def rows(connection: AsyncConnection, columns: str, **wanted: Any) -> list[dict[str, Any]]:
    return [row async for row in export.rows(connection, Wanted(PROJECT, **wanted), columns)]


async def test_a_thumb_is_a_row_to_train_kto_on(connection: AsyncConnection) -> None:
    one = await said(connection, False)
    (row,) = await rows(connection, "kto")
    assert (row["prompt"], row["completion"], row["label"]) == ([QUESTION], [ANSWER], False)
    assert (row["completion_id"], row["version"], row["rater"]) == (one, 0, "rater-a")


async def test_a_correction_and_a_preference_are_pairs(connection: AsyncConnection) -> None:
    better = a_completion(message='{"role":"assistant","content":"Up to 30 days."}')
    await insert_many(connection, [better])
    await said(connection, better.completion_id, "preference")
    await said(connection, "Until December 20.", "demonstration")
    pairs = await rows(connection, "dpo")
    assert {row["chosen"][0]["content"] for row in pairs} == {"Up to 30 days.", "Until December 20."}
    assert [row["rejected"] for row in pairs] == [[ANSWER], [ANSWER]]
    assert [row["prompt"] for row in pairs] == [[QUESTION], [QUESTION]]


async def test_a_correction_and_a_liked_answer_are_messages(connection: AsyncConnection) -> None:
    await said(connection, True)
    await said(connection, False)
    await said(connection, [QUESTION, {"role": "assistant", "content": "30 days."}], "demonstration")
    taught = await rows(connection, "sft")
    assert sorted(row["messages"][-1]["content"] for row in taught) == ["30 days.", "Within 30 days."]


@pytest.mark.parametrize("columns", ["kto", "dpo", "sft"])
async def test_nothing_without_consent_is_exported_to_train_on(
    connection: AsyncConnection, columns: str
) -> None:
    await said(connection, True, consent=False)
    await said(connection, "Until December 20.", "demonstration", consent=False)
    secret = a_completion(consent=False)
    await insert_many(connection, [secret])
    await said(connection, secret.completion_id, "preference")
    assert await rows(connection, columns) == []
    assert len(await rows(connection, "raw")) == 3


async def test_an_answer_whose_text_was_deleted_is_left_out(connection: AsyncConnection) -> None:
    await said(connection, True)
    await connection.execute(text("DELETE FROM completion_texts"))
    assert await rows(connection, "kto") == []


@pytest.mark.parametrize("columns", ["sft", "dpo"])
async def test_a_correction_whose_words_were_deleted_is_left_out_of_history(
    connection: AsyncConnection, columns: str
) -> None:
    await said(connection, "14 days.", "demonstration")
    await said(connection, "Until December 20.", "demonstration")
    await connection.execute(
        text("UPDATE feedback SET value = 'null', effective = false WHERE value = '\"14 days.\"'")
    )
    (row,) = await rows(connection, columns, history=True)
    assert "Until December 20." in str(row)


async def test_the_redacted_copy_is_what_is_exported(connection: AsyncConnection) -> None:
    one = await said(connection, True)
    await connection.execute(
        text(
            "INSERT INTO completion_redacted SELECT completion_id, day, request, 'Within [NUMBER] days.',"
            ' \'{"role": "assistant", "content": "Within [NUMBER] days."}\', metadata, \'{"NUMBER": 1}\''
            " FROM completion_texts WHERE completion_id = :one"
        ),
        {"one": one},
    )
    (row,) = await rows(connection, "kto")
    assert row["completion"][0]["content"] == "Within [NUMBER] days."


async def test_what_was_taken_back_is_exported_no_more(connection: AsyncConnection) -> None:
    await said(connection, True)
    await connection.execute(text("UPDATE feedback SET effective = false, retracted_at = now()"))
    assert await rows(connection, "kto") == []
    assert await rows(connection, "raw") == []
    assert len(await rows(connection, "raw", history=True)) == 1


@pytest.mark.parametrize("columns", export.EXPORTS)
async def test_json_lines_and_parquet_hold_the_same_rows(
    connection: AsyncConnection, tmp_path: Path, columns: str
) -> None:
    for value in (True, False, True):
        await said(connection, value)
    await said(connection, "Until December 20.", "demonstration")
    found = await rows(connection, columns)
    lines = b"".join([piece async for piece in export.json_lines(_again(found))])
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"".join([piece async for piece in export.parquet(_again(found))]))
    read = pq.read_table(path).to_pylist()
    assert len(read) == len(lines.splitlines()) == len(found) > 0
    for one, line in zip(read, lines.splitlines(), strict=True):
        whole = orjson.loads(line)
        assert {name: one[name] for name in export.MESSAGES if name in one} == {
            name: whole[name] for name in export.MESSAGES if name in whole
        }
        assert one["feedback_id"] == whole["feedback_id"]


async def test_an_empty_export_is_still_a_parquet_file(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    path.write_bytes(b"".join([piece async for piece in export.parquet(_again([]))]))
    assert pq.read_table(path).num_rows == 0


async def test_unknown_columns_are_refused_with_those_that_exist(connection: AsyncConnection) -> None:
    with pytest.raises(HoneError, match="'orpo' are unknown; expected one of raw, kto, dpo, sft"):
        await rows(connection, "orpo")


async def _again(found: list[dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    for row in found:
        yield row


@pytest.mark.parametrize("columns", ["sft", "kto", "dpo"])
async def test_an_answer_of_another_project_is_exported_by_nobody_who_says_something_of_it(
    connection: AsyncConnection, columns: str
) -> None:
    """Who knows its id may say something before it is recorded; its words are not theirs for that."""
    await said(connection, True, project="stranger")
    await said(connection, "14 days.", kind="demonstration", project="stranger")
    assert await rows(connection, columns) == []
