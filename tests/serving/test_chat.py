"""The request path end to end: real uvicorn and PostgreSQL, a fake engine; every behaviour through both lanes."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest

from feedback.database import Database
from tests import fakes
from tests.fakes import fake_engine
from tests.serving.running import Running, running_gateway

Start = Callable[..., AbstractAsyncContextManager[Running]]


@pytest.fixture(params=[True, False], ids=["fast lane", "asgi"])
def start(request: pytest.FixtureRequest, database: Database, database_url: str, state_dir: Path) -> Start:
    """Starts a gateway in front of some engines."""

    def start(*engine_urls: str, **settings: Any) -> AbstractAsyncContextManager[Running]:
        settings = {"gateway_fast_lane": request.param, **settings}
        return running_gateway(database, database_url, state_dir, *engine_urls, **settings)

    return start


def events(answer: httpx.Response) -> list[Any]:
    """The parsed events of a stream; `[DONE]` as a string."""
    data = [line[6:] for line in answer.text.split("\n\n") if line]
    return [line if line == "[DONE]" else orjson.loads(line) for line in data]


async def test_a_whole_answer_names_the_version_that_gave_it_and_is_recorded(start: Start) -> None:
    async with fake_engine() as engine, start(engine.url) as running:
        answer = await running.ask(user="ada@example.org", metadata={"page": "returns"}, store=True)
        assert answer.status_code == 200, answer.text
        body = answer.json()
        assert body["model"] == "support@0"
        assert body["id"] == answer.headers["x-hone-request-id"]
        assert body["choices"][0]["token_ids"] is None and body["prompt_token_ids"] is None
        assert answer.headers["x-hone-model-version"] == "support@0"
        assert answer.headers["x-hone-feedback-token"]
        [row] = await running.rows(1)
    assert row["completion_id"] == body["id"]
    assert row["output_text"] == "Within 30 days."
    assert (row["prompt_token_ids"], row["output_token_ids"]) == ([1, 2, 3], [10, 11, 12])
    assert (row["prompt_tokens"], row["output_tokens"]) == (3, 3)
    assert (row["status"], row["finish_reason"], row["consent"]) == ("ok", "stop", True)
    assert row["rater"].startswith("rater-") and row["unit"] == row["rater"]
    assert row["metadata"] == {"page": "returns"}
    assert "user" not in row["request"] and row["request"]["model"] == "support"
    assert "ada@example.org" not in orjson.dumps(engine.asked[0].body).decode()
    assert engine.asked[0].body["model"] == "base"


async def test_a_streamed_answer_is_relayed_without_what_the_client_did_not_ask_for(start: Start) -> None:
    async with fake_engine() as engine, start(engine.url) as running:
        answer = await running.ask(stream=True)
        assert answer.headers["content-type"] == "text/event-stream; charset=utf-8"
        *said, done = events(answer)
        [row] = await running.rows(1)
    assert done == "[DONE]"
    assert {event["model"] for event in said} == {"support@0"}
    assert "".join(event["choices"][0]["delta"]["content"] for event in said) == "Within 30 days."
    assert all(event["choices"] and not event["choices"][0].get("token_ids") for event in said)
    assert (row["output_text"], row["output_token_ids"]) == ("Within 30 days.", [10, 11, 12])
    assert row["message"] == {"role": "assistant", "content": "Within 30 days."}
    assert row["time_to_first_token_seconds"] > 0
    assert row["time_per_output_token_seconds"] is not None


async def test_token_ids_and_usage_are_there_for_who_asks(start: Start) -> None:
    async with fake_engine() as engine, start(engine.url) as running:
        answer = await running.ask(stream=True, return_token_ids=True, stream_options={"include_usage": True})
    *said, usage, _ = events(answer)
    assert usage["usage"]["completion_tokens"] == 3
    assert [event["choices"][0].get("token_ids") for event in said] == [None, [10], [11], [12]]


async def test_text_completions_take_the_same_road(start: Start) -> None:
    async with fake_engine() as engine, start(engine.url) as running:
        for stream in (False, True):
            fields = {"model": "support", "prompt": "How long?", "stream": stream}
            answer = await running.client.post("/v1/completions", json=fields)
            assert answer.status_code == 200
        whole, streamed = await running.rows(2)
    assert whole["completion_id"].startswith("cmpl-")
    assert whole["output_text"] == streamed["output_text"] == "Within 30 days."
    assert whole["prompt_token_ids"] == streamed["prompt_token_ids"] == [1, 2, 3]


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": None}, "model"),
        ({"model": 7}, "model"),
        ({"messages": []}, "messages"),
        ({"stream": "yes"}, "stream"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"store": "maybe"}, "store"),
        ({"stream_options": 1}, "stream_options"),
        ({"prompt_logprobs": 1}, "prompt_logprobs"),
        ({"echo": True, "logprobs": True}, "echo"),
        ({"echo": True, "top_logprobs": 0}, "echo"),
    ],
)
async def test_a_bad_request_names_the_field(start: Start, fields: dict[str, Any], param: str) -> None:
    async with fake_engine() as engine, start(engine.url) as running:
        answer = await running.ask(**fields)
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == param
    assert engine.asked == []


async def test_what_is_not_json_or_too_long_is_refused(start: Start) -> None:
    async with fake_engine() as engine, start(engine.url, request_bytes_max=1000) as running:
        broken = await running.client.post("/v1/chat/completions", content=b'{"model": ')
        long = await running.ask(messages=[{"role": "user", "content": "x" * 2000}])
        after = await running.ask()
    assert (broken.status_code, long.status_code, after.status_code) == (400, 413, 200)
    assert "1000" in long.json()["error"]["message"]


@pytest.mark.parametrize("field", ["tools", "stream_options"])
async def test_a_body_too_deep_to_be_passed_on_and_recorded_is_refused(start: Start, field: str) -> None:
    deep, flat = [b"[" * depth + b"]" * depth for depth in (300, 200)]
    body = (
        b'{"model": "support", "messages": [{"role": "user", "content": "?"}], "%b": {"include_usage": %b}}'
    )
    async with fake_engine() as engine, start(engine.url) as running:
        refused = await running.client.post("/v1/chat/completions", content=body % (field.encode(), deep))
        passed = await running.client.post("/v1/chat/completions", content=body % (field.encode(), flat))
        await running.rows(1)
    assert (refused.status_code, passed.status_code) == (400, 200)
    assert "levels deep" in refused.json()["error"]["message"]


@pytest.mark.parametrize("header", [None, "Basic abc", "Bearer hk_wrong"])
async def test_without_a_working_key_nothing_is_answered(start: Start, header: str | None) -> None:
    async with fake_engine() as engine, start(engine.url) as running, httpx.AsyncClient() as stranger:
        headers = {"authorization": header} if header else {}
        for path in ("/v1/chat/completions", "/v1/models", "/admin/v1/models"):
            method = "POST" if "chat" in path else "GET"
            answer = await stranger.request(method, running.url + path, headers=headers, content=b"{}")
            assert answer.status_code == 401, path
    assert engine.asked == []


async def test_an_unknown_model_or_version_is_a_404_that_lists_what_exists(start: Start) -> None:
    async with fake_engine() as engine, start(engine.url) as running:
        model = (await running.ask(model="suport")).json()["error"]
        version = (await running.ask(model="support@9")).json()["error"]
        long = (await running.ask(model=f"support@{'1' * 5000}")).json()["error"]
        stored = await running.client.get("/v1/chat/completions", params={"model": "support@99999999999"})
    assert model["code"] == version["code"] == long["code"] == "model_not_found"
    assert stored.status_code == 400 and "names no version" in stored.json()["error"]["message"]
    assert "support" in model["message"]
    assert "it has: 0" in version["message"]


@pytest.mark.parametrize(
    "path", ["/v1/load_lora_adapter", "/sleep", "/v1/unload_lora_adapter", "/tokenize", "/pause"]
)
async def test_the_engines_own_controls_are_not_reachable(start: Start, path: str) -> None:
    async with fake_engine() as engine, start(engine.url) as running:
        answer = await running.client.post(path, json={})
    assert answer.status_code == 404
    assert answer.json()["error"]["type"] == "not_found_error"
    assert engine.asked == []


async def test_the_engines_refusal_reaches_the_client_in_openai_shape(start: Start) -> None:
    async with (
        fake_engine(fakes.refuse(400, "temperature must be non-negative")) as engine,
        start(engine.url) as run,
    ):
        answer = await run.ask(temperature=-1)
    assert answer.status_code == 400
    assert answer.json()["error"]["message"] == "temperature must be non-negative"
    assert answer.json()["error"]["code"] == "400"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_client_that_leaves_ends_the_engines_work(start: Start, stream: bool) -> None:
    behave = fakes.hang(after_events=2 if stream else None)
    async with fake_engine(behave) as engine, start(engine.url) as running:
        with pytest.raises(httpx.ReadTimeout):
            async with running.client.stream(
                "POST",
                "/v1/chat/completions",
                json={"model": "support", "messages": [{"role": "user", "content": "?"}], "stream": stream},
                timeout=1.0,
            ) as answer:
                await answer.aread()
        async with asyncio.timeout(30):
            while not engine.aborted:
                await asyncio.sleep(0.01)
        [row] = await running.rows(1)
    assert row["status"] == "aborted"


@pytest.mark.parametrize(
    "behave", [fakes.die_after(2), fakes.end_without_done(), fakes.give_up(), fakes.fail_in_stream()]
)
async def test_a_stream_that_fails_says_so_and_is_recorded_as_an_error(start: Start, behave: Any) -> None:
    async with fake_engine(behave) as engine, start(engine.url) as running:
        answer = await running.ask(stream=True)
        [row] = await running.rows(1)
    *_, error, done = events(answer)
    assert error["error"]["message"] and done == "[DONE]"
    assert row["status"] == "error" and row["error"]
    assert row["output_text"].startswith(("a", ""))


async def test_a_whole_answer_that_the_engine_gave_up_is_an_error(start: Start) -> None:
    async with fake_engine(fakes.give_up()) as engine, start(engine.url) as running:
        answer = await running.ask()
        [row] = await running.rows(1)
    assert answer.status_code == 502
    assert row["status"] == "error"


async def test_a_silent_engine_ends_in_a_timeout(start: Start) -> None:
    limits = {"engine_first_byte_timeout_seconds": 1.0, "engine_idle_stream_timeout_seconds": 1.0}
    async with fake_engine(fakes.hang()) as engine, start(engine.url, **limits) as running:
        before = await running.ask(stream=True)
        engine.behave = fakes.hang(after_events=2)
        within = await running.ask(stream=True)
        rows = await running.rows(2)
    assert before.status_code == 504
    assert "sent nothing" in events(within)[-2]["error"]["message"]
    assert [row["status"] for row in rows] == ["error", "error"]


async def test_an_engine_that_is_away_is_a_503_worth_retrying(start: Start) -> None:
    async with start("http://127.0.0.1:1") as running:
        answer = await running.ask()
        [row] = await running.rows(1)
    assert answer.status_code == 503
    assert answer.headers["retry-after"] == "1"
    assert (row["status"], row["engine"]) == ("error", "http://127.0.0.1:1")


async def test_a_request_for_which_no_engine_is_ready_is_counted_and_recorded_as_an_error(
    start: Start,
) -> None:
    async with start() as running:
        answer = await running.ask()
        [row] = await running.rows(1)
        metrics = await running.client.get("/metrics")
    assert answer.status_code == 503
    assert (row["status"], row["engine"], row["output_text"]) == ("error", "", "")
    assert "No engine is ready" in row["error"]
    assert 'status="error"} 1.0' in metrics.text


async def test_another_replica_steps_in_before_the_first_byte(start: Start) -> None:
    async with fake_engine() as engine, start("http://127.0.0.1:1", engine.url) as running:
        statuses = [(await running.ask()).status_code for _ in range(5)]
        await running.rows(5)
    assert statuses == [200] * 5


async def test_a_connection_the_engine_closed_meanwhile_is_not_the_clients_problem(start: Start) -> None:
    async with fake_engine() as engine, start(engine.url) as running:
        assert (await running.ask()).status_code == 200
        for asked in engine.asked:
            asked.writer.transport.abort()
        assert (await running.ask()).status_code == 200


async def test_connections_to_the_engine_are_reused(start: Start) -> None:
    async with fake_engine() as engine, start(engine.url) as running:
        for stream in (False, True, False, True):
            assert (await running.ask(stream=stream)).status_code == 200
    assert engine.connections == 1
