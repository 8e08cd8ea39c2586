"""Decisions at the same moment: nothing that somebody was told is lost, and each is answered in a sentence."""

import pytest

from feedback import audit, models, run_requests
from feedback.database import Database
from feedback.errors import IllegalMove
from feedback.run_requests import search_of
from tests.builders import PROJECT, a_model
from tests.interleaved import meanwhile


async def test_of_two_policy_changes_at_once_both_hold(database: Database) -> None:
    async with database.begin() as connection:
        await a_model(connection)
    async with database.begin() as connection:
        await models.change_policy(connection, PROJECT, "support", {"approval": "automatic"}, by="ada")
        bob = await meanwhile(
            database,
            lambda other: models.change_policy(
                other, PROJECT, "support", {"privacy": {"redaction": "everything"}}, by="bob"
            ),
        )
    await bob
    async with database.begin() as connection:
        policy = (await models.get(connection, PROJECT, "support")).policy
    assert (policy.approval, policy.privacy.redaction) == ("automatic", "everything")


async def test_a_cancellation_that_comes_too_late_says_so_and_leaves_no_entry(database: Database) -> None:
    async with database.begin() as connection:
        await a_model(connection)
        asked = await run_requests.create(connection, PROJECT, "support", "plan", by="ada")
    async with database.begin() as connection:
        await run_requests.answer(connection, asked.request_id, plan={})
        late = await meanwhile(
            database, lambda other: run_requests.cancel(other, PROJECT, asked.request_id, by="ada")
        )
    with pytest.raises(IllegalMove, match="is 'done'; only what waits or runs"):
        await late
    async with database.begin() as connection:
        told = [one.action for one in await audit.entries(connection, PROJECT)]
    assert "run.cancel_request" not in told


async def test_a_search_that_was_cancelled_does_not_begin(database: Database) -> None:
    async with database.begin() as connection:
        await a_model(connection)
        asked = await run_requests.create(
            connection, PROJECT, "support", "search", search=search_of(1, "random"), by="ada"
        )
        await run_requests.cancel(connection, PROJECT, asked.request_id, by="ada")
        with pytest.raises(IllegalMove, match="is 'refused'"):
            await run_requests.begin_search(connection, asked)
