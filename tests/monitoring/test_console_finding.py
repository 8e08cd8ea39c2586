"""What the console finds and tells, asked without a browser: words, decisions, alerts, and values that cannot be."""

import re
from collections.abc import AsyncIterator

import httpx
import pytest
from sqlalchemy import text

from feedback import audit, keys, models, review
from feedback.completions import insert_many
from feedback.database import Database
from feedback.settings import FeedbackSettings
from monitoring import alerts
from monitoring.alert_rules import Condition
from monitoring.console.app import create_app
from monitoring.console.pulse import state
from monitoring.settings import MonitoringSettings
from tests.builders import PROJECT, a_completion, a_model, a_rated_completion, an_adapter


@pytest.fixture
async def web(database: Database, database_url: str) -> AsyncIterator[httpx.AsyncClient]:
    """Somebody signed in as an administrator; a failure of the console is its own page, as in a browser."""
    async with database.begin() as connection:
        _, key = await keys.create(connection, role="admin", name="ada", by="test")
        await a_model(connection)
    app = create_app(MonitoringSettings(), FeedbackSettings(database_url=database_url))
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://console") as client:
            assert (await client.post("/sign-in", data={"key": key})).status_code == 303
            yield client


@pytest.mark.parametrize("words", ["zebra", "ZEBRA", 'a "tall" giraffe', "Übergröße", "50%"])
async def test_words_are_found_in_every_kind_of_request(
    web: httpx.AsyncClient, database: Database, words: str
) -> None:
    prompt = '{"model":"support","prompt":"Where is my zebra?"}'
    blocks = '{"model":"support","input":[{"role":"user","content":"It is a \\"tall\\" giraffe"}]}'
    chat = '{"model":"support","messages":[{"role":"user","content":"Übergröße, at 50% less"}]}'
    async with database.begin() as connection:
        rows = [a_completion(request=request) for request in (prompt, blocks, chat)]
        await insert_many(connection, rows)
    page = (await web.get("/feedback", params={"q": words})).text
    assert len(set(re.findall(r"/feedback/(chatcmpl-\w+)", page))) == 1


async def test_the_name_of_the_model_is_no_word_that_anybody_said(
    web: httpx.AsyncClient, database: Database
) -> None:
    async with database.begin() as connection:
        await insert_many(connection, [a_completion()])
    found = [(await web.get("/feedback", params={"q": words})).text for words in ("support", "lamp")]
    assert ["/feedback/chatcmpl-" in page for page in found] == [False, True]


async def test_a_decision_is_shown_however_much_else_is_in_the_audit_trail_since(
    web: httpx.AsyncClient, database: Database
) -> None:
    async with database.begin() as connection:
        await an_adapter(connection, state="approved")
        await models.change_policy(connection, PROJECT, "support", {"approval": "automatic"}, by="bob")
        for number in range(101):
            await audit.write(
                connection,
                project=PROJECT,
                actor="ada",
                action="x.y",
                subject="support",
                detail={"n": number},
            )
    assert "No decision yet." not in (await web.get("/decide")).text
    assert "bob" in (await web.get("/settings/policy")).text


async def test_the_newest_decision_about_a_row_is_shown_after_a_thousand_others(
    web: httpx.AsyncClient, database: Database
) -> None:
    async with database.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO reviews (review_id, project, model, completion_id, kind, status, reason, proposed_by,"
                " decided_by, decided_at) SELECT 'rev-' || n, :project, 'support', 'c' || n, 'completion', 'excluded',"
                " 'old', 'bob', 'bob', now() - interval '9 days' FROM generate_series(1, 1000) n"
            ),
            {"project": PROJECT},
        )
        one = await a_rated_completion(connection)
        await review.exclude(connection, PROJECT, one.completion_id, by="ada", reason="The newest of all.")
    page = (await web.get("/review")).text
    assert "The newest of all." in page


async def test_an_open_page_hears_of_an_alert_and_of_its_end(database: Database) -> None:
    async with database.begin() as connection:
        model = await a_model(connection)
    seen = []
    wrong = Condition("version_fails", "critical", "5 of 20 failed.", subject="support@1")
    for found in ([], [wrong], [wrong], []):
        async with database.begin() as connection:
            await alerts.bring_up_to_date(connection, model, found, channels=[])
            seen.append(await state(connection, PROJECT))
    assert seen[0] != seen[1] == seen[2] != seen[3]


@pytest.mark.parametrize(
    "path",
    [
        "/feedback?version=99999999999",
        "/feedback?q=%00",
        "/feedback?arm=%00&version=%D9%A3",
        "/feedback/chatcmpl-%00",
        "/model/support@99999999999",
        "/model/%00@1",
        "/playground?version=%00",
        "/review?item=%00",
    ],
)
async def test_a_value_that_the_record_cannot_hold_gets_a_sentence(web: httpx.AsyncClient, path: str) -> None:
    answer = await web.get(path)
    assert answer.status_code < 500, answer.text


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/settings/keys", {"name": "shop", "role": "app", "days": "999999999999"}),
        ("/settings/keys", {"name": "sh\0p", "role": "app"}),
        ("/settings/erasures", {"rater": "jane", "sure": "erase", "days": "999999999999"}),
        ("/settings/erasures", {"completion_id": "\0", "sure": "erase"}),
    ],
)
async def test_a_form_with_such_a_value_changes_nothing_and_says_so(
    web: httpx.AsyncClient, database: Database, path: str, fields: dict[str, str]
) -> None:
    token = re.findall(r'name="csrf" value="([^"]+)"', (await web.get(path.replace("/keys", ""))).text)[0]
    answer = await web.post(path, data={"csrf": token, **fields})
    assert answer.status_code in (400, 404), answer.text
    async with database.begin() as connection:
        assert len(await keys.in_project(connection, PROJECT)) == 1
