"""TensorZero's and Langfuse's feedback calls, as their clients send them over HTTP."""

import base64
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import pytest

from feedback.database import Database
from feedback.ids import new_hex
from tests.feedback.handing_in import KEY, OTHER_KEY, Counter, a_counter, bearer

HEX = new_hex()
ANSWER = f"chatcmpl-{HEX}"
AS_UUID = str(UUID(HEX))


@pytest.fixture
async def counter(database: Database, state_dir: Path) -> AsyncIterator[Counter]:
    async with a_counter(database, state_dir) as counter:
        yield counter


def basic(public: str = "key-1", secret: str = KEY) -> dict[str, str]:
    return {"authorization": "Basic " + base64.b64encode(f"{public}:{secret}".encode()).decode()}


async def tensorzero(counter: Counter, **body: Any) -> httpx.Response:
    return await counter.client.post("/feedback", json=body, headers=bearer())


async def score(counter: Counter, **body: Any) -> httpx.Response:
    return await counter.client.post("/api/public/scores", json=body, headers=basic())


# TensorZero


@pytest.mark.parametrize(
    ("metric", "value", "expected"),
    [
        ("thumbs", True, ("rating", True)),
        ("stars", 4.5, ("rating", 4.5)),
        ("comment", "Too long.", ("comment", "Too long.")),
        ("demonstration", "14 days.", ("demonstration", "14 days.")),
        ("demonstration", [{"type": "text", "text": "14 days."}], ("demonstration", "14 days.")),
        ("demonstration", {"days": 14}, ("demonstration", '{"days":14}')),
    ],
)
@pytest.mark.parametrize("inference_id", [ANSWER, AS_UUID])
async def test_tensorzeros_feedback_is_kept(
    counter: Counter, inference_id: str, metric: str, value: Any, expected: tuple[str, Any]
) -> None:
    tags = {"page": "help"}
    answer = await tensorzero(counter, inference_id=inference_id, metric_name=metric, value=value, tags=tags)
    assert answer.status_code == 200
    kept = answer.json()
    assert set(kept) == {"feedback_id"}
    assert [(kind, said) for kind, said, _ in await counter.effective(ANSWER)] == [expected]
    shown = (await counter.get(str(UUID(kept["feedback_id"])))).json()
    assert shown["metadata"] == tags


async def test_tensorzeros_episodes_are_conversations(counter: Counter) -> None:
    answer = await tensorzero(counter, episode_id=AS_UUID, metric_name="solved", value=True)
    assert (await counter.get(answer.json()["feedback_id"])).json()["session_id"] == AS_UUID


async def test_a_dry_run_keeps_nothing(counter: Counter) -> None:
    body = {"inference_id": ANSWER, "metric_name": "thumbs", "value": True}
    assert (await tensorzero(counter, **body, dryrun=True)).status_code == 200
    assert await counter.rows(ANSWER) == []


async def test_a_tag_that_names_the_user_is_kept_as_a_pseudonym_only(counter: Counter) -> None:
    body = {"inference_id": ANSWER, "metric_name": "thumbs", "value": True, "tags": {"user_id": "ada"}}
    await tensorzero(counter, **body)
    [row] = await counter.rows(ANSWER)
    assert row["rater"].startswith("rater-") and row["metadata"] is None


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"metric_name": "unheard_of"}, 404),
        ({"value": "yes"}, 400),
        ({"episode_id": AS_UUID}, 400),
        ({"inference_id": None}, 400),
        ({"metric_name": "solved"}, 400),
        ({"rating": 1}, 400),
    ],
)
async def test_tensorzeros_clients_get_errors_as_tensorzero_gives_them(
    counter: Counter, change: dict[str, Any], status: int
) -> None:
    body = {"inference_id": ANSWER, "metric_name": "thumbs", "value": True, **change}
    answer = await tensorzero(counter, **body)
    assert answer.status_code == status
    assert set(answer.json()) == {"error"} and isinstance(answer.json()["error"], str)
    assert await counter.rows(ANSWER) == []


async def test_tensorzeros_route_needs_a_key(counter: Counter) -> None:
    answer = await counter.client.post("/feedback", json={"metric_name": "thumbs", "value": True})
    assert answer.status_code in (400, 401) and set(answer.json()) == {"error"}


# Langfuse


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"name": "thumbs", "value": 1, "dataType": "BOOLEAN"}, ("rating", True)),
        ({"name": "thumbs", "value": 0}, ("rating", False)),
        ({"name": "stars", "value": 4, "dataType": "NUMERIC"}, ("rating", 4)),
        ({"name": "mood", "value": "glad", "dataType": "CATEGORICAL"}, ("rating", "glad")),
        ({"name": "note", "value": "Too long.", "dataType": "TEXT"}, ("comment", "Too long.")),
        ({"name": "output", "value": "14 days.", "dataType": "CORRECTION"}, ("demonstration", "14 days.")),
        ({"name": "copy", "value": 1}, ("signal", True)),
    ],
)
async def test_langfuses_scores_are_kept_as_what_they_are(
    counter: Counter, body: dict[str, Any], expected: tuple[str, Any]
) -> None:
    answer = await score(counter, traceId=HEX, **body)
    assert answer.status_code == 200 and set(answer.json()) == {"id"}
    assert [(kind, value) for kind, value, _ in await counter.effective(ANSWER)] == [expected]


async def test_a_score_with_an_id_is_changed_by_sending_it_again(counter: Counter) -> None:
    for value in (1, 0, 0, 1):
        answer = await score(counter, id="score-1", traceId=ANSWER, name="thumbs", value=value)
        assert answer.json() == {"id": "score-1"}
    assert [value for _, value, _ in await counter.effective(ANSWER)] == [True]
    assert [row["value"] for row in await counter.rows(ANSWER)] == [True, False, True]


async def test_a_score_that_moves_to_another_answer_leaves_the_first(counter: Counter) -> None:
    await score(counter, id="score-1", traceId="chatcmpl-first", name="thumbs", value=1)
    await score(counter, id="score-1", traceId=ANSWER, name="thumbs", value=1)
    assert await counter.effective("chatcmpl-first") == []
    assert len(await counter.effective(ANSWER)) == 1


@pytest.mark.parametrize("own_id", [True, False])
async def test_a_score_is_deleted_by_its_id(counter: Counter, own_id: bool) -> None:
    named = {"id": "score-1"} if own_id else {}
    kept = (await score(counter, **named, traceId=ANSWER, name="thumbs", value=1)).json()["id"]
    gone = await counter.client.delete(f"/api/public/scores/{kept}", headers=basic())
    assert gone.status_code == 202 and set(gone.json()) == {"message"}
    assert await counter.effective(ANSWER) == []


async def test_scores_of_a_session_are_about_the_conversation(counter: Counter) -> None:
    kept = (await score(counter, sessionId="talk", name="solved", value=1)).json()["id"]
    assert (await counter.get(kept)).json()["session_id"] == "talk"


async def test_scores_given_while_the_database_is_away_are_kept(counter: Counter) -> None:
    async with counter.outage():
        answers = [await score(counter, id="s", traceId=ANSWER, name="thumbs", value=v) for v in (1, 0)]
        gone = await counter.client.delete("/api/public/scores/s", headers=basic())
    assert [answer.json() for answer in answers] == [{"id": "s"}, {"id": "s"}]
    assert gone.status_code == 503 and "retry-after" in gone.headers
    await counter.drain()
    await counter.drain()
    assert [value for _, value, _ in await counter.effective(ANSWER)] == [False]


async def test_a_batch_of_the_sdk_is_answered_event_by_event(counter: Counter) -> None:
    def event(number: int, type: str = "score-create", **body: Any) -> dict[str, Any]:
        return {"id": f"event-{number}", "type": type, "timestamp": "2026-11-21T08:00:00Z", "body": body}

    batch = [
        event(1, id="score-1", traceId=HEX, name="thumbs", value=1, dataType="BOOLEAN"),
        event(2, id="score-2", traceId=HEX, name="unheard-of", value=1),
        event(3, "trace-create", id="trace-1"),
        event(4, id="score-4", name="thumbs", value=1),
        event(5, traceId=HEX, value=1),
    ]
    for _ in range(2):
        answer = await counter.client.post(
            "/api/public/ingestion", json={"batch": batch, "metadata": {}}, headers=basic()
        )
        assert answer.status_code == 207
        said = answer.json()
        assert said["successes"] == [{"id": "event-1", "status": 201}]
        assert [(one["id"], one["status"]) for one in said["errors"]] == [
            (f"event-{n}", 400) for n in range(2, 6)
        ]
    assert len(await counter.rows(ANSWER)) == 1


async def test_a_list_of_scores_is_taken_as_far_as_it_makes_sense(counter: Counter) -> None:
    good = {"traceId": HEX, "name": "thumbs", "value": 1, "id": "score-1"}
    worse = {"traceId": HEX, "name": "stars", "value": 9}

    async def send(*scores: dict[str, Any]) -> httpx.Response:
        return await counter.client.post("/api/public/scores", json=scores, headers=basic())

    accepted = await send(good, {**good, "value": 0})
    assert (accepted.status_code, accepted.json()) == (202, {"message": "Accepted"})
    partly = await send(good, worse, {"name": "thumbs"})
    assert partly.status_code == 207
    assert (partly.json()["accepted"], partly.json()["rejected"]) == (1, 2)
    assert "from 1 to 5" in partly.json()["errors"][0]["message"]
    assert [value for _, value, _ in await counter.effective(ANSWER)] == [True]


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": f"Bearer {KEY}"},
        basic("key-2"),
        basic(secret="hk_wrong"),
        {"authorization": "Basic ?"},
    ],
)
async def test_langfuses_routes_need_the_keys_id_and_the_key(
    counter: Counter, headers: dict[str, str]
) -> None:
    body = {"traceId": ANSWER, "name": "thumbs", "value": 1}
    answer = await counter.client.post("/api/public/scores", json=body, headers=headers)
    assert answer.status_code == 401
    assert answer.json()["error"] == "UnauthorizedError" and answer.json()["message"]


@pytest.mark.parametrize(
    ("change", "status"),
    [
        ({"name": "unheard-of"}, 400),
        ({"value": None}, 400),
        ({"traceId": None}, 400),
        ({"name": "stars", "value": 9}, 400),
    ],
)
async def test_langfuses_clients_get_errors_as_langfuse_gives_them(
    counter: Counter, change: dict[str, Any], status: int
) -> None:
    answer = await score(counter, **{"traceId": ANSWER, "name": "thumbs", "value": 1, **change})
    assert answer.status_code == status and set(answer.json()) == {"message", "error"}
    assert await counter.rows(ANSWER) == []


async def test_a_score_of_another_project_is_not_found(counter: Counter) -> None:
    await score(counter, id="score-1", traceId=ANSWER, name="thumbs", value=1)
    headers = basic("key-2", OTHER_KEY)
    answer = await counter.client.delete("/api/public/scores/score-1", headers=headers)
    assert (answer.status_code, answer.json()["error"]) == (404, "LangfuseNotFoundError")
    assert len(await counter.effective(ANSWER)) == 1


async def test_a_langfuse_client_can_check_its_keys(counter: Counter) -> None:
    answer = await counter.client.get("/api/public/projects", headers=basic())
    assert [project["name"] for project in answer.json()["data"]] == ["default"]
