"""What is kept of a split's verdicts over time."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest
from sqlalchemy import select

from feedback import console_keys, experiments, exposures, keys, looks, traffic
from feedback.completions import insert_many
from feedback.database import Database
from feedback.errors import Conflict
from feedback.ids import new_id
from feedback.tables import audit
from tests.builders import PROJECT, a_completion, an_adapter

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def a_verdict(difference: float | None = 0.1) -> dict[str, Any]:
    arms = [{"arm": name, "units": 30, "rated_units": 10} for name in ("champion", "candidate")]
    return {"state": "inconclusive", "difference": difference, "low": -0.2, "high": 0.4, "arms": arms}


async def test_the_newest_look_of_a_minute_is_kept(database: Database) -> None:
    async with database.begin() as connection:
        split = await experiments.start_canary(
            connection, await an_adapter(connection, state="approved"), by="ada"
        )
        for seconds, difference in ((0, 0.1), (59, 0.2), (60, 0.3)):
            at = NOON + timedelta(seconds=seconds)
            await looks.keep(connection, split, a_verdict(difference), at=at)
        found = await looks.of_split(connection, split.experiment_id)
    assert [(one.minute, one.difference) for one in found] == [
        (NOON, 0.2),
        (NOON + timedelta(minutes=1), 0.3),
    ]
    assert (found[0].units, found[0].rated_units, found[0].step, found[0].share) == (60, 20, 0, 0.01)


@pytest.mark.parametrize("held", [1, 59, 60, 61, 250])
async def test_a_long_life_is_thinned_evenly_and_keeps_its_newest_look(database: Database, held: int) -> None:
    async with database.begin() as connection:
        split = await experiments.start_canary(
            connection, await an_adapter(connection, state="approved"), by="ada"
        )
        for minute in range(held):
            await looks.keep(connection, split, a_verdict(None), at=NOON + timedelta(minutes=minute))
        found = await looks.of_split(connection, split.experiment_id, most=60)
    assert min(held, 31) <= len(found) <= 60
    assert found[-1].minute == NOON + timedelta(minutes=held - 1)
    assert len({b.minute - a.minute for a, b in pairwise(found)}) <= 1


async def test_the_consoles_key_is_the_same_in_every_process_and_made_once(database: Database) -> None:
    async with database.begin() as connection:
        first = await console_keys.of_project(connection, PROJECT, by="ada")
        assert await console_keys.of_project(connection, PROJECT, by="bob") == first
        [held] = await keys.in_project(connection, PROJECT)
        made = (await connection.execute(select(audit.c.actor).where(audit.c.action == "key.create"))).all()
    assert (held.role, held.key_hash) == ("app", keys.hash_key(first))
    assert held.key_id.startswith(console_keys.CONSOLE_KEYS)
    assert [row.actor for row in made] == ["ada"]


async def test_a_revoked_console_key_stays_revoked_until_somebody_makes_the_next(database: Database) -> None:
    async with database.begin() as connection:
        first = await console_keys.of_project(connection, PROJECT, by="ada")
        [held] = await keys.in_project(connection, PROJECT)
        await keys.revoke(connection, PROJECT, held.key_id, by="ada")
        with pytest.raises(Conflict, match=held.key_id):
            await console_keys.of_project(connection, PROJECT, by="ada")
        second = await console_keys.make(connection, PROJECT, by="ada")
        assert second != first
        assert await console_keys.of_project(connection, PROJECT, by="bob") == second


async def test_each_project_has_a_console_key_of_its_own(database: Database) -> None:
    async with database.begin() as connection:
        one, other = [
            await console_keys.of_project(connection, project, by="ada") for project in (PROJECT, "other")
        ]
        # A project whose name begins like another's must not take the other's key.
        longer = await console_keys.of_project(connection, f"{PROJECT}-1", by="ada")
    assert len({one, other, longer}) == 3


async def test_what_operators_try_out_counts_in_no_comparison_and_no_drift(database: Database) -> None:
    now = datetime.now(UTC)
    async with database.begin() as connection:
        version = await an_adapter(connection, state="champion")
        base = a_completion(adapter_id=version.adapter_id, version=version.version, unit="rater-a")
        tried = replace(
            base, completion_id=new_id("chatcmpl"), unit="operator", key_id=f"{console_keys.CONSOLE_KEYS}x-1"
        )
        await insert_many(connection, [base, tried])
        counted = await exposures.around(
            connection,
            PROJECT,
            "support",
            now=version.adapter_id,
            before=[],
            from_=now - timedelta(days=2),
            since=now - timedelta(days=1),
            maturation_seconds=0.0,
        )
        seen = await traffic.window(
            connection, PROJECT, "support", after=now - timedelta(days=1), rows=10, rows_per_unit=10
        )
    assert [one.unit for one in counted] == ["rater-a"]
    assert [one.unit for one in seen] == ["rater-a"]
