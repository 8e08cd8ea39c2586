"""`/v1/feedback` over HTTP: what may be said, by whom, and what becomes of it."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from feedback.completions import insert_many
from feedback.database import Database
from feedback.metrics import FeedbackPolicy
from feedback.submissions import Retraction
from tests.builders import PROJECT, a_completion
from tests.feedback.handing_in import OTHER_KEY, Counter, a_counter, a_token, bearer, code

A, B = "chatcmpl-a", "chatcmpl-b"


@pytest.fixture
async def counter(database: Database, state_dir: Path) -> AsyncIterator[Counter]:
    async with a_counter(database, state_dir) as counter:
        yield counter


async def test_a_thumb_with_a_comment_and_a_correction_is_three_things_said(counter: Counter) -> None:
    body = {"completion_id": A, "value": False, "comment": "old", "correction": "14 days.", "rater_id": "ada"}
    answer = await counter.post(body)
    assert answer.status_code == 200 and len(answer.json()["feedback_ids"]) == 2
    said = {(kind, value) for kind, value, _ in await counter.effective(A)}
    assert said == {("rating", False), ("demonstration", "14 days.")}


@pytest.mark.parametrize(
    ("body", "kind", "value"),
    [
        ({"name": "stars", "value": 4.5}, "rating", 4.5),
        ({"name": "mood", "value": "glad"}, "rating", "glad"),
        ({"name": "copy", "value": True}, "signal", True),
        ({"name": "edit_distance", "value": 0.25}, "signal", 0.25),
        ({"comment": "Too long."}, "comment", "Too long."),
        ({"correction": [{"role": "assistant", "content": "No."}]}, "demonstration", None),
        ({"kind": "preference", "value": B}, "preference", B),
        ({"inference_id": A, "metric_name": "thumbs", "value": True, "tags": {"page": "1"}}, "rating", True),
    ],
)
async def test_every_kind_of_feedback_is_kept_as_what_it_is(
    counter: Counter, body: dict[str, Any], kind: str, value: Any
) -> None:
    about = {} if "inference_id" in body else {"completion_id": A}
    answer = await counter.post({**about, **body})
    assert answer.status_code == 200, answer.text
    [(kept_kind, kept_value, _)] = await counter.effective(A)
    assert kept_kind == kind and (value is None or kept_value == value)


async def test_a_conversation_is_rated_as_a_whole(counter: Counter) -> None:
    body = {"session_id": "talk-1", "name": "solved", "value": True, "rater_id": "ada"}
    kept = (await counter.post(body)).json()["feedback_id"]
    await counter.post({**body, "value": False})
    shown = (await counter.get(kept)).json()
    assert (shown["status"], shown["session_id"], shown["completion_id"]) == ("replaced", "talk-1", None)
    assert [row["value"] for row in shown["history"]] == [True, False]


async def test_that_one_answer_is_better_takes_back_that_the_other_was(counter: Counter) -> None:
    await counter.post({"kind": "preference", "value": {"chosen": A, "rejected": B}, "rater_id": "ada"})
    await counter.post({"completion_id": A, "kind": "preference", "value": B, "rater_id": "ada"})
    assert await counter.effective(B) == []
    assert [(kind, value) for kind, value, _ in await counter.effective(A)] == [("preference", B)]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ({"completion_id": A}, "says nothing"),
        ({"value": True}, "no completion_id"),
        ({"completion_id": A, "session_id": "s", "value": True}, "both an answer and a conversation"),
        ({"completion_id": A, "value": 1}, "expected true or false"),
        ({"completion_id": A, "name": "stars", "value": 6}, "expected a number from 1 to 5"),
        ({"completion_id": A, "name": "mood", "value": "so-so"}, "expected one of glad, sad"),
        ({"completion_id": A, "name": "helpful", "value": True}, "Declared are: thumbs.*stars.*mood"),
        ({"completion_id": A, "name": "solved", "value": True}, "about a session, but"),
        ({"session_id": "s", "name": "stars", "value": 3}, "about a completion, but"),
        ({"session_id": "s", "correction": "No."}, "about one answer"),
        ({"completion_id": A, "kind": "preference", "value": A}, "compares two completions"),
        ({"completion_id": A, "kind": "preference", "value": {"chosen": B, "rejected": "c"}}, "given on"),
        ({"completion_id": A, "kind": "signal", "name": "stars", "value": 3}, "the signals are"),
        ({"completion_id": A, "kind": "rating", "name": "copy", "value": True}, "the signals are"),
        ({"completion_id": A, "value": True, "metadata": {"x": "y" * 20_000}}, "at most 16384"),
        ({"completion_id": A, "comment": "y" * 70_000}, "at most 65536"),
        ({"completion_id": A, "value": True, "thumb": 1}, "thumb"),
    ],
)
async def test_what_makes_no_sense_is_refused_with_what_was_expected(
    counter: Counter, body: dict[str, Any], expected: str
) -> None:
    answer = await counter.post(body)
    assert answer.status_code in (400, 422)
    assert re.search(expected, answer.json()["error"]["message"]), answer.text
    assert await counter.rows(A) == []


async def test_a_metric_is_looked_up_in_the_model_that_answered(database: Database, state_dir: Path) -> None:
    with_stars = FeedbackPolicy.model_validate({"metrics": {"helpful": {}}})
    policies = {"support": FeedbackPolicy(), "sales": with_stars}
    support, sales = a_completion(), a_completion(model="sales")
    async with database.begin() as connection:
        await insert_many(connection, [support, sales])
    # What is not in the record yet may be of either model.
    expected = {support.completion_id: 400, sales.completion_id: 200, "chatcmpl-not-yet": 200}
    async with a_counter(database, state_dir, policies) as counter:
        for completion_id, status in expected.items():
            body = {"completion_id": completion_id, "name": "helpful", "value": True}
            assert (await counter.post(body)).status_code == status


# Who rates


async def test_the_raw_name_of_a_rater_is_not_recorded(counter: Counter) -> None:
    await counter.post({"completion_id": A, "value": True, "rater_id": "ada@example.org"})
    [(_, _, rater)] = await counter.effective(A)
    assert rater.startswith("rater-") and "ada" not in rater


async def test_without_a_name_the_vote_is_of_the_person_who_asked(counter: Counter) -> None:
    completion = a_completion(rater="rater-who-asked")
    body = {"completion_id": completion.completion_id, "value": True}
    await counter.post(body)
    assert await counter.effective(completion.completion_id) == [("rating", True, "anonymous")]
    async with counter.database.begin() as connection:
        await insert_many(connection, [completion])
    await counter.post({**body, "value": False})
    assert await counter.effective(completion.completion_id) == [("rating", False, "rater-who-asked")]


async def test_a_completion_of_another_project_cannot_be_rated(counter: Counter) -> None:
    other = a_completion(project="other")
    async with counter.database.begin() as connection:
        await insert_many(connection, [other])
    answer = await counter.post({"completion_id": other.completion_id, "value": True})
    assert answer.status_code == 404 and "has no completion" in answer.text


async def test_another_project_cannot_displace_a_vote_on_an_answer_not_recorded_yet(counter: Counter) -> None:
    await counter.post({"completion_id": A, "value": True})
    await counter.post({"completion_id": A, "value": False}, key=OTHER_KEY)
    assert await counter.effective(A) == [("rating", True, "anonymous")]


# Sending again, changing, taking back


async def test_the_same_id_with_the_same_content_has_the_same_answer(counter: Counter) -> None:
    body = {"completion_id": A, "value": True, "correction": "No.", "id": "once"}
    first = await counter.post(body)
    again = await counter.post(body)
    by_header = await counter.post({**body, "id": None}, idempotency_key="once")
    assert first.json() == again.json() == by_header.json()
    assert len(await counter.rows(A)) == 2


@pytest.mark.parametrize(
    "change", [{"value": False}, {"comment": "but"}, {"correction": "No."}, {"rater_id": "b"}]
)
async def test_the_same_id_with_other_content_is_a_conflict(counter: Counter, change: dict[str, Any]) -> None:
    body = {"completion_id": A, "value": True, "id": "once"}
    await counter.post(body)
    assert code(await counter.post({**body, **change})) == (409, "idempotency_conflict")
    assert len(await counter.rows(A)) == 1


async def test_the_same_id_at_once_is_kept_once(counter: Counter) -> None:
    bodies = [{"completion_id": A, "value": value, "id": "once"} for value in (True, False) * 4]
    answers = await asyncio.gather(*(counter.post(body) for body in bodies))
    assert {answer.status_code for answer in answers} == {200, 409}
    assert len(await counter.rows(A)) == 1


async def test_many_votes_at_once_wait_for_each_other_and_none_fails(counter: Counter) -> None:
    both = [{"completion_id": a, "value": True, "correction": "No."} for a in (A, B) for _ in range(5)]
    answers = await asyncio.gather(*(counter.post(body) for body in both))
    assert {answer.json()["status"] for answer in answers} == {"stored"}


async def test_what_was_taken_back_stays_in_the_history(counter: Counter) -> None:
    kept = (await counter.post({"completion_id": A, "value": True})).json()["feedback_id"]
    for _ in range(2):
        assert (await counter.client.delete(f"/v1/feedback/{kept}", headers=bearer())).status_code == 204
    assert await counter.effective(A) == []
    shown = (await counter.get(kept)).json()
    assert shown["status"] == "retracted" and len(shown["history"]) == 1


async def test_feedback_of_another_project_is_neither_shown_nor_taken_back(counter: Counter) -> None:
    kept = (await counter.post({"completion_id": A, "value": True})).json()["feedback_id"]
    for call in (counter.client.get, counter.client.delete):
        assert (await call(f"/v1/feedback/{kept}", headers=bearer(OTHER_KEY))).status_code == 404
    assert len(await counter.effective(A)) == 1


# While the database is away


async def test_feedback_given_while_the_database_is_away_waits_in_the_spool(counter: Counter) -> None:
    body = {"completion_id": A, "value": True, "rater_id": "ada", "id": "once"}
    async with counter.outage():
        answer = await counter.post(body)
        again = await counter.post(body)
        kept = answer.json()["feedback_id"]
        shown = await counter.get(kept)
        conflict = await counter.post({**body, "value": False})
        undeclared = await counter.post({**body, "name": "helpful"})
    assert (answer.status_code, answer.json()["status"]) == (202, "spooled")
    assert again.json() == answer.json() and shown.json()["status"] == "spooled"
    assert code(conflict) == (409, "idempotency_conflict")
    assert code(undeclared) == (400, "metric_not_declared")
    await counter.drain()
    await counter.drain()
    assert [kind for kind, _, _ in await counter.effective(A)] == ["rating"]
    assert (await counter.post(body)).json()["feedback_ids"] == [kept]
    assert (await counter.get(kept)).json()["status"] == "stored"


async def test_what_is_taken_back_while_the_database_is_away_stays_taken_back(counter: Counter) -> None:
    before = (await counter.post({"completion_id": A, "value": True})).json()["feedback_id"]
    async with counter.outage():
        during = (await counter.post({"completion_id": B, "value": True})).json()["feedback_id"]
        for kept in (before, during):
            assert (await counter.client.delete(f"/v1/feedback/{kept}", headers=bearer())).status_code == 202
    counter.spooled.sort(key=lambda one: not isinstance(one, Retraction))
    await counter.drain()
    assert await counter.effective(A) == [] == await counter.effective(B)
    assert len(await counter.rows(B)) == 1


async def test_the_state_of_unknown_feedback_is_not_guessed_while_the_database_is_away(
    counter: Counter,
) -> None:
    async with counter.outage():
        answer = await counter.get("fb-unknown")
    assert code(answer) == (503, "record_unavailable")
    assert "retry-after" in answer.headers


# Tokens


async def test_with_a_token_the_token_says_who_rates_and_what(counter: Counter) -> None:
    assert (await counter.post({"value": True}, a_token(A))).status_code == 200
    assert await counter.effective(A) == [("rating", True, "rater-a")]


async def test_a_token_is_good_for_its_own_answer_rater_and_project_until_it_expires(
    counter: Counter,
) -> None:
    vote = {"value": True}
    forged = a_token(A)[:-2] + "xx"
    for token, body, expected in (
        (forged, vote, (401, "feedback_token_invalid")),
        ("no token", vote, (401, "feedback_token_invalid")),
        (a_token(A, seconds=-1), vote, (401, "feedback_token_expired")),
        (a_token(A), {**vote, "completion_id": B}, (403, "feedback_token_completion")),
        (a_token(A), {**vote, "session_id": "talk"}, (403, "feedback_token_completion")),
        (a_token(A), {**vote, "rater_id": "mallory"}, (403, "feedback_token_rater")),
    ):
        assert code(await counter.post(body, token)) == expected
    headers = {"authorization": f"Bearer {OTHER_KEY}"}
    assert code(await counter.post(vote, a_token(A), **headers)) == (403, "feedback_token_project")
    assert await counter.rows(A) == []


async def test_a_token_without_a_rater_belongs_to_whoever_uses_it_first(counter: Counter) -> None:
    token = a_token(A, rater=None)
    kept = (await counter.post({"value": True, "rater_id": "ada"}, token)).json()["feedback_id"]
    assert code(await counter.post({"value": False, "rater_id": "bob"}, token)) == (
        403,
        "feedback_token_rater",
    )
    assert (await counter.post({"value": False}, token)).status_code == 200
    [(_, value, rater)] = await counter.effective(A)
    assert (value, rater) == (False, (await counter.rows(A))[0]["rater"]) and rater != "anonymous"
    shown = await counter.client.get(f"/v1/feedback/{kept}", headers={"x-hone-feedback-token": token})
    assert shown.json()["status"] == "replaced"


async def test_two_who_use_a_token_during_an_outage_have_one_vote(counter: Counter) -> None:
    token = a_token(A, rater=None)
    async with counter.outage():
        for name in ("ada", "bob"):
            assert (await counter.post({"value": name == "ada", "rater_id": name}, token)).status_code == 202
    await counter.drain()
    assert [value for _, value, _ in await counter.effective(A)] == [False]
    assert len(await counter.rows(A)) == 2


async def test_a_vote_is_taken_back_by_the_token_that_gave_it_and_by_no_other(counter: Counter) -> None:
    given = (await counter.post({"value": True}, a_token(A))).json()["feedback_id"]
    for other in (a_token(A, "rater-b"), a_token(B)):
        refused = await counter.client.delete(
            f"/v1/feedback/{given}", headers={"x-hone-feedback-token": other}
        )
        assert refused.status_code == 404
    taken = await counter.client.delete(
        f"/v1/feedback/{given}", headers={"x-hone-feedback-token": a_token(A)}
    )
    assert taken.status_code == 204 and await counter.effective(A) == []


async def test_a_link_with_a_token_records_nothing(counter: Counter) -> None:
    made = await counter.client.post("/v1/feedback/tokens", json={"completion_id": A}, headers=bearer())
    assert set(made.json()) == {"id", "url", "expires_at"}
    url = made.json()["url"]
    for get in (f"{url}?score=1&value=true", f"/v1/feedback?token={made.json()['id']}&value=true"):
        answer = await counter.client.get(get)
        assert code(answer) == (405, "feedback_needs_post") and answer.headers["allow"] == "POST"
    assert await counter.rows(A) == []
    assert (await counter.client.post(url, json={"value": True})).status_code == 200
    assert len(await counter.effective(A)) == 1


async def test_a_token_is_not_made_for_another_projects_answer(counter: Counter) -> None:
    other = a_completion(project="other")
    async with counter.database.begin() as connection:
        await insert_many(connection, [other])
    body = {"completion_id": other.completion_id}
    answer = await counter.client.post("/v1/feedback/tokens", json=body, headers=bearer())
    assert answer.status_code == 404 and PROJECT in answer.text
