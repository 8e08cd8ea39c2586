"""Nothing is kept longer than said: partitions go whole, votes stay, and the disk comes back."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import audit, completions, retention, submissions
from feedback.database import Database
from feedback.ids import id_at
from feedback.settings import FeedbackSettings
from tests.builders import PROJECT, a_completion

NOW = datetime.now(UTC)


def settings(**days: int) -> FeedbackSettings:
    """The defaults, changed."""
    return FeedbackSettings.load(**{f"{name}_retention_days": value for name, value in days.items()})


async def of_age(connection: AsyncConnection, days: int, count: int = 1, **changes: object) -> list[str]:
    """Completions of that many days ago."""
    then = NOW - timedelta(days=days)
    rows = [
        a_completion(completion_id=id_at("chatcmpl", then, f"{days}/{number}"), created_at=then, **changes)
        for number in range(count)
    ]
    await completions.insert_many(connection, rows)
    return [row.completion_id for row in rows]


async def size(connection: AsyncConnection) -> int:
    """Bytes of all tables of completions."""
    query = "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r' AND relname LIKE 'completion%'"
    return int(await connection.scalar(text(query)) or 0)


async def test_text_goes_after_its_time_and_what_it_was_stays(database: Database) -> None:
    async with database.begin() as connection:
        [old], [new] = await of_age(connection, 40), await of_age(connection, 20)
    done = await retention.keep(database, settings(text=30))
    async with database.begin() as connection:
        forgotten = await completions.get(connection, PROJECT, old)
        kept = await completions.get(connection, PROJECT, new)
        entries = await audit.entries(connection, retention.EVERY_PROJECT)
        assert await audit.verify(connection) is None
    assert forgotten["request"] is None and forgotten["output_tokens"] == 2
    assert kept["output_text"] == "Within 30 days."
    assert [entry.action for entry in entries] == ["retention.drop"] and len(done) == 1


async def test_a_dropped_partition_gives_its_disk_space_back(database: Database) -> None:
    async with database.begin() as connection:
        await of_age(connection, 40, count=2000, output_text="Within 30 days. " * 50)
        before = await size(connection)
    await retention.keep(database, settings(text=30))
    async with database.begin() as connection:
        assert await size(connection) < before / 2


async def test_completions_go_when_their_whole_month_is_over_its_time(database: Database) -> None:
    async with database.begin() as connection:
        await of_age(connection, 120)
        await of_age(connection, 1)
    await retention.keep(database, settings(completion=60))
    async with database.begin() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM completions")) == 1


@pytest.mark.parametrize("days", [0, 365])
async def test_no_text_outlives_the_completion_that_says_whose_it_is(database: Database, days: int) -> None:
    old = NOW - timedelta(days=130)
    async with database.begin() as connection:
        for name in (id_at("chatcmpl", old, "old"), "imported-1"):
            row = orjson.loads(completions.document(a_completion(completion_id=name, created_at=old)))
            copy = {"request": row["request"], "output_text": "Within <N>.", "found": {"N": 1}}
            await completions.insert_documents(connection, [orjson.dumps(row | {"redacted": copy})])
    await retention.keep(database, settings(text=days, redacted=days, completion=90))
    async with database.begin() as connection:
        for table in ("completions", "completion_texts", "completion_redacted"):
            assert await connection.scalar(text(f"SELECT count(*) FROM {table}")) == 0, table


async def test_a_text_without_a_day_that_has_lost_its_completion_goes(database: Database) -> None:
    async with database.begin() as connection:
        await completions.insert_many(connection, [a_completion(completion_id="imported-1")])
        await connection.execute(text("DELETE FROM completions"))
    await retention.keep(database, settings(text=30))
    async with database.begin() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM completion_texts")) == 0


async def test_a_completion_waits_for_a_text_that_has_to_wait(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "LOCK_TIMEOUT", "50ms")
    async with database.begin() as connection:
        await of_age(connection, 120)
    for left in (1, 0):
        async with database.begin() as reading:
            if left:
                await reading.execute(text("SELECT count(*) FROM completion_texts"))
            await retention.keep(database, settings(completion=60))
            assert await reading.scalar(text("SELECT count(*) FROM completions")) == left


def test_what_a_setting_comes_to_is_said_as_it_is_kept() -> None:
    names = [f"{name}_retention_days" for name in ("text", "redacted", "feedback_text", "completion")]
    assert [retention.days_kept(settings(), name) for name in names] == [30, 365, 365, 0]
    assert [retention.days_kept(settings(completion=20), name) for name in names] == [20, 20, 365, 20]


async def test_without_a_limit_nothing_goes(database: Database) -> None:
    async with database.begin() as connection:
        await of_age(connection, 4000)
    assert await retention.keep(database, settings(text=0, redacted=0, feedback_text=0)) == []
    async with database.begin() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM completion_texts")) == 1


async def test_comments_and_corrections_go_and_votes_stay(database: Database) -> None:
    async with database.begin() as connection:
        for kind, value in (("rating", True), ("comment", "Jane says"), ("demonstration", "Say Jane")):
            given = submissions.submission(
                project=PROJECT,
                completion_id="chatcmpl-1",
                rater="rater-a",
                kind=kind,
                value=value,
                comment="Jane",
            )
            await submissions.store(connection, given)
        await connection.execute(text("UPDATE feedback SET created_at = now() - interval '400 days'"))
        assert await retention.old_texts(connection, settings()) == 3
    await retention.keep(database, settings())
    async with database.begin() as connection:
        rows = (await connection.execute(text("SELECT kind, value, comment, effective FROM feedback"))).all()
        assert await retention.old_texts(connection, settings()) == 0
    assert sorted(map(tuple, rows)) == [
        ("comment", None, None, False),
        ("demonstration", None, None, False),
        ("rating", True, None, True),
    ]


async def test_rows_whose_id_carries_no_day_go_by_their_own_time(database: Database) -> None:
    old = a_completion(completion_id="imported-1", created_at=NOW - timedelta(days=40))
    new = a_completion(completion_id="imported-2")
    async with database.begin() as connection:
        await completions.insert_many(connection, [old, new])
    await retention.keep(database, settings(text=30))
    async with database.begin() as connection:
        left = await connection.scalars(text("SELECT completion_id FROM completion_texts"))
        assert left.all() == ["imported-2"]


async def test_a_long_query_is_not_waited_for_and_the_next_time_comes(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "LOCK_TIMEOUT", "50ms")
    async with database.begin() as connection:
        await of_age(connection, 40)
    async with database.begin() as reading:
        await reading.execute(text("SELECT count(*) FROM completion_texts"))
        assert await retention.keep(database, settings(text=30)) == []
    assert len(await retention.keep(database, settings(text=30))) == 1


async def test_partitions_of_the_coming_days_are_made_ahead_once(database: Database) -> None:
    async with database.begin() as connection:
        made = await retention.make_ahead(connection)
        assert made >= 2 * retention.AHEAD_DAYS and await retention.make_ahead(connection) == 0


def test_a_record_that_was_set_aside_is_kept_no_longer_than_text(state_dir: Path) -> None:
    aside = state_dir / "spool" / "refused"
    aside.mkdir(parents=True)
    old, new = aside / "1.bin", aside / "2.bin"
    for path, days in ((old, 31), (new, 29)):
        path.write_bytes(b"x")
        moment = (NOW - timedelta(days=days)).timestamp()
        os.utime(path, (moment, moment))
    assert retention.drop_set_aside(state_dir, 0) == []
    assert len(retention.drop_set_aside(state_dir, 30)) == 1
    assert new.exists() and not old.exists()


async def test_what_would_go_is_shown_with_its_day(database: Database) -> None:
    async with database.begin() as connection:
        await of_age(connection, 40)
        parts = await retention.parts(connection, settings(text=30))
        due = await retention.due(connection, settings(text=30))
    [old] = [part for part in parts if part.table == "completion_texts" and part.goes_on is not None]
    assert due == [old] and old.goes_on == (NOW - timedelta(days=40) + timedelta(days=31)).date()
