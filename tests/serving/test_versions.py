"""Versions, experiments and replicas as clients meet them."""

import asyncio
from pathlib import Path
from typing import Any

import httpx
import openai
from sqlalchemy import text

from feedback import experiments, models
from feedback.database import Database
from feedback.policy import ModelPolicy, RolloutPolicy
from serving.routing import bucket
from tests.builders import PROJECT, a_model, an_adapter
from tests.fakes import fake_engine, forget_adapters
from tests.serving.running import Running, hold, running_gateway


async def until(running: Running, version: str) -> httpx.Response:
    """Ask until this version answers."""
    for _ in range(1500):
        answer = await running.ask()
        if answer.headers.get("x-hone-model-version") == version:
            return answer
        await asyncio.sleep(0.02)
    raise AssertionError(f"{version} never answered")


async def test_the_openai_sdk_talks_to_it(database: Database, database_url: str, state_dir: Path) -> None:
    async with (
        fake_engine() as engine,
        running_gateway(database, database_url, state_dir, engine.url) as running,
        openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0) as client,
    ):
        question: Any = [{"role": "user", "content": "How long?"}]
        whole = await client.chat.completions.create(model="support", messages=question)
        stream = await client.chat.completions.create(model="support", messages=question, stream=True)
        words = [event.choices[0].delta.content or "" async for event in stream]
        models = [model.id async for model in client.models.list()]
        try:
            await client.chat.completions.create(model="nothing", messages=question)
        except openai.NotFoundError as error:
            assert error.code == "model_not_found"
        try:
            await client.with_options(api_key="hk_wrong").models.list()
        except openai.AuthenticationError as error:
            assert error.code == "invalid_api_key"
    assert whole.model == "support@0"
    assert whole.choices[0].message.content == "".join(words) == "Within 30 days."
    assert models == ["support", "support@0"]


async def test_a_promotion_reaches_clients_without_a_restart(
    database: Database, database_url: str, state_dir: Path
) -> None:
    async with (
        fake_engine() as engine,
        running_gateway(database, database_url, state_dir, engine.url) as running,
    ):
        await until(running, "support@0")
        async with database.begin() as connection:
            champion = await an_adapter(connection, state="champion")
        assert (await running.ask()).headers["x-hone-model-version"] == "support@0"
        await hold(database, champion, engine.url)
        answer = await until(running, champion.name)
        assert answer.json()["model"] == champion.name
        assert engine.asked[-1].body["model"] == champion.adapter_id
        pinned = await running.ask(model="support@0")
        assert pinned.headers["x-hone-model-version"] == "support@0"
        shown = (await running.client.get("/v1/models/support")).json()
        assert shown["root"] == champion.name


async def test_raters_stick_to_their_arm_and_rows_say_which(
    database: Database, database_url: str, state_dir: Path
) -> None:
    async with fake_engine() as engine:
        async with database.begin() as connection:
            await a_model(connection, policy=ModelPolicy(rollout=RolloutPolicy(steps=(0.3,))))
            candidate = await an_adapter(connection, state="approved")
            experiment = await experiments.start_canary(connection, candidate, by="ada")
        async with running_gateway(database, database_url, state_dir, engine.url) as running:
            for _ in range(2):
                for number in range(20):
                    answer = await running.ask(safety_identifier=f"rater-{number}")
                    assert answer.headers["x-hone-experiment"] == experiment.experiment_id
            rows = await running.rows(40)
    arms: dict[str, set[str]] = {}
    for row in rows:
        arms.setdefault(row["unit"], set()).add(row["arm"])
        expected = "candidate" if bucket(experiment.salt, row["unit"]) < 0.3 else "champion"
        assert row["arm"] == expected
        assert row["propensity"] == {"candidate": 0.3, "champion": 0.7}[expected]
        assert row["policy_version"] == experiment.policy_version
    assert len(arms) == 20
    assert all(len(met) == 1 for met in arms.values())


async def test_a_session_sticks_where_no_rater_is_named(
    database: Database, database_url: str, state_dir: Path
) -> None:
    async with (
        fake_engine() as engine,
        running_gateway(database, database_url, state_dir, engine.url) as running,
    ):
        for _ in range(2):
            await running.ask(headers={"x-hone-session-id": "talk-1"})
        await running.ask(headers={"x-hone-rater-id": "ada"})
        first, second, third = await running.rows(3)
    assert first["unit"] == second["unit"] == first["session"] == "talk-1"
    assert third["unit"] == third["rater"] != "ada"


async def test_a_person_is_one_person_whether_named_in_the_body_or_in_a_header(
    database: Database, database_url: str, state_dir: Path
) -> None:
    async with (
        fake_engine() as engine,
        running_gateway(database, database_url, state_dir, engine.url) as running,
    ):
        await running.ask(safety_identifier="Zoë")
        await running.ask(headers={"x-hone-rater-id": "Zoë".encode()})
        await running.ask(headers={"x-hone-rater-id": "Zoë".encode("latin-1")})
        assert len({row["rater"] for row in await running.rows(3)}) == 1


async def test_a_replica_that_lost_its_adapters_is_passed_over(
    database: Database, database_url: str, state_dir: Path
) -> None:
    async with fake_engine() as well, fake_engine(forget_adapters("base")) as forgetful:
        async with database.begin() as connection:
            champion = await an_adapter(connection, state="champion")
        urls = (forgetful.url, well.url)
        async with running_gateway(database, database_url, state_dir, *urls) as running:
            for _ in range(6):
                answer = await running.ask()
                assert answer.status_code == 200
                assert answer.headers["x-hone-model-version"] == champion.name
        async with running_gateway(database, database_url, state_dir, forgetful.url) as running:
            answer = await running.ask()
    assert answer.headers["x-hone-model-version"] == "support@0"


async def test_a_revoked_key_stops_working(database: Database, database_url: str, state_dir: Path) -> None:
    async with (
        fake_engine() as engine,
        running_gateway(database, database_url, state_dir, engine.url) as running,
    ):
        answer = await running.ask()
        assert answer.status_code == 200
        async with database.begin() as connection:
            await connection.execute(text("UPDATE keys SET revoked_at = now()"))
            await connection.execute(text("NOTIFY hone_registry"))
        for _ in range(1500):
            if (answer := await running.ask()).status_code == 401:
                break
            await asyncio.sleep(0.02)
    assert answer.json()["error"]["code"] == "invalid_api_key"


async def test_metrics_count_by_version(database: Database, database_url: str, state_dir: Path) -> None:
    async with (
        fake_engine() as engine,
        running_gateway(database, database_url, state_dir, engine.url) as running,
    ):
        for stream in (False, True, True):
            await running.ask(stream=stream)
        await running.rows(3)
        seen = (await running.client.get("/metrics")).text
        health = (await running.client.get("/health")).json()
    labels = 'arm="",model_version="support@0",project="default"'
    assert f'hone_requests_total{{{labels},status="ok"}} 3.0' in seen
    assert f"hone_output_tokens_total{{{labels}}} 9.0" in seen
    assert f"hone_time_to_first_token_seconds_count{{{labels}}} 2.0" in seen
    assert f"hone_request_duration_seconds_count{{{labels}}} 3.0" in seen
    assert "hone_completions_recorded_total 3.0" in seen
    assert health["status"] == "ok"


async def test_an_answer_by_a_fallback_names_the_version_it_stands_in_for(
    database: Database, database_url: str, state_dir: Path
) -> None:
    async with (
        fake_engine() as engine,
        running_gateway(database, database_url, state_dir, engine.url) as running,
    ):
        assert "x-hone-fallback-for" not in (await running.ask()).headers
        async with database.begin() as connection:
            champion = await an_adapter(connection, state="champion")
        answer = await running.ask()
        for _ in range(1500):
            if "x-hone-fallback-for" in answer.headers:
                break
            await asyncio.sleep(0.02)
            answer = await running.ask()
        assert answer.headers["x-hone-model-version"] == "support@0"
        assert answer.headers["x-hone-fallback-for"] == champion.name
        await hold(database, champion, engine.url)
        assert "x-hone-fallback-for" not in (await until(running, champion.name)).headers


async def test_a_policy_may_allow_no_fallback(database: Database, database_url: str, state_dir: Path) -> None:
    async with (
        fake_engine() as engine,
        running_gateway(database, database_url, state_dir, engine.url) as running,
    ):
        async with database.begin() as connection:
            await models.change_policy(
                connection, PROJECT, "support", {"rollout": {"fallbacks": "none"}}, by="ada"
            )
            champion = await an_adapter(connection, state="champion")
        answer = await running.ask()
        for _ in range(1500):
            if answer.status_code == 503:
                break
            await asyncio.sleep(0.02)
            answer = await running.ask()
        assert answer.status_code == 503 and champion.name in answer.json()["error"]["message"]
