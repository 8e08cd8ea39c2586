"""hone.js in a real Chromium, in pages that forbid every inline script and style."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Locator, Page, Route
from sqlalchemy import text

from feedback import models
from feedback.database import Database
from tests.browser_fixture import Watched, a_site, accessibility_troubles, show_html, watched_page
from tests.builders import PROJECT
from tests.fakes import FakeEngine, fake_engine
from tests.serving.running import Running, running_gateway

POLICY = (
    "default-src 'none'; script-src 'self'; connect-src 'self'; style-src 'none'; "
    "require-trusted-types-for 'script'"
)


@pytest.fixture
async def engine() -> AsyncIterator[FakeEngine]:
    async with fake_engine() as engine:
        yield engine


@pytest.fixture
async def gateway(
    database: Database, database_url: str, state_dir: Path, engine: FakeEngine
) -> AsyncIterator[Running]:
    async with running_gateway(database, database_url, state_dir, engine.url) as running:
        yield running


async def an_answer_in_a_page(browser: Browser, gateway: Running, **options: Any) -> Watched:
    """A page with one answer and hone.js, under a policy that allows nothing inline."""
    watched = await watched_page(browser, **options)
    await show_html(watched.page, f"{gateway.url}/shop", await a_shop(gateway), POLICY)
    return watched


async def a_shop(gateway: Running) -> str:
    """The page, with an answer that a customer just got."""
    answer = await gateway.ask(headers={"x-hone-rater-id": "customer-17"})
    rated = f'data-hone-completion="{answer.json()["id"]}"'
    token = answer.headers["x-hone-feedback-token"]
    script = f'<script src="{gateway.url}/hone.js" defer></script>'
    return f"""<!doctype html><html lang="en"><head><title>Shop</title>{script}</head>
      <body><main><h1>Help</h1><p>Within 30 days.</p><div {rated} data-hone-token="{token}"></div>
      <button>after</button></main></body></html>"""


async def said(database: Database) -> list[tuple[str, Any, str | None]]:
    """The effective feedback, as (kind, value, rater)."""
    async with database.begin() as connection:
        rows = await connection.execute(
            text("SELECT kind, value, rater FROM feedback WHERE effective ORDER BY created_at, kind")
        )
        return [(row.kind, row.value, row.rater) for row in rows]


def button(page: Page, name: str) -> Locator:
    return page.get_by_role("button", name=name)


async def wait_for_status(page: Page, words: str) -> None:
    await page.get_by_role("status").filter(has_text=words).wait_for()


async def test_a_thumb_is_one_vote_of_the_person_who_asked(
    browser: Browser, gateway: Running, database: Database
) -> None:
    page = (await an_answer_in_a_page(browser, gateway)).page
    await button(page, "Good answer").click()
    await wait_for_status(page, "saved")
    assert await button(page, "Good answer").get_attribute("aria-pressed") == "true"
    [(kind, value, rater)] = await said(database)
    assert (kind, value) == ("rating", True)
    assert rater not in (None, "anonymous", "customer-17")


async def test_a_vote_can_be_changed_and_taken_back(
    browser: Browser, gateway: Running, database: Database
) -> None:
    page = (await an_answer_in_a_page(browser, gateway)).page
    await button(page, "Good answer").click()
    await wait_for_status(page, "saved")
    await button(page, "Bad answer").click()
    await wait_for_status(page, "saved")
    assert [value for _, value, _ in await said(database)] == [False]
    assert await button(page, "Good answer").get_attribute("aria-pressed") == "false"
    await button(page, "Bad answer").click()
    await wait_for_status(page, "taken back")
    assert await said(database) == []


async def test_quick_clicks_end_at_the_last_one(
    browser: Browser, gateway: Running, database: Database
) -> None:
    page = (await an_answer_in_a_page(browser, gateway)).page
    for name in ("Good answer", "Bad answer", "Good answer", "Bad answer"):
        await button(page, name).click()
    await wait_for_status(page, "saved")
    assert [value for _, value, _ in await said(database)] == [False]


async def test_the_right_answer_and_a_comment_are_kept(
    browser: Browser, gateway: Running, database: Database
) -> None:
    page = (await an_answer_in_a_page(browser, gateway)).page
    await button(page, "Comment or correct").click()
    await page.get_by_label("What was good or wrong?").fill("It named the old deadline.")
    await page.get_by_label("The right answer").fill("You have 14 days.")
    await button(page, "Send").click()
    await wait_for_status(page, "saved")
    assert [(kind, value) for kind, value, _ in await said(database)] == [
        ("comment", "It named the old deadline."),
        ("demonstration", "You have 14 days."),
    ]


async def test_a_vote_that_could_not_be_saved_goes_back_and_can_be_tried_again(
    browser: Browser, gateway: Running, database: Database
) -> None:
    page = (await an_answer_in_a_page(browser, gateway)).page
    await page.route("**/v1/feedback", lambda route: route.abort())
    await button(page, "Good answer").click()
    await wait_for_status(page, "Not saved: the service did not answer.")
    assert await button(page, "Good answer").get_attribute("aria-pressed") == "false"
    await page.unroute("**/v1/feedback")
    await button(page, "Try again").click()
    await wait_for_status(page, "Thanks")
    assert [value for _, value, _ in await said(database)] == [True]


async def test_a_vote_whose_answer_was_lost_counts_once_when_it_is_sent_again(
    browser: Browser, gateway: Running, database: Database
) -> None:
    page = (await an_answer_in_a_page(browser, gateway)).page

    async def lose_the_answer(route: Route) -> None:
        await route.fetch()
        await route.abort()

    await page.route("**/v1/feedback", lose_the_answer)
    await button(page, "Good answer").click()
    await wait_for_status(page, "Not saved")
    await page.unroute("**/v1/feedback")
    await button(page, "Try again").click()
    await wait_for_status(page, "Thanks")
    async with database.begin() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM feedback")) == 1


async def test_a_refusal_is_shown_in_the_words_of_the_service(browser: Browser, gateway: Running) -> None:
    watched = await watched_page(browser)
    html = """<!doctype html><html lang="en"><head><title>Shop</title><script src="/hone.js" defer></script></head>
      <body><main data-hone-completion="chatcmpl-1" data-hone-token="forged.token"></main></body></html>"""
    await show_html(watched.page, f"{gateway.url}/shop", html, POLICY)
    await button(watched.page, "Good answer").click()
    await wait_for_status(watched.page, "was not issued by this service")


async def test_it_needs_only_the_keyboard(browser: Browser, gateway: Running, database: Database) -> None:
    page = (await an_answer_in_a_page(browser, gateway)).page
    await page.keyboard.press("Tab")
    await page.keyboard.press("Space")
    await wait_for_status(page, "saved")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Tab")
    await page.keyboard.press("Enter")
    await page.keyboard.type("Too long.")
    await page.keyboard.press("Control+Enter")
    await wait_for_status(page, "Thanks, that is saved")
    assert [value for _, value, _ in await said(database)] == [True, "Too long."]
    assert await button(page, "Comment or correct").evaluate("one => one.getRootNode().activeElement === one")
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.textContent") == "after"


async def test_it_asks_nothing_of_the_policy_and_nothing_of_other_places(
    browser: Browser, gateway: Running
) -> None:
    watched = await an_answer_in_a_page(browser, gateway)
    await button(watched.page, "Good answer").click()
    await wait_for_status(watched.page, "saved")
    await button(watched.page, "Comment or correct").click()
    assert watched.errors == []
    assert {one.url.removeprefix(gateway.url) for one in watched.requests} == {
        "/shop",
        "/hone.js",
        "/v1/feedback",
    }
    posted = next(one for one in watched.requests if one.method == "POST")
    sent = await posted.all_headers()
    assert "authorization" not in sent and "cookie" not in sent
    height = await button(watched.page, "Good answer").evaluate("one => one.getBoundingClientRect().height")
    assert height >= 24


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_everyone_can_use_it(browser: Browser, gateway: Running, scheme: str) -> None:
    watched = await an_answer_in_a_page(browser, gateway, color_scheme=scheme)
    await button(watched.page, "Comment or correct").click()
    assert await accessibility_troubles(watched.page) == []


async def test_an_answer_that_arrives_later_gets_thumbs(browser: Browser, gateway: Running) -> None:
    page = (await an_answer_in_a_page(browser, gateway)).page
    await page.evaluate("""() => {
        const later = document.createElement("section");
        document.body.append(later);
        later.dataset.honeCompletion = "chatcmpl-2";
        later.dataset.honeToken = "a.b";
    }""")
    await page.locator("section").get_by_role("button", name="Good answer").wait_for()


async def test_attach_gives_a_handle_that_takes_the_thumbs_away(browser: Browser, gateway: Running) -> None:
    page = (await an_answer_in_a_page(browser, gateway)).page
    count = await page.evaluate("""() => {
        const place = document.createElement("section");
        document.body.append(place);
        const handle = hone.attach(place, {
            token: "a.b", completionId: "chatcmpl-3", url: location.origin, texts: { up: "Gut" } });
        const label = place.firstChild.shadowRoot.querySelector("button").ariaLabel;
        handle.detach();
        return [label, place.childNodes.length];
    }""")
    assert count == ["Gut", 0]


async def test_a_page_of_another_site_votes_where_the_policy_names_it(
    browser: Browser, gateway: Running, database: Database
) -> None:
    watched, html = await watched_page(browser), await a_shop(gateway)
    page = watched.page
    async with a_site(lambda: html, POLICY.replace("'self'", gateway.url)) as site:
        await page.goto(site)
        await button(page, "Good answer").click()
        await wait_for_status(page, "Not saved")
        changes = {"feedback": {"allowed_origins": [site]}}
        async with database.begin() as connection:
            await models.change_policy(connection, PROJECT, "support", changes, by="test")
        # A gateway learns of the change within a second or so.
        for _ in range(50):
            if not await button(page, "Try again").is_visible():
                break
            await button(page, "Try again").click()
            await page.wait_for_timeout(100)
        await wait_for_status(page, "Thanks")
        await button(page, "Good answer").click()
        await wait_for_status(page, "taken back")
    assert await said(database) == []


async def test_the_script_is_small_cacheable_and_open_to_every_page(gateway: Running) -> None:
    script = await gateway.client.get("/hone.js", headers={"origin": "https://shop.example"})
    assert len(script.content) <= 10 * 1024
    assert script.headers["access-control-allow-origin"] == "*"
    assert script.headers["cross-origin-resource-policy"] == "cross-origin"
    assert "max-age" in script.headers["cache-control"]
    again = await gateway.client.get("/hone.js", headers={"if-none-match": script.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")


async def test_an_element_that_is_used_for_another_answer_votes_on_that_one(
    browser: Browser, gateway: Running, database: Database
) -> None:
    page = (await an_answer_in_a_page(browser, gateway)).page
    await button(page, "Good answer").wait_for()
    other = await gateway.ask(headers={"x-hone-rater-id": "customer-17"})
    await page.evaluate(
        """([id, token]) => {
            const place = document.querySelector("[data-hone-completion]");
            place.dataset.honeCompletion = id;
            place.dataset.honeToken = token;
        }""",
        [other.json()["id"], other.headers["x-hone-feedback-token"]],
    )
    await button(page, "Good answer").click()
    await wait_for_status(page, "saved")
    assert await page.get_by_role("button", name="Good answer").count() == 1
    async with database.begin() as connection:
        voted = await connection.scalars(text("SELECT completion_id FROM feedback"))
    assert list(voted) == [other.json()["id"]]


async def test_a_place_without_a_token_and_a_common_id_keep_no_other_answer_from_its_thumbs(
    browser: Browser, gateway: Running
) -> None:
    watched = await watched_page(browser)
    waiting = '<div id="hone" data-hone-completion="chatcmpl-9" data-hone-token=""></div><main>'
    shop = (await a_shop(gateway)).replace("<main>", waiting)
    await show_html(watched.page, f"{gateway.url}/shop", shop, POLICY)
    good = watched.page.get_by_role("button", name="Good answer")
    await good.wait_for()
    await watched.page.evaluate("document.getElementById('hone').dataset.honeToken = 'a.b'")
    await good.nth(1).wait_for()
