"""`/v1/feedback` over HTTP: keys and tokens, aliases, and a database that is away."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from fastapi import FastAPI, Request

from feedback import submissions, tokens
from feedback.api import FeedbackDeps, feedback_router
from feedback.completions import insert_many
from feedback.database import Database
from feedback.errors import HoneError
from feedback.submissions import Submission
from tests.builders import PROJECT, a_completion
from tests.ports import free_port

SECRET = b"s" * 32


@dataclass
class Api:
    """A client of the routes, and what they spooled."""

    client: httpx.AsyncClient
    database: Database
    connected_to: Database
    spooled: list[Submission] = field(default_factory=list)

    async def post(self, body: dict[str, Any], token: str | None = None) -> httpx.Response:
        headers = {} if token is None else {"x-hone-feedback-token": token}
        return await self.client.post("/v1/feedback", json=body, headers=headers)

    async def effective(self, completion_id: str) -> list[tuple[str, Any, str]]:
        async with self.database.begin() as connection:
            rows = await submissions.of_completion(connection, PROJECT, completion_id)
        return [(row["kind"], row["value"], row["rater"]) for row in rows if row["effective"]]


@pytest.fixture
async def api(database: Database) -> AsyncIterator[Api]:
    app = FastAPI()
    caller = SimpleNamespace(key_id="key-1", project=PROJECT)

    def deps(request: Request) -> FeedbackDeps:
        return FeedbackDeps(
            asking.connected_to, SECRET, SECRET, lambda request: caller, asking.spooled.append
        )

    app.include_router(feedback_router(deps))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
        asking = Api(client, database, connected_to=database)
        yield asking


def a_token(completion_id: str, rater: str | None = "rater-a") -> str:
    return tokens.sign(SECRET, completion_id, PROJECT, rater, int(datetime.now(UTC).timestamp()) + 60)


async def test_a_thumb_with_a_comment_and_a_correction_is_three_things_said(api: Api) -> None:
    body = {
        "completion_id": "c",
        "value": False,
        "comment": "old policy",
        "correction": "14 days.",
        "rater_id": "ada",
    }
    answer = await api.post(body)
    assert answer.status_code == 200 and len(answer.json()["feedback_ids"]) == 2
    said = {(kind, value) for kind, value, _ in await api.effective("c")}
    assert said == {("rating", False), ("demonstration", "14 days.")}


async def test_tensorzeros_field_names_are_understood(api: Api) -> None:
    await api.post({"inference_id": "c", "metric_name": "thumbs", "value": True, "tags": {"page": "help"}})
    await api.post({"inference_id": "c", "metric_name": "demonstration", "value": "14 days."})
    assert sorted(kind for kind, _, _ in await api.effective("c")) == ["demonstration", "rating"]


async def test_the_raw_name_of_a_rater_is_not_recorded(api: Api) -> None:
    await api.post({"completion_id": "c", "value": True, "rater_id": "ada@example.org"})
    [(_, _, rater)] = await api.effective("c")
    assert rater.startswith("rater-") and "ada" not in rater


async def test_with_a_token_the_token_says_who_rates_and_what(api: Api) -> None:
    token = a_token("c")
    assert (await api.post({"value": True, "rater_id": "mallory"}, token)).status_code == 200
    assert await api.effective("c") == [("rating", True, "rater-a")]
    with pytest.raises(HoneError, match="token is for c"):
        await api.post({"completion_id": "another", "value": True}, token)


async def test_a_vote_is_taken_back_by_the_token_that_gave_it_and_by_no_other(api: Api) -> None:
    given = (await api.post({"value": True}, a_token("c"))).json()["feedback_id"]
    with pytest.raises(HoneError):
        await api.client.delete(
            f"/v1/feedback/{given}", headers={"x-hone-feedback-token": a_token("c", "rater-b")}
        )
    taken = await api.client.delete(f"/v1/feedback/{given}", headers={"x-hone-feedback-token": a_token("c")})
    assert taken.status_code == 204 and await api.effective("c") == []


async def test_a_completion_of_another_project_cannot_be_rated(api: Api) -> None:
    other = a_completion(project="other")
    async with api.database.begin() as connection:
        await insert_many(connection, [other])
    with pytest.raises(HoneError, match="has no completion"):
        await api.post({"completion_id": other.completion_id, "value": True})


@pytest.mark.parametrize(
    ("body", "expected"),
    [({"completion_id": "c"}, "says nothing"), ({"value": True}, "no completion_id")],
)
async def test_a_body_that_says_too_little_is_refused_with_what_is_missing(
    api: Api, body: dict[str, Any], expected: str
) -> None:
    with pytest.raises(HoneError, match=expected):
        await api.post(body)


async def test_an_unknown_field_is_refused_by_name(api: Api) -> None:
    answer = await api.post({"completion_id": "c", "value": True, "thumb": 1})
    assert answer.status_code == 422 and "thumb" in answer.text


async def test_feedback_given_while_the_database_is_away_waits_in_the_spool(api: Api) -> None:
    async with Database(f"postgresql://nobody@127.0.0.1:{free_port()}/none") as api.connected_to:
        answer = await api.post({"completion_id": "c", "value": True, "rater_id": "ada"})
    assert (answer.status_code, answer.json()["status"]) == (202, "spooled")
    async with api.database.begin() as connection:
        for one in api.spooled:
            await submissions.store(connection, Submission.from_json(one.to_json()))
    assert [kind for kind, _, _ in await api.effective("c")] == ["rating"]
