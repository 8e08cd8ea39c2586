"""Keys that nobody can read back, and an audit trail that nobody can change unseen."""

import asyncio
import time
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text, update
from sqlalchemy.exc import DBAPIError

from feedback import audit, keys, tokens
from feedback.database import Database, parse_url
from feedback.errors import HoneError
from feedback.ids import new_hex, pseudonym
from feedback.tables import audit as audit_table
from tests.builders import PROJECT


async def test_a_key_is_stored_as_its_hash_only(database: Database) -> None:
    async with database.begin() as connection:
        _, secret = await keys.create(connection, role="app", name="shop", by="test")
        dump = str((await connection.execute(text("SELECT k::text, a::text FROM keys k, audit a"))).all())
    assert secret.startswith("hk_") and secret not in dump
    assert keys.hash_key(secret).hex() in dump


async def test_revoked_and_expired_keys_do_not_work(database: Database) -> None:
    async with database.begin() as connection:
        kept, _ = await keys.create(connection, role="app", name="kept", by="test")
        gone, _ = await keys.create(connection, role="app", name="gone", by="test")
        await keys.create(connection, role="app", name="old", lifetime_days=-1, by="test")
        await keys.revoke(connection, PROJECT, gone.key_id, by="test")
        assert [key.key_id for key in await keys.active(connection)] == [kept.key_id]


async def test_a_key_with_an_unknown_role_is_refused_with_the_known_ones(database: Database) -> None:
    async with database.begin() as connection:
        with pytest.raises(HoneError, match="app, operator, admin"):
            await keys.create(connection, role="root", name="x", by="test")


async def test_processes_that_start_at_once_share_one_secret(database: Database) -> None:
    async def read() -> bytes:
        async with database.begin() as connection:
            return await keys.service_secret(connection, "feedback_token")

    assert len({*await asyncio.gather(*(read() for _ in range(5)))}) == 1


@pytest.mark.parametrize("change", [{"actor": "eve"}, {"detail": {}}, {"sequence": 9}])
async def test_a_changed_audit_entry_is_found(database: Database, change: dict[str, object]) -> None:
    async with database.begin() as connection:
        for number in range(4):
            await audit.write(
                connection,
                project=PROJECT,
                actor="ada",
                action="test",
                subject=str(number),
                detail={"n": number},
            )
        assert await audit.verify(connection) is None
    async with database.begin() as connection:
        # Only the owner of the table can, and the chain tells.
        await connection.execute(text("ALTER TABLE audit DISABLE TRIGGER audit_rows_stay"))
        await connection.execute(update(audit_table).where(audit_table.c.sequence == 3).values(**change))
        assert await audit.verify(connection) == 3


@pytest.mark.parametrize("number", [-0.0, 1e16, 1e20, 1e-7, 5e-324])
async def test_a_number_that_the_database_spells_otherwise_breaks_no_chain(
    database: Database, number: float
) -> None:
    async with database.begin() as connection:
        await audit.write(
            connection, project=PROJECT, actor="ada", action="test", subject="x", detail={"n": [number]}
        )
    async with database.begin() as connection:
        assert await audit.verify(connection) is None


@pytest.mark.parametrize("change", ["UPDATE audit SET actor = 'eve'", "DELETE FROM audit", "TRUNCATE audit"])
async def test_the_database_refuses_to_change_or_remove_an_audit_entry(
    database: Database, change: str
) -> None:
    async with database.begin() as connection:
        await audit.write(
            connection, project=PROJECT, actor="ada", action="test", subject="x", detail={"n": 1}
        )
    with pytest.raises(DBAPIError, match="only grows"):
        async with database.begin() as connection:
            await connection.execute(text(change))


async def test_entries_written_at_once_form_one_chain(database: Database) -> None:
    async def write(number: int) -> None:
        async with database.begin() as connection:
            await audit.write(
                connection, project=PROJECT, actor="ada", action="test", subject=str(number), detail={}
            )

    await asyncio.gather(*(write(number) for number in range(12)))
    async with database.begin() as connection:
        assert await audit.verify(connection) is None
        assert len(await audit.entries(connection, PROJECT)) == 12


def test_a_feedback_token_grants_one_completion_to_one_rater() -> None:
    token = tokens.sign(b"k" * 32, "chatcmpl-1", PROJECT, "rater-a", int(datetime.now(UTC).timestamp()) + 60)
    grant = tokens.verify(b"k" * 32, token)
    assert (grant.completion_id, grant.project, grant.rater) == ("chatcmpl-1", PROJECT, "rater-a")


@given(position=st.integers(0, 400), replacement=st.characters(codec="ascii"))
def test_a_token_that_was_changed_anywhere_is_refused(position: int, replacement: str) -> None:
    token = tokens.sign(b"k" * 32, "chatcmpl-1", PROJECT, None, int(datetime.now(UTC).timestamp()) + 60)
    position %= len(token)
    forged = token[:position] + replacement + token[position + 1 :]
    if forged == token:
        return
    with pytest.raises(HoneError):
        tokens.verify(b"k" * 32, forged)


def test_an_expired_token_says_so() -> None:
    token = tokens.sign(b"k" * 32, "chatcmpl-1", PROJECT, None, int(datetime.now(UTC).timestamp()) - 1)
    with pytest.raises(HoneError, match="expired"):
        tokens.verify(b"k" * 32, token)


def test_a_rater_has_another_name_in_another_project_and_under_another_secret() -> None:
    names = {pseudonym(secret, project, "ada") for secret in (b"a" * 32, b"b" * 32) for project in ("p", "q")}
    assert len(names) == 4


def test_ids_made_later_sort_later() -> None:
    ids = []
    for _ in range(3):
        ids.append(new_hex())
        time.sleep(0.002)
    assert ids == sorted(ids)
    assert all(one[12] == "7" and one[16] in "89ab" for one in ids)


@pytest.mark.parametrize("url", ["mysql://h/d", "sqlite:///x.db", "nonsense"])
def test_a_database_that_is_not_postgresql_is_refused(url: str) -> None:
    with pytest.raises(HoneError, match="postgresql://"):
        parse_url(url)
