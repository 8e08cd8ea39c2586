"""Which answers count as refusals, told by their first words when they are recorded."""

import pytest
from sqlalchemy import select

from feedback.completions import insert_many
from feedback.database import Database
from feedback.tables import completions
from tests.builders import a_completion


@pytest.mark.parametrize(
    ("output", "refused"),
    [
        ("I'm sorry, but I can't help with that.", True),
        ("Sorry, I cannot share that.", True),
        ("I can\u2019t assist with this request.", True),
        ("I am unable to open links.", True),
        ("As an AI, I have no opinion.", True),
        ("Es tut mir leid, das geht nicht.", True),
        ("Sorry for the wait: it left on Monday.", False),
        ("I can help. Say: 'I cannot come today'.", False),
        ("You have 30 days.", False),
        ("", False),
    ],
)
async def test_an_answer_is_a_refusal_by_its_first_words(
    database: Database, output: str, refused: bool
) -> None:
    async with database.begin() as connection:
        await insert_many(connection, [a_completion(output_text=output)])
        assert await connection.scalar(select(completions.c.refused)) is refused


async def test_an_answer_the_engine_filtered_is_a_refusal(database: Database) -> None:
    async with database.begin() as connection:
        await insert_many(connection, [a_completion(output_text="", finish_reason="content_filter")])
        assert await connection.scalar(select(completions.c.refused)) is True
