"""A request's trace runs from the client through the gateway to the engine, and says nothing of what was said."""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest

from feedback.database import Database
from monitoring.tracing import SPANS_MAX, Span, Tracer
from tests.alert_receivers import WebReceiver, web_receiver
from tests.fakes import fake_engine, refuse
from tests.serving.running import running_gateway

TRACE, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


async def spans(receiver: WebReceiver, count: int) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for _ in range(200):
        posts = [orjson.loads(post.body) for post in receiver.posts]
        found = [span for post in posts for span in post["resourceSpans"][0]["scopeSpans"][0]["spans"]]
        if len(found) >= count:
            break
        await asyncio.sleep(0.05)
    assert len(found) == count, found
    return found


def attributes(span: dict[str, Any]) -> dict[str, Any]:
    return {one["key"]: next(iter(one["value"].values())) for one in span["attributes"]}


async def test_a_clients_trace_goes_through_the_gateway_to_the_engine(
    database: Database, database_url: str, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with web_receiver() as collector, fake_engine() as engine:
        monkeypatch.setenv("HONE_TRACES_URL", collector.url)
        async with running_gateway(database, database_url, state_dir, engine.url) as running:
            header = {"traceparent": f"00-{TRACE}-{PARENT}-01"}
            answer = await running.ask(stream=True, headers=header, safety_identifier="ada@shop.example")
            [span] = await spans(collector, 1)
    assert (span["traceId"], span["parentSpanId"]) == (TRACE, PARENT)
    assert engine.asked[0].headers["traceparent"] == f"00-{TRACE}-{span['spanId']}-01"
    said = attributes(span)
    assert said["gen_ai.operation.name"] == "chat" and span["name"] == "chat support"
    assert said["gen_ai.response.id"] == answer.headers["x-hone-request-id"]
    assert said["gen_ai.response.model"] == "support@0" and said["gen_ai.usage.output_tokens"] == "3"
    assert float(said["gen_ai.response.time_to_first_chunk"]) > 0
    everything = orjson.dumps(span)
    assert b"How long" not in everything and b"30 days" not in everything and b"shop" not in everything


async def test_a_trace_that_begins_here_has_the_completions_own_id(
    database: Database, database_url: str, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with web_receiver() as collector, fake_engine(refuse(500)) as engine:
        monkeypatch.setenv("HONE_TRACES_URL", collector.url)
        async with running_gateway(database, database_url, state_dir, engine.url) as running:
            await running.ask()
            [span] = await spans(collector, 1)
    assert attributes(span)["gen_ai.response.id"] == f"chatcmpl-{span['traceId']}"
    assert "parentSpanId" not in span
    assert attributes(span)["error.type"] == "error" and span["status"]["code"] == 2


async def test_what_a_client_does_not_sample_is_passed_on_and_not_sent(
    database: Database, database_url: str, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with web_receiver() as collector, fake_engine() as engine:
        monkeypatch.setenv("HONE_TRACES_URL", collector.url)
        async with running_gateway(database, database_url, state_dir, engine.url) as running:
            await running.ask(headers={"traceparent": f"00-{TRACE}-{PARENT}-00"})
            await running.ask()
            [span] = await spans(collector, 1)
    assert span["traceId"] != TRACE
    assert engine.asked[0].headers["traceparent"].endswith("-00")


async def test_without_a_collector_a_clients_header_is_passed_on_as_it_came(
    database: Database, database_url: str, state_dir: Path
) -> None:
    async with (
        fake_engine() as engine,
        running_gateway(database, database_url, state_dir, engine.url) as running,
    ):
        await running.ask(headers={"traceparent": f"00-{TRACE}-{PARENT}-01"})
        await running.ask()
    assert engine.asked[0].headers["traceparent"] == f"00-{TRACE}-{PARENT}-01"
    assert "traceparent" not in engine.asked[1].headers


def test_a_full_queue_loses_spans_and_says_how_many() -> None:
    tracer = Tracer("http://127.0.0.1:1/v1/traces")
    context = tracer.begin(None, TRACE)
    for _ in range(SPANS_MAX + 5):
        tracer.keep(Span(context, "chat support", 0, 1, {}))
    assert tracer.lost == 5


@pytest.mark.parametrize("header", [b"nonsense", b"00-" + b"0" * 32 + b"-00f067aa0ba902b7-01", b""])
def test_a_header_that_is_no_trace_begins_a_new_one(header: bytes) -> None:
    context = Tracer("http://127.0.0.1:1").begin(header, TRACE)
    assert (context.trace_id, context.parent) == (TRACE, None)


def test_a_share_of_the_traces_that_begin_here_is_sent() -> None:
    tracer = Tracer("http://127.0.0.1:1", share=0.25)
    sampled = [
        tracer.begin(None, f"{number * 0x9E3779B9 & 0xFFFFFFFF:032x}").sampled for number in range(1000)
    ]
    assert 200 < sum(sampled) < 300
