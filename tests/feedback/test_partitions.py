"""Completions are kept by the day in their id, and the database agrees with the code about everything."""

from datetime import UTC, date, datetime, timedelta
from typing import Any

import orjson
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Connection, bindparam, text
from sqlalchemy.exc import IntegrityError

from feedback import completions
from feedback.completions import EPOCH, day_of, is_one
from feedback.database import Database, schema_is_current
from feedback.ids import id_at, new_id
from feedback.tables import completions as completions_table
from feedback.tables import metadata
from tests.builders import PROJECT, a_completion

PARTITIONED = ("completions", "completion_texts", "completion_redacted")
YESTERYEAR = datetime(2019, 7, 31, 23, 59, 59, tzinfo=UTC)


async def test_the_migrations_build_the_tables_of_the_code(database: Database) -> None:
    def differences(connection: Connection) -> list[Any]:
        def is_ours(name: str | None, kind: str, _: Any) -> bool:
            return kind != "table" or not str(name).startswith(tuple(f"{one}_" for one in PARTITIONED))

        options = {"compare_type": True, "compare_server_default": False, "include_name": is_ours}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))

    assert await schema_is_current(database)
    async with database.begin() as connection:
        assert await connection.run_sync(differences) == []


async def test_a_completion_of_any_day_finds_or_makes_its_partition(database: Database) -> None:
    ids = [
        new_id("chatcmpl"),
        id_at("chatcmpl", YESTERYEAR, "a"),
        id_at("chatcmpl", YESTERYEAR + timedelta(seconds=1), "b"),
        "an id that carries no day",
    ]
    async with database.begin() as connection:
        rows = [a_completion(completion_id=one) for one in ids]
        assert await completions.insert_many(connection, rows) == len(rows)
        for one in ids:
            assert (await completions.get(connection, PROJECT, one))["output_text"] == "Within 30 days."
        found = await connection.execute(
            text("SELECT tableoid::regclass::text FROM completion_texts ORDER BY 1")
        )
        parts = set(found.scalars())
    assert {"completion_texts_other", "completion_texts_2019_07_31", "completion_texts_2019_08_01"} < parts


async def test_a_completion_sent_again_after_its_text_was_deleted_stays_without(database: Database) -> None:
    row = a_completion()
    async with database.begin() as connection:
        assert await completions.insert_many(connection, [row]) == 1
        await connection.execute(text("TRUNCATE completion_texts"))
        found = await completions.get(connection, PROJECT, row.completion_id)
    assert found["request"] is None and found["duration_seconds"] == row.duration_seconds


async def test_a_redacted_copy_is_kept_beside_the_text_or_instead_of_it(database: Database) -> None:
    copy = {"request": {"prompt": "<EMAIL_1>"}, "output_text": "Hi", "found": {"EMAIL": 1}}
    both = completions.document(a_completion(completion_id=new_id("cmpl")))
    beside = orjson.dumps(orjson.loads(both) | {"redacted": copy})
    only = orjson.dumps(
        orjson.loads(beside)
        | {"completion_id": new_id("cmpl"), "request": None, "output_text": None, "output_token_ids": None}
    )
    async with database.begin() as connection:
        assert await completions.insert_documents(connection, [beside, only]) == 2
        rows = (await connection.execute(completions.with_text())).all()
        trained = (await connection.execute(completions.for_training())).all()
    assert {row.output_text for row in rows} == {"Within 30 days.", "Hi"}
    assert {row.output_text for row in trained} == {"Hi"}
    assert {row.redacted["EMAIL"] for row in trained} == {1}


async def test_the_same_id_cannot_hide_under_another_day(database: Database) -> None:
    row = a_completion()
    async with database.begin() as connection:
        await completions.insert_many(connection, [row])
    with pytest.raises(IntegrityError, match="ck_completions_day"):
        async with database.begin() as connection:
            await connection.execute(text("UPDATE completions SET day = '1999-01-01'"))


async def test_the_database_and_the_code_read_the_same_day_from_an_id(database: Database) -> None:
    texts: list[str] = []

    @given(
        text=st.one_of(
            st.text(st.characters(codec="utf-8", exclude_characters="\0")),
            st.from_regex(r"[a-z]+-[0-9a-f]{12}[67][0-9a-f]{19}\n?", fullmatch=True),
            st.from_regex(r"[a-z]*-0[0-9a-g]{11}7[0-9a-g]{19}", fullmatch=True),
        )
    )
    def collect(text: str) -> None:
        texts.append(text)

    collect()
    query = text("SELECT one, completion_day(one) FROM unnest(CAST(:texts AS text[])) AS one")
    async with database.begin() as connection:
        rows = (await connection.execute(query.bindparams(bindparam("texts", texts)))).all()
    assert len(rows) == len(texts)
    assert [row for row in rows if row[1] != day_of(row[0])] == []


def test_an_imported_thing_has_one_id_which_carries_its_day() -> None:
    one = id_at("chatcmpl", YESTERYEAR, "export.jsonl/17")
    assert (
        one
        == id_at("chatcmpl", YESTERYEAR, "export.jsonl/17")
        != id_at("chatcmpl", YESTERYEAR, "export.jsonl/18")
    )
    assert day_of(one) == date(2019, 7, 31)
    assert day_of("gpt-17") == EPOCH


async def test_a_lookup_by_id_reads_one_partition(database: Database) -> None:
    row = a_completion()
    async with database.begin() as connection:
        await completions.insert_many(connection, [row])
        await connection.execute(text("SELECT make_partitions(current_date - 40, current_date + 3)"))
        query = completions.with_text().where(is_one(completions_table, row.completion_id))
        sql = str(query.compile(connection.engine, compile_kwargs={"literal_binds": True}))
        plan = "\n".join((await connection.execute(text(f"EXPLAIN {sql}"))).scalars())
    assert plan.count("Scan") == 3, plan
