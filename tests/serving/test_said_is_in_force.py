"""What an operator was told is done is in force at the gateway that said so, whatever became of the notification."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from feedback.database import Database
from serving.routing import bucket
from serving.routing_table import TableKeeper
from tests.builders import PROJECT, an_adapter
from tests.fakes import fake_engine
from tests.serving.running import Running, hold, running_gateway


@pytest.fixture
async def deaf(
    database: Database, database_url: str, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Running]:
    """A gateway that no notification reaches and that does not look by itself, with an approved version held."""

    async def hears_nothing(database: Database, channel: str) -> AsyncIterator[str]:
        await asyncio.Event().wait()
        yield channel

    monkeypatch.setattr(Database, "listen", hears_nothing)
    async with (
        fake_engine() as engine,
        running_gateway(
            database, database_url, state_dir, engine.url, registry_refresh_seconds=3600.0
        ) as gateway,
    ):
        async with database.begin() as connection:
            candidate = await an_adapter(connection, state="approved")
        await hold(database, candidate, engine.url)
        await gateway.gateway.tables.refresh()
        yield gateway


async def test_a_canary_an_abort_and_a_promotion_are_in_force_when_they_are_answered(deaf: Running) -> None:
    policy = {"rollout": {"steps": [0.5]}}
    assert (await deaf.client.patch("/admin/v1/models/support/policy", json=policy)).status_code == 200
    started = await deaf.client.post("/admin/v1/adapters/support@1/canary")
    salt = deaf.gateway.completions.table.models[PROJECT, "support"].experiment.salt  # type: ignore[union-attr]
    taken = {"x-hone-session-id": next(f"s-{n}" for n in range(1000) if bucket(salt, f"s-{n}") < 0.5)}
    assert started.status_code == 200, started.text
    assert await version_of(deaf, taken) == "support@1"
    for move, then in (
        ("models/support/abort", "support@0"),
        ("adapters/support@1/approve", "support@0"),
        ("adapters/support@1/promote", "support@1"),
        ("models/support/rollback", "support@0"),
    ):
        moved = await deaf.client.post(f"/admin/v1/{move}", json={"reason": "tried"})
        assert moved.status_code == 200, moved.text
        assert await version_of(deaf, taken) == then, move


async def test_a_key_that_was_revoked_opens_nothing_any_more(deaf: Running) -> None:
    made = (await deaf.client.post("/admin/v1/keys", json={"role": "app", "name": "shop"})).json()
    with_it = {"authorization": f"Bearer {made['key']}"}
    assert (await deaf.ask(headers=with_it)).status_code == 200
    gone = await deaf.client.delete(f"/admin/v1/keys/{made['key_id']}")
    assert gone.is_success, gone.text
    assert (await deaf.ask(headers=with_it)).status_code == 401


async def test_a_change_that_cannot_be_read_back_is_answered_all_the_same(
    deaf: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def away(keeper: TableKeeper) -> None:
        raise ConnectionError("the database went away")

    monkeypatch.setattr(TableKeeper, "refresh", away)
    made = await deaf.client.post("/admin/v1/keys", json={"role": "app", "name": "shop"})
    assert made.status_code == 201, made.text
    assert "committed and not routed by yet: the database went away" in caplog.text


async def test_a_duty_that_breaks_begins_again_and_says_so(
    database: Database,
    database_url: str,
    state_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    begun, run = [], TableKeeper.run

    async def breaks_once(keeper: TableKeeper) -> None:
        begun.append(keeper)
        if len(begun) == 1:
            raise RuntimeError("nobody foresaw this")
        await run(keeper)

    monkeypatch.setattr(TableKeeper, "run", breaks_once)
    monkeypatch.setattr("serving.gateway.RESTART_SECONDS", 0.01)
    async with fake_engine() as engine, running_gateway(database, database_url, state_dir, engine.url):
        async with asyncio.timeout(30):
            while len(begun) < 2:
                await asyncio.sleep(0.01)
    assert "A duty of the gateway ended; it begins again." in caplog.text
    assert "nobody foresaw this" in caplog.text


async def version_of(running: Running, headers: dict[str, str]) -> str:
    answer = await running.ask(headers=headers)
    assert answer.status_code == 200, answer.text
    return answer.headers["x-hone-model-version"]
