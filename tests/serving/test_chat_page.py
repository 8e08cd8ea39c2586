"""The chat page in a real Chromium: asking, rating, and answers that would like to be markup."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page
from sqlalchemy import text

from feedback.database import Database
from tests.browser_fixture import Watched, accessibility_troubles, watched_page
from tests.fakes import Behaviour, FakeEngine, answer_well, die_after, fake_engine
from tests.injection import CORPUS, MARK
from tests.serving.running import Running, running_gateway


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


async def open_chat(browser: Browser, gateway: Running, **options: object) -> Watched:
    """The chat page with the key given."""
    watched = await watched_page(browser, **options)
    await watched.page.goto(f"{gateway.url}/chat")
    await watched.page.get_by_label("API key").fill(gateway.key)
    await watched.page.get_by_role("button", name="Use this key").click()
    await watched.page.get_by_label("Model", exact=True).locator("option").first.wait_for(state="attached")
    return watched


async def say(page: Page, words: str) -> None:
    await page.get_by_label("Your message").fill(words)
    await page.keyboard.press("Enter")


async def wait_for_answer(page: Page, number: int = 1) -> None:
    answers = page.locator("article.assistant:not([aria-busy])")
    await answers.nth(number - 1).get_by_role("button", name="Good answer").wait_for()


def engine_says(engine: FakeEngine, behaviour: Behaviour) -> None:
    engine.behave = behaviour


async def test_a_person_asks_reads_and_rates(
    browser: Browser, gateway: Running, engine: FakeEngine, database: Database
) -> None:
    watched = await open_chat(browser, gateway)
    page = watched.page
    await say(page, "How long may I return a lamp?")
    await wait_for_answer(page)
    assert await page.locator("article.assistant .words").inner_text() == "Within 30 days."
    assert await page.locator("article.assistant .from").inner_text() == "support@0"
    await page.get_by_role("button", name="Good answer").click()
    await page.get_by_role("status").filter(has_text="saved").wait_for()
    [row] = await gateway.rows(1)
    async with database.begin() as connection:
        voted = await connection.scalar(text("SELECT completion_id FROM feedback WHERE effective"))
    assert voted == row["completion_id"]
    assert row["session"] is not None
    await say(page, "And a kettle?")
    await wait_for_answer(page, 2)
    roles = [message["role"] for message in engine.asked[-1].body["messages"]]
    assert roles == ["user", "assistant", "user"]
    assert watched.errors == []
    assert all(one.url.startswith(gateway.url) or one.url == "data:," for one in watched.requests)


@pytest.mark.parametrize("ticked", [False, True])
async def test_an_answer_may_be_learned_from_only_where_the_person_says_so(
    browser: Browser, gateway: Running, ticked: bool
) -> None:
    page = (await open_chat(browser, gateway)).page
    await page.get_by_label("The model may learn from this conversation").set_checked(ticked)
    await say(page, "How long?")
    await wait_for_answer(page)
    assert [row["consent"] for row in await gateway.rows(1)] == [ticked]


async def test_a_reload_keeps_conversation_and_key_and_a_new_tab_has_neither(
    browser: Browser, gateway: Running
) -> None:
    page = (await open_chat(browser, gateway)).page
    await say(page, "How long?")
    await wait_for_answer(page)
    await page.reload()
    await wait_for_answer(page)
    assert await page.locator("article").count() == 2
    stored = await page.evaluate("[localStorage.length, document.cookie]")
    assert stored == [0, ""]
    other = await page.context.new_page()
    await other.goto(f"{gateway.url}/chat")
    await other.get_by_label("API key").wait_for()
    assert await other.locator("article").count() == 0


async def test_a_wrong_key_is_said_and_asked_for_again(browser: Browser, gateway: Running) -> None:
    page = (await watched_page(browser)).page
    await page.goto(f"{gateway.url}/chat")
    await page.get_by_label("API key").fill("hk_wrong")
    await page.get_by_role("button", name="Use this key").click()
    await page.get_by_text("The API key 'hk_wron...' does not work here").wait_for()
    assert await page.get_by_label("API key").is_visible()


async def test_an_answer_that_breaks_off_keeps_its_words_and_can_be_asked_again(
    browser: Browser, gateway: Running, engine: FakeEngine
) -> None:
    page = (await open_chat(browser, gateway)).page
    engine_says(engine, die_after(2))
    await say(page, "How long?")
    await page.locator(".trouble").wait_for()
    engine_says(engine, answer_well())
    await page.get_by_role("button", name="Ask again").click()
    await wait_for_answer(page)
    assert await page.locator("article.assistant").count() == 1


async def test_a_long_answer_can_be_stopped(browser: Browser, gateway: Running, engine: FakeEngine) -> None:
    page = (await open_chat(browser, gateway)).page
    engine_says(engine, answer_well(tuple(f"word{number} " for number in range(500)), gap_seconds=0.05))
    await say(page, "Tell me everything")
    await page.locator(".words", has_text="word2").wait_for()
    await page.get_by_role("button", name="Stop").click()
    await wait_for_answer(page)
    assert engine.aborted == 1


async def test_a_new_conversation_has_no_word_of_the_one_that_was_left(
    browser: Browser, gateway: Running, engine: FakeEngine
) -> None:
    page = (await open_chat(browser, gateway)).page
    engine_says(engine, answer_well(tuple(f"secret{number} " for number in range(500)), gap_seconds=0.05))
    await say(page, "Tell me everything")
    await page.locator(".words", has_text="secret2").wait_for()
    await page.get_by_role("button", name="New").click()
    engine_says(engine, answer_well())
    await say(page, "Hello")
    await wait_for_answer(page)
    assert engine.asked[-1].body["messages"] == [{"role": "user", "content": "Hello"}]
    assert await page.locator("article").count() == 2


async def test_an_answer_that_would_be_markup_stays_text(
    browser: Browser, gateway: Running, engine: FakeEngine
) -> None:
    watched = await open_chat(browser, gateway)
    page = watched.page
    for number, attack in enumerate(CORPUS, start=1):
        engine_says(engine, answer_well((attack,)))
        await say(page, attack)
        await wait_for_answer(page, number)
    assert await page.locator("article.assistant .words").all_text_contents() == list(CORPUS)
    assert await page.evaluate(f"window.{MARK}") is None
    assert await page.locator("article :is(img, script, iframe, a, b, meta, base)").count() == 0
    assert (watched.dialogs, watched.errors) == ([], [])


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
async def test_everyone_can_use_the_chat(browser: Browser, gateway: Running, width: int, scheme: str) -> None:
    viewport = {"width": width, "height": 740}
    watched = await open_chat(browser, gateway, viewport=viewport, color_scheme=scheme)
    page = watched.page
    await say(page, "How long may I return a lamp, and what about a kettle that I have already used twice?")
    await wait_for_answer(page)
    await page.get_by_role("button", name="Comment or correct").click()
    assert await accessibility_troubles(page) == []
    assert await page.evaluate("document.documentElement.scrollWidth <= innerWidth")


async def test_the_page_allows_only_what_it_holds(gateway: Running) -> None:
    page = await gateway.client.get("/chat")
    policy = page.headers["content-security-policy"]
    assert "unsafe" not in policy and "default-src 'none'" in policy
    assert gateway.key not in page.text
