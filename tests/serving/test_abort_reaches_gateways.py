"""An abort is one write in the registry, and every gateway process stops routing to the canary because of it."""

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from feedback import experiments
from feedback.database import Database
from feedback.policy import ModelPolicy, RolloutPolicy
from retrain import rollout
from serving.routing import bucket
from tests.builders import a_model, a_rated_completion, an_adapter
from tests.fakes import fake_engine
from tests.serving.running import a_service
from tests.serving.test_record import a_gateway_process

CANDIDATE = "support@1"


async def version_for(client: httpx.AsyncClient, url: str, key: str, session: str) -> str:
    answer = await client.post(
        f"{url}/v1/chat/completions",
        json={"model": "support", "messages": [{"role": "user", "content": "?"}]},
        headers={"authorization": f"Bearer {key}", "x-hone-session-id": session},
    )
    assert answer.status_code == 200, answer.text
    return answer.headers["x-hone-model-version"]


async def a_bad_canary(database: Database) -> str:
    """A canary of half the units, about which everybody complains; returns the split's salt."""
    policy = ModelPolicy(rollout=RolloutPolicy(steps=(0.5,)))
    async with database.begin() as connection:
        await a_model(connection, policy=policy)
        candidate = await an_adapter(connection, state="approved")
        experiment = await experiments.start_canary(connection, candidate, by="ada")
    return experiment.salt


async def complain(database: Database) -> None:
    async with database.begin() as connection:
        [experiment] = await experiments.running(connection)
        for arm, liked in (("champion", True), ("candidate", False)):
            for number in range(60):
                where: dict[str, Any] = {"experiment_id": experiment.experiment_id, "arm": arm}
                await a_rated_completion(
                    connection, value=liked, rater=f"{arm}-{number}", propensity=0.5, **where
                )


async def test_an_abort_by_the_worker_reaches_every_gateway_by_its_notification_alone(
    database: Database, database_url: str, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HONE_REGISTRY_REFRESH_SECONDS", "3600")
    salt = await a_bad_canary(database)
    session = next(f"s-{n}" for n in range(1000) if bucket(salt, f"s-{n}") < 0.5)
    async with fake_engine() as engine, httpx.AsyncClient(timeout=10) as client:
        key = await a_service(database, engine.url)
        async with (
            a_gateway_process(database_url, state_dir, engine.url) as (_, first),
            a_gateway_process(database_url, state_dir, engine.url) as (_, second),
        ):
            urls = (first, second)
            assert [await version_for(client, url, key, session) for url in urls] == [CANDIDATE] * 2
            await complain(database)
            [said] = await rollout.tick(database)
            began = time.perf_counter()
            assert said.startswith(f"{CANDIDATE} was aborted: Candidate is worse than champion")
            for url in urls:
                for _ in range(3000):
                    if await version_for(client, url, key, session) == "support@0":
                        break
                    await asyncio.sleep(0.01)
                else:
                    raise AssertionError(f"{url} still routes to the aborted canary")
            print(f"both gateways routed past it {time.perf_counter() - began:.3f} s after the commit")
