"""Decisions at the same moment: nothing that somebody was told is lost, and each is answered in a sentence."""

import pytest

from feedback import audit, models, run_requests, runs, shipping
from feedback.database import Database
from feedback.errors import HoneError, IllegalMove
from feedback.run_requests import search_of
from tests.builders import PROJECT, a_model, an_adapter
from tests.interleaved import meanwhile
from tests.retrain.record import queued_run


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


async def test_of_two_canaries_started_at_once_the_second_is_told_of_the_first(database: Database) -> None:
    async with database.begin() as connection:
        await an_adapter(connection, state="approved")
        await an_adapter(connection, state="approved")
    async with database.begin() as connection:
        await shipping.start_canary(connection, PROJECT, "support@1", by="ada")
        bob = await meanwhile(
            database, lambda other: shipping.start_canary(other, PROJECT, "support@2", by="bob")
        )
    with pytest.raises(HoneError, match="already splits its traffic"):
        await bob


async def test_a_canary_started_during_a_promotion_is_compared_with_the_new_champion(
    database: Database,
) -> None:
    async with database.begin() as connection:
        first = await an_adapter(connection, state="approved")
        await an_adapter(connection, state="approved")
    async with database.begin() as connection:
        await shipping.promote(connection, PROJECT, "support@1", by="ada")
        bob = await meanwhile(
            database, lambda other: shipping.start_canary(other, PROJECT, "support@2", by="bob")
        )
    assert (await bob).arm("champion").adapter_id == first.adapter_id


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


async def test_a_run_that_was_resumed_before_it_rested_is_not_put_to_rest(database: Database) -> None:
    async with database.begin() as connection:
        run = await queued_run(connection, "tiny")
        await runs.request_pause(connection, PROJECT, run.run_id, by="ada")
    async with database.begin() as connection:
        await runs.resume(connection, PROJECT, run.run_id, by="ada")
        worker = await meanwhile(database, lambda other: runs.rest(other, run.run_id))
    assert await worker is False
    async with database.begin() as connection:
        assert (await runs.by_id(connection, run.run_id)).status == "queued"


async def test_a_run_that_starts_while_it_is_resumed_goes_on_running(database: Database) -> None:
    async with database.begin() as connection:
        run = await queued_run(connection, "tiny")
        await runs.request_pause(connection, PROJECT, run.run_id, by="ada")
    async with database.begin() as connection:
        await runs.start(connection, run.run_id)
        ada = await meanwhile(database, lambda other: runs.resume(other, PROJECT, run.run_id, by="ada"))
    assert (await ada).status == "running"
