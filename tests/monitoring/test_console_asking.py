"""Asking from the console: the playground through a real gateway, and two versions side by side at the engine."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import orjson
import pytest
from playwright.async_api import Browser, Page

from feedback import keys, submissions
from feedback.completions import with_text
from feedback.console_keys import CONSOLE_KEYS
from feedback.database import Database
from feedback.tables import completions, feedback
from tests.browser_fixture import accessibility_troubles
from tests.builders import PROJECT
from tests.fakes import Asked, FakeEngine, answer_well, fake_engine
from tests.injection import CORPUS, MARK
from tests.monitoring.consoles import RunningConsole, a_history, picture, running_console
from tests.serving.running import Running, hold, running_gateway

HOSTILE = " ".join(CORPUS)


async def behave(asked: Asked) -> None:
    """Versions differ in one word; what asks for markup gets it."""
    said = asked.body["messages"][-1]["content"]
    days = "14" if str(asked.body["model"]).startswith("support--v2") else "30"
    words = (HOSTILE,) if "hostile" in said else ("Within ", f"{days} ", "days.")
    await answer_well(words)(asked)


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with fake_engine(behave) as engine:
        yield engine


@pytest.fixture
async def gateway(
    database: Database, database_url: str, state_dir: Path, engine: FakeEngine
) -> AsyncIterator[Running]:
    candidate = await a_history(database, people=4)
    async with running_gateway(database, database_url, state_dir, engine.url) as gateway:
        await hold(database, candidate, engine.url)
        yield gateway


@pytest.fixture
async def console(database: Database, database_url: str, gateway: Running) -> AsyncIterator[RunningConsole]:
    async with running_console(database, database_url, console_gateway_url=gateway.url) as console:
        yield console


async def ask(page: Page, question: str) -> None:
    turns = await page.locator(".turn .thumbs").count()
    await page.get_by_label("Your question").fill(question)
    await page.get_by_role("button", name="Ask", exact=True).click()
    await page.locator(".turn .thumbs").nth(turns).wait_for()


async def test_two_versions_answer_side_by_side_and_a_thumb_is_the_operators(
    browser: Browser, console: RunningConsole, database: Database, engine: FakeEngine
) -> None:
    watched = await console.sign_in(browser, viewport={"width": 1280, "height": 860})
    page = watched.page
    await console.open(page, "/playground?model=support")
    await ask(page, "How long may I return a lamp?")
    await page.get_by_text("Within 30 days.").wait_for()
    await page.get_by_text("Within 14 days.").wait_for()
    await page.get_by_label("Thumb down for support@1").click()
    await page.locator("[aria-pressed=true]").wait_for()
    await ask(page, "And a kettle?")
    assert [one["role"] for one in engine.asked[-1].body["messages"]] == ["user", "assistant", "user"]
    async with database.begin() as connection:
        found = [
            dict(row._mapping)
            for row in await connection.execute(
                with_text()
                .where(completions.c.key_id.startswith(CONSOLE_KEYS))
                .order_by(completions.c.created_at)
            )
        ]
        [vote] = (
            await connection.execute(feedback.select().where(feedback.c.key_id.startswith(CONSOLE_KEYS)))
        ).all()
        operator = next(one for one in await keys.in_project(connection, PROJECT) if one.role == "operator")
    assert sorted((one["version"], one["consent"], one["arm"], one["experiment_id"]) for one in found) == [
        (1, False, None, None),
        (1, False, None, None),
        (2, False, None, None),
        (2, False, None, None),
    ]
    assert found[0]["metadata"] == {"asked_in": "console", "operator": operator.key_id}
    assert (vote.value, vote.kind, vote.rater) == (False, "rating", found[0]["rater"])
    assert vote.rater != submissions.ANONYMOUS
    # The conversation is what the record holds: loaded again, it is all there.
    await page.reload()
    assert await page.locator(".turn").count() == 2
    await picture(page, "console-playground")
    assert await accessibility_troubles(page) == []
    assert watched.errors == []


async def test_what_an_operator_asks_is_trained_on_only_if_they_say_so(
    console: RunningConsole, database: Database
) -> None:
    async with httpx.AsyncClient(base_url=console.url, timeout=60) as client:
        await client.post("/sign-in", data={"key": console.operator})
        page = (await client.get("/playground?model=support")).text
        csrf = page.split('name="csrf" value="')[1].split('"')[0]
        session = page.split('name="session" value="')[1].split('"')[0]
        form = {"csrf": csrf, "model": "support", "session": session, "left": "support@1", "right": "nobody"}
        # Without a script the form waits for the answer and comes back to the page that has it.
        for consent in ({}, {"consent": "yes"}):
            answer = await client.post("/playground", data=form | {"question": "How long?"} | consent)
            assert answer.status_code == 303
            page = (await client.get(answer.headers["location"])).text
        assert page.count("Within 30 days.") == 2 and page.count("not trained on") == 1
        for wrong, says in (
            ({"question": " "}, "expected 1 to"),
            ({"question": "x", "right": "support@1"}, "two different ones"),
            ({"question": "x", "left": "search@0"}, "expected one of"),
            ({"question": "x", "session": "customer-1"}, "not one of the playground"),
        ):
            refused = await client.post("/playground", data=form | wrong)
            assert (refused.status_code, says in refused.text) == (400, True), wrong


async def test_a_revoked_key_turns_the_playground_off_until_an_administrator_makes_the_next(
    browser: Browser, console: RunningConsole, database: Database
) -> None:
    page = (await console.sign_in(browser, key=console.admin)).page
    await console.open(page, "/playground?model=support")
    await ask(page, "How long?")
    async with database.begin() as connection:
        held = next(
            one for one in await keys.in_project(connection, PROJECT) if one.key_id.startswith(CONSOLE_KEYS)
        )
        await keys.revoke(connection, PROJECT, held.key_id, by="test")
    await console.open(page, "/playground?model=support")
    await page.get_by_text("The playground is off.").wait_for()
    await page.get_by_role("button", name="Make a new key").click()
    await ask(page, "And now?")


async def test_held_out_questions_are_asked_at_the_engine_and_leave_no_trace(
    browser: Browser, console: RunningConsole, database: Database, engine: FakeEngine
) -> None:
    watched = await console.sign_in(browser)
    page = watched.page
    async with database.begin() as connection:
        before = len((await connection.execute(completions.select())).all())
    await console.open(page, "/model/compare?model=support&left=support@1&right=support@2")
    await page.get_by_role("button", name="Ask both the first of 4").click()
    await page.get_by_text("they differ").nth(3).wait_for()
    assert await page.locator("mark").all_inner_texts() == ["30", "14"] * 4
    await page.get_by_label("A question of your own").fill("hostile")
    await page.get_by_role("button", name="Ask both", exact=True).click()
    await page.get_by_text("the same", exact=True).wait_for()
    assert await page.evaluate(f"window.{MARK}") is None
    assert await accessibility_troubles(page) == []
    async with database.begin() as connection:
        assert len((await connection.execute(completions.select())).all()) == before
    assert {one.body["temperature"] for one in engine.asked} == {0.0}
    assert (watched.errors, watched.dialogs) == ([], [])


async def test_a_hostile_answer_is_text_while_it_comes_and_afterwards(
    browser: Browser, console: RunningConsole
) -> None:
    watched = await console.sign_in(browser)
    page = watched.page
    await console.open(page, "/playground?model=support")
    await ask(page, f"hostile {HOSTILE}")
    assert CORPUS[0] in await page.locator(".turn").inner_text()
    assert await page.evaluate(f"window.{MARK}") is None
    assert await page.locator("main :is(script, iframe, meta, base, style)").count() == 0
    assert (watched.errors, watched.dialogs) == ([], [])
    assert all(one.url.startswith((console.url, "data:")) for one in watched.requests)


async def test_a_gateway_that_is_away_is_named_and_nothing_is_lost(
    browser: Browser, database: Database, database_url: str, gateway: Running
) -> None:
    async with running_console(database, database_url, console_gateway_url="http://127.0.0.1:9") as console:
        page = (await console.sign_in(browser)).page
        await console.open(page, "/playground?model=support")
        await page.get_by_label("Your question").fill("How long?")
        await page.get_by_role("button", name="Ask", exact=True).click()
        await page.get_by_role("alert").filter(has_text="http://127.0.0.1:9").wait_for()


async def test_answers_come_as_events_to_who_listens(console: RunningConsole) -> None:
    async with httpx.AsyncClient(base_url=console.url, timeout=60) as client:
        await client.post("/sign-in", data={"key": console.operator})
        page = (await client.get("/model/compare?model=support")).text
        csrf = page.split('name="csrf" value="')[1].split('"')[0]
        form = {"csrf": csrf, "model": "support", "left": "support@1", "right": "support@2"}
        asked = form | {"ask": "own", "question": "How long?"}
        told = (await client.post("/model/compare", data=asked, headers={"accept": "text/event-stream"})).text
        names = [line.removeprefix("event: ") for line in told.splitlines() if line.startswith("event: ")]
        assert names == ["progress", "row", "progress", "done"]
        row = orjson.loads(told.split("event: row\ndata: ")[1].splitlines()[0])
        assert "<mark>14</mark>" in row["html"]
        whole = await client.post("/model/compare", data=asked)
        assert "<mark>14</mark>" in whole.text
        same = await client.post("/model/compare", data=asked | {"right": "support@1"})
        assert same.status_code == 400 and "two different versions" in same.text
