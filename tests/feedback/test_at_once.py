"""Decisions at the same moment: nothing that somebody was told is lost, and each is answered in a sentence."""

from feedback import models
from feedback.database import Database
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
