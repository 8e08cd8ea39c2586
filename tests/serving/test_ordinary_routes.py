"""What every ordinary route promises: bounded bodies, and an answer in the shape of its path whatever goes wrong."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from feedback.database import Database
from serving.body_limit import BYTES_MAX
from tests.fakes import fake_engine
from tests.serving.running import Running, running_gateway


@pytest.fixture
async def running(database: Database, database_url: str, state_dir: Path) -> AsyncIterator[Running]:
    async with fake_engine() as engine, running_gateway(database, database_url, state_dir, engine.url) as one:
        yield one


@pytest.mark.parametrize("length_is_said", [True, False], ids=["said", "chunked"])
@pytest.mark.parametrize(
    "path", ["/admin/v1/models", "/v1/fine_tuning/jobs", "/v1/chat/completions/chatcmpl-1"]
)
async def test_nobody_fills_the_memory_through_an_ordinary_route(
    running: Running, path: str, length_is_said: bool
) -> None:
    piece = b" " * (256 * 1024)
    pieces = [piece] * (BYTES_MAX // len(piece) + 1)

    async def in_pieces() -> AsyncIterator[bytes]:
        for one in pieces:
            yield one

    content = b"".join(pieces) if length_is_said else in_pieces()
    answer = await running.client.post(path, content=content, headers={"authorization": ""})
    assert answer.status_code == 413, answer.text
    assert f"longer than {BYTES_MAX} bytes" in answer.text


async def test_a_body_that_fits_is_read_as_before(running: Running) -> None:
    body = {"model": "second", "base_model": "tiny", "policy": {}}
    made = await running.client.post("/admin/v1/models", json=body)
    assert made.status_code == 201, made.text


async def test_a_body_that_is_no_json_is_told_so(running: Running) -> None:
    headers = {"content-type": "application/json"}
    answer = await running.client.post("/admin/v1/models", content=b'{"model": ', headers=headers)
    assert answer.json()["detail"].startswith("The body is not JSON (")
    nothing = await running.client.post("/admin/v1/models")
    assert nothing.json()["detail"].startswith("The request has no body.")


async def test_a_path_that_does_not_exist_says_where_things_are(running: Running) -> None:
    answer = await running.client.get("/v2/chat")
    assert answer.status_code == 404
    assert answer.json()["error"]["message"].startswith("There is nothing at GET /v2/chat. ")
    wrong = await running.client.put("/v1/models")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET")
    assert wrong.json()["error"]["message"] == "/v1/models takes GET, not PUT."


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/admin/v1/models"])
async def test_what_only_the_record_knows_is_a_503_while_the_database_is_away(
    running: Running, path: str
) -> None:
    there = running.gateway.database.engine
    running.gateway.database.engine = Database("postgresql://nobody@127.0.0.1:9/none").engine
    try:
        answer = await running.client.get(path)
    finally:
        running.gateway.database.engine = there
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
    said = answer.json()
    assert (said["detail"] if path.startswith("/admin") else said["error"]["message"]).startswith(
        "The database is away"
    )


async def test_a_mistake_of_ours_has_the_shape_of_its_path(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serving.app.list_models", lambda *_: 1 / 0)
    answer = await running.client.get("/v1/models")
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"


async def test_a_batch_of_langfuse_may_be_as_long_as_its_clients_make_it(running: Running) -> None:
    said = {"id": "e-1", "type": "trace-create", "timestamp": "2026-11-21T08:00:00Z"}
    trace = said | {"body": {"input": "x" * 3_000_000}}
    [key] = (await running.client.get("/admin/v1/keys")).json()["data"]
    signed_in = (key["key_id"], running.key)
    answer = await running.client.post("/api/public/ingestion", json={"batch": [trace]}, auth=signed_in)
    assert answer.status_code == 207, answer.text


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/admin/v1/completions?model=support@99999999", None),
        ("GET", "/admin/v1/completions?rater=%00", None),
        ("GET", "/admin/v1/completions?text=%00", None),
        ("GET", "/admin/v1/completions?since=0001-01-01T00:00:00%2B14:00", None),
        ("GET", "/admin/v1/completions?text=a&until=0001-01-01T00:00:00Z", None),
        ("GET", "/admin/v1/feedback?name=%00", None),
        ("GET", "/admin/v1/audit?subject=%00", None),
        ("GET", "/admin/v1/adapters/%00", None),
        ("GET", "/v1/chat/completions?model=%00", None),
        ("GET", "/v1/chat/completions/chatcmpl-%00", None),
        ("POST", "/admin/v1/keys", {"role": "app", "name": "shop", "lifetime_days": 1e12}),
        ("POST", "/admin/v1/keys", {"role": "app", "name": "shop", "requests_per_minute": 10**12}),
        ("POST", "/admin/v1/keys", {"role": "app", "name": "sh\0p"}),
        ("POST", "/admin/v1/models", {"model": "third", "base_model": "t\0ny", "policy": {}}),
        ("POST", "/admin/v1/erasures", {"rater": "jane", "retire_within_days": 1e12}),
        ("POST", "/admin/v1/erasures", {"completion_id": "chatcmpl-\0"}),
    ],
)
async def test_a_value_that_the_record_cannot_hold_gets_a_sentence(
    running: Running, method: str, path: str, body: dict[str, Any] | None
) -> None:
    answer = await running.client.request(method, path, json=body)
    assert answer.status_code < 500, answer.text
    assert body is None or answer.status_code in (400, 404, 422), answer.text
