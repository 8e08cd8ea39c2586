"""Responses, Messages and embeddings are relayed as they came, and recorded as chat."""

from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import httpx
import openai
import orjson
import pytest

from feedback.database import Database
from serving.dialects import as_chat
from tests import fakes
from tests.builders import PROJECT
from tests.engine_fixture import RunningEngine
from tests.fakes import Behaviour, answer_foreign, fake_engine
from tests.serving.running import Running, running_gateway

Start = Callable[..., AbstractAsyncContextManager[Running]]
QUESTION = "How long may I return a lamp?"


def named(name: str, **fields: Any) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps({"type": name, **fields}))


USED = {"input_tokens": 28, "output_tokens": 2, "total_tokens": 30}
SAID = [{"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "30 days."}]}]
RESPONSE = {
    "id": "%ID",
    "object": "response",
    "model": "%MODEL",
    "output": SAID,
    "status": "completed",
    "usage": USED,
}
RESPONSE_EVENTS = (
    named(
        "response.created", response={"id": "%ID", "model": "%MODEL", "output": [], "status": "in_progress"}
    ),
    named("response.output_text.delta", delta="30 days"),
    named("response.output_text.delta", delta="."),
    named("response.completed", response=RESPONSE),
)
CACHED = {"input_tokens": 20, "output_tokens": 2, "cache_read_input_tokens": 8}
MESSAGE = {
    "id": "%ID",
    "type": "message",
    "role": "assistant",
    "content": [{"type": "text", "text": "30 days."}],
    "model": "%MODEL",
    "stop_reason": "end_turn",
    "usage": CACHED,
}
MESSAGE_EVENTS = (
    named(
        "message_start",
        message={**MESSAGE, "content": [], "stop_reason": None, "usage": {"input_tokens": 20}},
    ),
    named("content_block_start", index=0, content_block={"type": "text", "text": ""}),
    named("content_block_delta", index=0, delta={"type": "text_delta", "text": "30 "}),
    named("content_block_delta", index=0, delta={"type": "text_delta", "text": "days."}),
    named("content_block_stop", index=0),
    named("message_delta", delta={"stop_reason": "end_turn", "stop_sequence": None}, usage=CACHED),
    named("message_stop"),
)
ASKED: dict[str, dict[str, Any]] = {
    "/v1/responses": {"instructions": "Be brief.", "input": QUESTION, "user": "ada"},
    "/v1/messages": {
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [{"role": "user", "content": QUESTION}],
        "max_tokens": 9,
        "metadata": {"user_id": "ada"},
    },
}
ANSWERS: dict[str, Behaviour] = {
    "/v1/responses": answer_foreign(*RESPONSE_EVENTS, whole=RESPONSE),
    "/v1/messages": answer_foreign(*MESSAGE_EVENTS, whole=MESSAGE),
}


@pytest.fixture(params=[True, False], ids=["fast lane", "asgi"])
def start(request: pytest.FixtureRequest, database: Database, database_url: str, state_dir: Path) -> Start:
    """Starts a gateway in front of some engines."""

    def start(*engine_urls: str, **settings: Any) -> AbstractAsyncContextManager[Running]:
        settings = {"gateway_fast_lane": request.param, **settings}
        return running_gateway(database, database_url, state_dir, *engine_urls, **settings)

    return start


async def ask(running: Running, path: str, **fields: Any) -> httpx.Response:
    return await running.client.post(path, json={"model": "support", **ASKED[path], **fields})


@pytest.mark.parametrize("path", ASKED)
async def test_both_forms_are_relayed_and_recorded_as_chat(start: Start, path: str) -> None:
    async with fake_engine(ANSWERS[path]) as engine, start(engine.url) as running:
        whole = await ask(running, path)
        streamed = await ask(running, path, stream=True)
        rows = await running.rows(2)
    last = streamed.text.strip().rpartition("\n\n")[2]
    assert whole.json()["model"] == "support@0" and '"model":"support@0"' in streamed.text
    assert last.startswith(("event: response.completed", "event: message_stop"))
    for answer, row in zip((whole, streamed), rows, strict=True):
        assert answer.headers["x-hone-request-id"] == row["completion_id"]
        assert row["completion_id"] in answer.text and answer.headers["x-hone-feedback-token"]
        assert (row["endpoint"], row["status"], row["project"]) == (path, "ok", PROJECT)
        assert row["request"]["messages"] == [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": QUESTION},
        ]
        assert row["message"] == {"role": "assistant", "content": "30 days."}
        assert (row["output_text"], row["finish_reason"]) == ("30 days.", "stop")
        assert (row["prompt_tokens"], row["output_tokens"]) == (28, 2)
        assert row["rater"].startswith("rater-")
    assert all('"ada"' not in orjson.dumps(asked.body).decode() for asked in engine.asked)


@pytest.mark.engine
async def test_real_vllm_answers_through_both(
    engine: RunningEngine, database: Database, database_url: str, state_dir: Path
) -> None:
    async with running_gateway(database, database_url, state_dir, engine.url) as running:
        async with openai.AsyncOpenAI(
            base_url=f"{running.url}/v1", api_key=running.key, max_retries=0
        ) as client:
            said = await client.responses.create(model="support", input=QUESTION, max_output_tokens=4)
            events = [
                event
                async for event in await client.responses.create(
                    model="support", input=QUESTION, max_output_tokens=4, stream=True
                )
            ]
        message = await ask(running, "/v1/messages")
        streamed = await ask(running, "/v1/messages", stream=True)
        nothing = await running.client.post("/v1/embeddings", json={"model": "support", "input": QUESTION})
        rows = await running.rows(4)
    assert said.model == "support@0" and events[-1].type == "response.completed"
    assert nothing.status_code == 404
    assert [row["completion_id"] for row in rows[:3]] == [
        said.id,
        events[-1].response.id,
        message.json()["id"],
    ]
    texts = [said.output_text, events[-1].response.output_text, message.json()["content"][0]["text"]]
    assert [row["output_text"] for row in rows[:3]] == texts
    assert streamed.text.endswith('event: message_stop\ndata: {"type":"message_stop"}\n\n')
    assert [row["output_tokens"] for row in rows] == [4, 4, 9, 9]
    assert {row["status"] for row in rows} == {"ok"}


@pytest.mark.parametrize(
    ("path", "events", "text"),
    [("/v1/responses", RESPONSE_EVENTS[:2], "30 days"), ("/v1/messages", MESSAGE_EVENTS[:3], "30 ")],
)
async def test_a_stream_that_breaks_says_so_in_its_own_apis_words(
    start: Start, path: str, events: tuple[bytes, ...], text: str
) -> None:
    async with fake_engine(answer_foreign(*events, whole={})) as engine, start(engine.url) as running:
        answer = await ask(running, path, stream=True)
        [row] = await running.rows(1)
    name, data = answer.text.strip().rpartition("\n\n")[2].split("\n")
    error = orjson.loads(data.removeprefix("data: "))
    assert (name, error["type"]) == ("event: error", "error")
    assert "before its end" in (error.get("message") or error["error"]["message"])
    assert (row["status"], row["output_text"]) == ("error", text)


@pytest.mark.parametrize("path", ASKED)
async def test_an_error_that_the_engine_says_itself_is_said_once(start: Start, path: str) -> None:
    said = named("error", error={"type": "internal_error", "message": "no"}, message="no")
    async with (
        fake_engine(answer_foreign(RESPONSE_EVENTS[0], said, whole={})) as engine,
        start(engine.url) as run,
    ):
        answer = await ask(run, path, stream=True)
        [row] = await run.rows(1)
    assert answer.text.count("event: error") == 1
    assert row["status"] == "error"


async def test_messages_refuses_in_anthropics_shape_and_takes_its_header(start: Start) -> None:
    async with (
        fake_engine(ANSWERS["/v1/messages"]) as engine,
        start(engine.url, request_bytes_max=2000) as running,
    ):
        async with httpx.AsyncClient(base_url=running.url, timeout=60) as stranger:
            nobody = await stranger.post("/v1/messages", json={}, headers={"x-api-key": "hk_wrong"})
            somebody = await stranger.post(
                "/v1/messages",
                json={"model": "support", **ASKED["/v1/messages"]},
                headers={"x-api-key": running.key},
            )
        unknown = await ask(running, "/v1/messages", model="suport")
        long = await ask(running, "/v1/messages", system="x" * 3000)
        engine.behave = fakes.refuse(400, "max_tokens is too large")
        refused = await ask(running, "/v1/messages")
    assert somebody.status_code == 200
    told = [
        (one.status_code, one.json()["type"], one.json()["error"]["type"]) for one in (nobody, unknown, long)
    ]
    assert told == [
        (401, "error", "authentication_error"),
        (404, "error", "not_found_error"),
        (413, "error", "request_too_large"),
    ]
    assert refused.json() == {
        "type": "error",
        "error": {"type": "invalid_request_error", "message": "max_tokens is too large"},
    }


@pytest.mark.parametrize("field", ["previous_response_id", "background", "conversation", "prompt"])
async def test_a_response_that_would_need_a_memory_is_refused(start: Start, field: str) -> None:
    async with fake_engine() as engine, start(engine.url) as running:
        answer = await ask(running, "/v1/responses", **{field: "resp_1"})
    assert answer.status_code == 400
    assert answer.json()["error"]["param"] == field
    assert engine.asked == []


async def test_the_engine_is_asked_to_remember_no_response(start: Start) -> None:
    async with fake_engine(ANSWERS["/v1/responses"]) as engine, start(engine.url) as running:
        await ask(running, "/v1/responses", store=True)
        [row] = await running.rows(1)
    assert engine.asked[0].body["store"] is False
    assert row["consent"] is True


async def test_embeddings_are_relayed_counted_and_not_recorded(start: Start) -> None:
    whole = {
        "object": "list",
        "model": "%MODEL",
        "data": [{"embedding": [0.5]}],
        "usage": {"prompt_tokens": 3},
    }
    async with fake_engine(answer_foreign(whole=whole)) as engine, start(engine.url) as running:
        answer = await running.client.post("/v1/embeddings", json={"model": "support", "input": "lamp"})
        await running.rows(0)
        metrics = await running.client.get("/metrics")
    assert answer.json() == {**whole, "model": "support@0"}
    assert "x-hone-feedback-token" not in answer.headers
    assert 'model_version="support@0",project="default",status="ok"} 1.0' in metrics.text
    assert engine.asked[0].body["model"] != "support"


async def test_a_route_that_the_engine_lacks_costs_no_version_its_traffic(start: Start) -> None:
    async def lacks(asked: fakes.Asked) -> None:
        fakes.send_json(asked, 404, {"detail": "Not Found"})

    async with fake_engine(lacks) as engine, start(engine.url) as running:
        missing = await running.client.post("/v1/embeddings", json={"model": "support", "input": "lamp"})
        engine.behave = fakes.answer_well()
        chat = await running.ask()
    assert (missing.status_code, chat.status_code) == (404, 200)
    assert "/v1/embeddings" in missing.json()["error"]["message"]


def test_tools_become_tool_calls_and_what_chat_lacks_stays_as_it_was() -> None:
    image = {"type": "image", "source": {"type": "base64", "data": ""}}
    asked, _ = as_chat(
        "/v1/messages",
        {
            "messages": [
                {
                    "role": "assistant",
                    "content": [{"type": "tool_use", "id": "t1", "name": "f", "input": {"a": 1}}],
                },
                {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "2"}]},
                {"role": "user", "content": [{"type": "text", "text": "See:"}, image]},
            ]
        },
        b"",
    )
    called, result, seen = asked["messages"]
    assert called["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a":1}'}
    assert result == {"role": "tool", "tool_call_id": "t1", "content": "2"}
    assert seen["content"] == [{"type": "text", "text": "See:"}, image]


def test_the_items_of_a_response_become_messages() -> None:
    call = {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"}
    asked, answered = as_chat(
        "/v1/responses",
        {
            "input": [
                {"role": "user", "content": [{"type": "input_text", "text": "Add."}]},
                {"type": "reasoning", "summary": []},
                call,
                {"type": "function_call_output", "call_id": "c1", "output": "2"},
                {"type": "item_reference", "id": "x"},
            ]
        },
        orjson.dumps({"object": "response", "output": [call], "status": "completed"}),
    )
    user, called, result, other = asked["messages"]
    assert user == {"role": "user", "content": "Add."}
    assert called["tool_calls"] == answered["choices"][0]["message"]["tool_calls"]
    assert result == {"role": "tool", "tool_call_id": "c1", "content": "2"}
    assert other["content"] == [{"type": "item_reference", "id": "x"}]


def test_a_tool_use_that_was_streamed_is_put_together() -> None:
    raw = b"".join(
        (
            MESSAGE_EVENTS[0],
            named(
                "content_block_start",
                index=0,
                content_block={"type": "tool_use", "id": "t", "name": "f", "input": {}},
            ),
            named("content_block_delta", index=0, delta={"type": "input_json_delta", "partial_json": '{"a"'}),
            named("content_block_delta", index=0, delta={"type": "input_json_delta", "partial_json": ":1}"}),
            named("message_delta", delta={"stop_reason": "tool_use"}, usage=CACHED),
            b'event: message_stop\ndata: {"type":',
        )
    )
    _, answered = as_chat("/v1/messages", {"messages": []}, raw)
    [choice] = answered["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "f", "arguments": '{"a":1}'}
