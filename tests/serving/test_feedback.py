"""Feedback through a running gateway: the token that comes with an answer, and a database that is away."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import pytest

from feedback import models
from feedback.database import Database
from serving.spool import FEEDBACK
from tests.builders import PROJECT
from tests.fakes import answer_well, fake_engine
from tests.serving.running import Running, running_gateway
from tests.serving.test_record import a_breakable_way

CHUNK = {"x-hone-feedback": "chunk"}
ASK: dict[str, Any] = {"model": "support", "messages": [{"role": "user", "content": "How long?"}]}


@pytest.fixture
async def running(database: Database, database_url: str, state_dir: Path) -> AsyncIterator[Running]:
    async with (
        fake_engine(answer_well(("a", "b"), gap_seconds=0.05)) as engine,
        running_gateway(database, database_url, state_dir, engine.url) as running,
    ):
        yield running


async def vote(running: Running, token: str, value: bool = True) -> httpx.Response:
    """What a page sends: the token, and no key."""
    async with httpx.AsyncClient(base_url=running.url, timeout=60) as page:
        return await page.post(
            "/v1/feedback", json={"value": value}, headers={"x-hone-feedback-token": token}
        )


async def stored(running: Running, completion_id: str) -> list[Any]:
    """The values that count."""
    answer = await running.client.get(f"/admin/v1/completions/{completion_id}")
    return [row["value"] for row in answer.json()["feedback"] if row["effective"]]


@pytest.mark.parametrize("fast_lane", [True, False])
async def test_a_stream_that_asks_for_it_ends_with_a_token_that_works(
    database: Database, database_url: str, state_dir: Path, fast_lane: bool
) -> None:
    async with (
        fake_engine() as engine,
        running_gateway(
            database, database_url, state_dir, engine.url, gateway_fast_lane=fast_lane
        ) as running,
    ):
        answer = await running.ask(stream=True, headers=CHUNK)
        *_, said, end = [line for line in answer.text.split("\n\n") if line]
        assert end == "data: [DONE]"
        chunk = orjson.loads(said.removeprefix("data: "))
        token = chunk["hone"]["feedback"]
        assert (chunk["id"], chunk["choices"]) == (answer.headers["x-hone-request-id"], [])
        assert chunk["model"] == answer.headers["x-hone-model-version"]
        assert token["id"] == answer.headers["x-hone-feedback-token"]
        assert token["url"] == f"/v1/feedback/tokens/{token['id']}" and token["expires_at"].endswith("Z")
        assert (await vote(running, token["id"])).status_code == 200
        posted = await running.client.post(token["url"], json={"value": False})
        assert posted.status_code == 200
        await running.rows(1)
        assert await stored(running, chunk["id"]) == [False]


async def test_a_stream_that_does_not_ask_gets_no_extra_chunk(running: Running) -> None:
    assert '"hone"' not in (await running.ask(stream=True)).text
    refused = await running.ask(stream=True, headers={"x-hone-feedback": "yes"})
    assert refused.status_code == 400 and "chunk" in refused.text


async def test_openais_sdk_reads_the_chunk(running: Running) -> None:
    async with openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key=running.key) as client:
        stream = await client.chat.completions.create(**ASK, stream=True, extra_headers=CHUNK)
        last = [chunk async for chunk in stream][-1]
    assert last.choices == [] and last.model_extra is not None
    assert (await vote(running, last.model_extra["hone"]["feedback"]["id"])).status_code == 200


async def test_an_answer_is_rated_while_it_is_still_being_given(running: Running) -> None:
    async with running.client.stream("POST", "/v1/chat/completions", json={**ASK, "stream": True}) as answer:
        kept = await vote(running, answer.headers["x-hone-feedback-token"])
        assert kept.json()["status"] == "stored"
        assert (await answer.aread()).endswith(b"data: [DONE]\n\n")
    await running.rows(1)
    assert await stored(running, answer.headers["x-hone-request-id"]) == [True]


async def test_feedback_outlives_an_outage_and_says_where_it_is(
    database: Database, database_url: str, state_dir: Path
) -> None:
    async with (
        fake_engine() as engine,
        a_breakable_way(database) as (url, cut, mend),
        running_gateway(database, url, state_dir, engine.url) as running,
    ):
        answer = await running.ask()
        await cut()
        given = await vote(running, answer.headers["x-hone-feedback-token"])
        assert (given.status_code, given.json()["status"]) == (202, "spooled")
        state = f"/v1/feedback/{given.json()['feedback_id']}"
        assert (await running.client.get(state)).json()["status"] == "spooled"
        await mend()
        for _ in range(600):
            if (await running.client.get(state)).json()["status"] == "stored":
                break
            await asyncio.sleep(0.1)
        assert await stored(running, answer.headers["x-hone-request-id"]) == [True]
        metrics = (await running.client.get("/metrics")).text
        assert "hone_feedback_spooled_total 1.0" in metrics and "hone_feedback_stored_total 0.0" in metrics


async def test_feedback_that_waits_at_one_gateway_is_shown_and_taken_back_at_another(
    database: Database, database_url: str, state_dir: Path
) -> None:
    async with (
        fake_engine() as engine,
        a_breakable_way(database) as (url, cut, mend),
        running_gateway(database, url, state_dir, engine.url) as first,
        running_gateway(database, database_url, state_dir, engine.url) as other,
    ):
        answer = await first.ask()
        await cut()
        given = await vote(first, answer.headers["x-hone-feedback-token"])
        state = f"/v1/feedback/{given.json()['feedback_id']}"
        shown = (await other.client.get(state)).json()
        assert (shown["status"], shown["value"]) == ("spooled", True)
        assert (await other.client.get("/v1/feedback/feedback-unknown")).status_code == 404
        assert (await other.client.delete(state)).status_code == 202
        await mend()
        for _ in range(600):
            if (await other.client.get(state)).json()["status"] == "retracted":
                break
            await asyncio.sleep(0.1)
        assert await stored(first, answer.headers["x-hone-request-id"]) == []


async def test_feedback_is_refused_and_not_acknowledged_when_the_disk_is_full_too(
    database: Database, database_url: str, state_dir: Path
) -> None:
    async with (
        fake_engine() as engine,
        a_breakable_way(database) as (url, cut, _),
        running_gateway(database, url, state_dir, engine.url) as running,
    ):
        token = (await running.ask()).headers["x-hone-feedback-token"]
        await cut()
        spool = running.gateway.spool
        spool.append(FEEDBACK, b"{}")
        spool.bytes_max = 1
        answer = await vote(running, token)
        spool.bytes_max = 2**20
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "spool_full")
    assert "retry-after" in answer.headers


async def test_a_metric_may_be_used_as_soon_as_the_policy_declares_it(running: Running) -> None:
    answer = (await running.ask()).json()
    body = {"completion_id": answer["id"], "name": "stars", "value": 4}
    assert (await running.client.post("/v1/feedback", json=body)).status_code == 400
    stars = {"type": "number", "minimum": 1, "maximum": 5}
    async with running.database.begin() as connection:
        change = {"feedback": {"metrics": {"stars": stars}, "allowed_origins": ["https://shop.example"]}}
        await models.change_policy(connection, PROJECT, "support", change, by="ada")
    headers = {"origin": "https://shop.example"}
    for _ in range(1000):
        if (await running.client.post("/v1/feedback", json=body, headers=headers)).status_code == 200:
            break
        await asyncio.sleep(0.05)
    said = await running.client.post("/v1/feedback", json=body, headers=headers)
    assert said.status_code == 200
    assert said.headers["access-control-allow-origin"] == "https://shop.example"


async def test_a_foreign_path_still_answers_as_the_gateway_does(running: Running) -> None:
    for path in ("/feedback/tokens", "/v1/feedbacks", "/api/private"):
        assert (await running.client.post(path, json={})).status_code == 404
