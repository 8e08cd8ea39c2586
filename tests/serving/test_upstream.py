"""What happens when no engine of ours can answer: the upstream, who hears of it, and whom it counts for."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest

from feedback import experiments, models
from feedback.database import Database
from feedback.errors import HoneError
from feedback.exposures import unit_counts
from feedback.policy import ModelPolicy
from feedback.upstream_policy import UpstreamPolicy
from serving.settings import ServingSettings
from serving.upstream import connect_upstream
from tests import fakes
from tests.builders import PROJECT, a_model, an_adapter
from tests.fakes import FakeEngine, fake_engine
from tests.serving.running import Running, running_gateway

KEY = "sk-theirs-4711"
NOWHERE = "http://127.0.0.1:1"


@asynccontextmanager
async def gateway_with_upstream(
    database: Database,
    database_url: str,
    state_dir: Path,
    *engine_urls: str,
    behave: fakes.Behaviour | None = None,
    policy: UpstreamPolicy | None = None,
    **settings: Any,
) -> AsyncIterator[tuple[Running, FakeEngine]]:
    """A gateway with an upstream, and that upstream; its model may use it."""
    chosen = ModelPolicy(upstream=policy or UpstreamPolicy(enabled=True))
    async with database.begin() as connection:
        await a_model(connection, policy=chosen)
    async with fake_engine(behave or fakes.answer_like_openai(key=KEY)) as upstream:
        given = {
            "upstream_url": f"{upstream.url}/v1",
            "upstream_api_key": KEY,
            "upstream_model": "other",
            **settings,
        }
        async with running_gateway(database, database_url, state_dir, *engine_urls, **given) as running:
            yield running, upstream


@pytest.mark.parametrize("engine_urls", [(), (NOWHERE,)], ids=["no engine", "an engine that is away"])
@pytest.mark.parametrize("stream", [False, True])
async def test_the_upstream_answers_under_our_names_and_says_so(
    database: Database, database_url: str, state_dir: Path, engine_urls: tuple[str, ...], stream: bool
) -> None:
    async with gateway_with_upstream(database, database_url, state_dir, *engine_urls) as (running, upstream):
        answer = await running.ask(
            stream=stream,
            store=True,
            user="ada@example.org",
            metadata={"page": "a"},
            top_k=3,
            temperature=0.5,
        )
        [row] = await running.rows(1)
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-hone-model-version"] == "support@upstream"
    assert answer.headers["x-hone-fallback-for"] == "support@0"
    [asked] = upstream.asked
    assert asked.path == "/v1/chat/completions"
    assert set(asked.body) - {"stream_options"} == {"model", "messages", "stream", "temperature"}
    assert asked.body["model"] == "other"
    said = (
        [orjson.loads(one[6:]) for one in answer.text.split("\n\n") if one[6:7] == "{"]
        if stream
        else [answer.json()]
    )
    assert {one["model"] for one in said} == {"support@upstream"}
    assert {one["id"] for one in said} == {answer.headers["x-hone-request-id"]} == {row["completion_id"]}
    assert all(one["choices"] for one in said), "usage that nobody asked for"
    assert (row["output_text"], row["output_tokens"], row["status"]) == ("Thirty days.", 2, "ok")
    assert (row["version"], row["adapter_id"], row["upstream"], row["fallback_for"]) == (
        None,
        None,
        "other",
        0,
    )
    assert not row["consent"]


async def test_a_model_whose_policy_does_not_allow_it_sends_nothing_elsewhere(
    database: Database, database_url: str, state_dir: Path
) -> None:
    policy = UpstreamPolicy()
    async with gateway_with_upstream(database, database_url, state_dir, policy=policy) as (running, upstream):
        answer = await running.ask()
    assert answer.status_code == 503
    assert upstream.asked == []


async def test_an_engine_that_can_answer_is_asked_and_a_pinned_version_never_replaced(
    database: Database, database_url: str, state_dir: Path
) -> None:
    async with (
        fake_engine() as engine,
        gateway_with_upstream(database, database_url, state_dir, engine.url) as (running, upstream),
    ):
        answered = await running.ask()
        engine.behave = fakes.refuse(503, "asleep")
        pinned = await running.ask(model="support@0")
    assert answered.json()["model"] == "support@0"
    assert pinned.status_code == 503
    assert upstream.asked == []


async def test_a_refusal_that_is_the_callers_fault_goes_nowhere_else(
    database: Database, database_url: str, state_dir: Path
) -> None:
    async with (
        fake_engine(fakes.refuse(400, "temperature must be non-negative")) as engine,
        gateway_with_upstream(database, database_url, state_dir, engine.url) as (running, upstream),
    ):
        answer = await running.ask()
        [row] = await running.rows(1)
    assert answer.status_code == 400 and upstream.asked == []
    assert (row["status"], row["error_class"]) == ("error", "caller")
    assert row["request"] == {"model": "support"}


@pytest.mark.parametrize(
    "behave", [fakes.refuse(401, f"wrong key {KEY}"), fakes.hang()], ids=["refuses", "hangs"]
)
async def test_when_the_upstream_fails_too_the_client_hears_of_both_and_nobody_of_its_words(
    database: Database,
    database_url: str,
    state_dir: Path,
    behave: fakes.Behaviour,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with gateway_with_upstream(
        database, database_url, state_dir, behave=behave, upstream_first_byte_timeout_seconds=1.0
    ) as (running, upstream):
        answer = await running.ask()
        [row] = await running.rows(1)
    message = answer.json()["error"]["message"]
    assert answer.status_code == 503 and "upstream" in message and "No engine is ready" in message
    assert len(upstream.asked) == 1
    assert (row["status"], row["error_class"], row["version"]) == ("error", "infrastructure", 0)
    assert KEY not in message + row["error"] + caplog.text


@pytest.mark.parametrize("ends", [fakes.die_after(2), fakes.fail_in_stream(), fakes.hang(after_events=1)])
async def test_an_upstream_that_fails_within_its_answer_ends_the_stream_with_an_error(
    database: Database, database_url: str, state_dir: Path, ends: fakes.Behaviour
) -> None:
    async with gateway_with_upstream(
        database, database_url, state_dir, behave=ends, engine_idle_stream_timeout_seconds=1.0
    ) as (running, _):
        answer = await running.ask(stream=True)
        [row] = await running.rows(1)
    assert '"error"' in answer.text and answer.text.endswith("data: [DONE]\n\n")
    assert (row["status"], row["error_class"], row["upstream"]) == ("error", "infrastructure", "other")


async def test_two_gateways_that_are_each_others_upstream_do_not_pass_a_request_round(
    database: Database, database_url: str, state_dir: Path
) -> None:
    async with gateway_with_upstream(database, database_url, state_dir) as (second, _):
        first = second.gateway.completions.upstream
        assert first is not None
        async with running_gateway(
            database,
            database_url,
            state_dir,
            upstream_url=f"{second.url}/v1",
            upstream_api_key=second.key,
            upstream_model="support",
        ) as running:
            looped = connect_upstream(
                ServingSettings(
                    upstream_url=f"{running.url}/v1", upstream_api_key=running.key, upstream_model="support"
                )
            )
            assert looped is not None
            first.engine.close()
            second.gateway.completions.upstream = looped
            answer = await running.ask()
            rows = await running.rows(2)
    assert answer.status_code == 503
    assert [row["upstream"] for row in rows] == [None, None]


def test_a_gateway_that_is_its_own_upstream_does_not_start() -> None:
    own = ServingSettings(gateway_port=8000, upstream_url="http://localhost:8000/v1")
    with pytest.raises(HoneError, match="this gateway itself"):
        connect_upstream(own)
    with pytest.raises(HoneError, match="this gateway itself"):
        connect_upstream(ServingSettings(upstream_url="https://llm.example/v1"), "https://llm.example")


async def test_votes_on_an_upstreams_answer_count_for_no_version_and_train_none(
    database: Database, database_url: str, state_dir: Path
) -> None:
    async with gateway_with_upstream(database, database_url, state_dir) as (running, _):
        async with database.begin() as connection:
            candidate = await an_adapter(connection, state="approved")
            split = await experiments.start_canary(connection, candidate, by="test")
        await running.gateway.tables.refresh()
        answer = await running.ask(store=True, user="ada")
        await running.rows(1)
        voted = await running.client.post(
            "/v1/feedback",
            json={"completion_id": answer.json()["id"], "name": "thumbs", "value": True, "rater_id": "ada"},
        )
        assert voted.status_code in (200, 201, 202), voted.text
        async with database.begin() as connection:
            met = await unit_counts(connection, split, maturation_seconds=0)
            model = await models.get(connection, PROJECT, "support")
    assert met == []
    assert not model.policy.upstream.train


@pytest.mark.parametrize("train", [False, True])
async def test_the_policy_says_whether_an_upstreams_answer_may_be_trained_on(
    database: Database, database_url: str, state_dir: Path, train: bool
) -> None:
    policy = UpstreamPolicy(enabled=True, train=train, model="another")
    async with gateway_with_upstream(database, database_url, state_dir, policy=policy) as (running, upstream):
        await running.ask(store=True)
        [row] = await running.rows(1)
        cost = (await running.client.get("/admin/v1/cost", params={"days": 1})).json()
    assert row["consent"] is train
    [one] = cost["versions"]
    assert (one["name"], one["output_tokens"], one["engine_seconds"], one["cost"]) == (
        "support@upstream",
        2,
        0.0,
        None,
    )
    assert upstream.asked[0].body["model"] == row["upstream"] == "another"


async def test_embeddings_never_come_from_elsewhere(
    database: Database, database_url: str, state_dir: Path
) -> None:
    async with gateway_with_upstream(database, database_url, state_dir) as (running, upstream):
        answer = await running.client.post("/v1/embeddings", json={"model": "support", "input": "lamp"})
    assert answer.status_code == 503 and upstream.asked == []
