"""Training from the browser: datasets and searches are asked for with the words, checks and rows that commands have."""

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser
from sqlalchemy import text

from feedback import audit, datasets, run_requests, searches
from feedback.database import Database
from feedback.run_requests import RunRequest
from tests.browser_fixture import accessibility_troubles
from tests.builders import PROJECT
from tests.injection import CORPUS, MARK
from tests.monitoring.consoles import RunningConsole, a_history, a_worker, running_console
from tests.monitoring.test_console_guards import signed_in, token

FOUND = {"method": "sft", "learning_rate": 0.0007, "epochs": 3.0, "beta": None, "rank": 8, "alpha": 16}


@pytest.fixture
async def console(database: Database, database_url: str) -> AsyncIterator[RunningConsole]:
    await a_history(database, people=4)
    async with running_console(database, database_url) as console, a_worker(database):
        yield console


async def asked(database: Database) -> RunRequest:
    async with database.begin() as connection:
        return (await run_requests.waiting(connection))[-1]


async def a_trial(database: Database, search_id: str, number: int, *, words: str = "") -> None:
    async with database.begin() as connection:
        dataset = (await datasets.in_project(connection, PROJECT))[0]
        await searches.add_trial(
            connection,
            search_id=search_id,
            number=number,
            project=PROJECT,
            model="support",
            dataset_id=dataset.dataset_id,
            recipe=FOUND | ({"learning_rate": words} if words else {}),
            recipe_hash="r" * 64,
            status="complete",
            loss=0.5 + number / 10,
            detail={},
            duration_seconds=3.0,
        )


async def test_a_dataset_is_made_from_the_page_and_read_there(
    browser: Browser, console: RunningConsole, database: Database
) -> None:
    page = (await console.sign_in(browser)).page
    await console.open(page, "/training")
    await page.get_by_role("button", name="Make a dataset").click()
    await page.get_by_role("status").filter(has_text="Asked. The dataset appears here").wait_for()
    request = await asked(database)
    assert (request.kind, request.method) == ("dataset", None)
    async with database.begin() as connection:
        told = (await audit.entries(connection, PROJECT, subject="support"))[0]
        made = (await datasets.in_project(connection, PROJECT))[0]
        await run_requests.answer(connection, request.request_id, dataset_id=made.dataset_id)
    assert (told.action, told.detail["kind"], told.actor[:4]) == ("run.request", "dataset", "key:")
    # Nobody loads the page again: it hears that the worker has answered.
    await page.get_by_role("link", name="The rows are frozen.").click()
    await page.get_by_role("heading", name="Dataset", exact=True).wait_for()
    await page.get_by_text(f"hone dataset export {made.dataset_id}").wait_for()


async def test_a_search_is_started_watched_ended_and_trained_with(
    browser: Browser, console: RunningConsole, database: Database
) -> None:
    page = (await console.sign_in(browser)).page
    await console.open(page, "/training")
    await page.get_by_label("Trials").fill("3")
    await page.get_by_label("Sampler").select_option("random")
    await page.get_by_role("button", name="Search", exact=True).click()
    await page.get_by_text("Waiting until nothing is trained").wait_for()
    request = await asked(database)
    assert (request.kind, request.search) == ("search", {"trials": 3, "sampler": "random"})
    async with database.begin() as connection:
        search_id = await run_requests.begin_search(connection, request)
    await a_trial(database, search_id, 0)
    await page.get_by_text("1 of 3 trials so far").wait_for()
    await page.get_by_role("button", name="Cancel").click()
    await page.get_by_text("Cancelled on request.").wait_for()
    await page.locator("select[name=from_search]").select_option(search_id)
    await page.get_by_role("button", name="Train now").click()
    await page.get_by_role("status").filter(has_text="Asked. The run appears here").wait_for()
    run = await asked(database)
    assert (run.kind, run.method) == ("now", "sft")
    assert run.recipe == {"sft": {"learning_rate": 0.0007, "epochs": 3.0}, "rank": 8, "alpha": 16}


@pytest.mark.parametrize(
    ("path", "form", "says"),
    [
        ("search", {"trials": "many"}, "&#39;trials&#39; is &#39;many&#39;"),
        ("search", {"trials": "0"}, "expected 1 to 200"),
        ("search", {"sampler": "luck"}, "expected bayesian, random, grid"),
        ("search", {"method": "ppo"}, "expected auto, sft, dpo"),
        ("dataset", {"method": "ppo"}, "expected auto, sft, dpo"),
        ("now", {"from_search": "search-none"}, "has no search"),
        ("requests/runreq-none/cancel", {}, "has no run request"),
    ],
)
async def test_what_cannot_be_asked_for_says_so_and_leaves_no_row(
    console: RunningConsole, database: Database, path: str, form: dict[str, str], says: str
) -> None:
    async with signed_in(console, console.operator) as client:
        answer = await client.post(
            f"/training/{path}", data=form | {"csrf": await token(client), "model": "support"}
        )
    assert answer.status_code in (400, 404)
    assert says in answer.text
    async with database.begin() as connection:
        assert await run_requests.waiting(connection) == []
        assert await connection.scalar(text("SELECT count(*) FROM audit WHERE action = 'run.request'")) == 0


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
async def test_everyone_can_read_searches_and_what_they_hold_executes_nothing(
    browser: Browser, console: RunningConsole, database: Database, width: int, scheme: str
) -> None:
    words = "\n".join(CORPUS)
    await a_trial(database, CORPUS[0], 0, words=words)
    async with database.begin() as connection:
        grid = {"trials": 2, "sampler": "grid"}
        await run_requests.create(connection, PROJECT, "support", "search", search=grid, by=words)
        request = await run_requests.create(connection, PROJECT, "support", "dataset", by=words)
        await run_requests.answer(connection, request.request_id, refusal=words)
    watched = await console.sign_in(browser, viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = watched.page
    await console.open(page, "/training")
    await page.get_by_text(CORPUS[0]).first.wait_for()
    troubles = await accessibility_troubles(page)
    assert await page.evaluate(f"window.{MARK}") is None
    assert not await page.evaluate("document.documentElement.scrollWidth > innerWidth")
    await page.get_by_role("region", name="Datasets").get_by_role("link").first.click()
    await page.get_by_role("heading", name="Dataset", exact=True).wait_for()
    troubles += await accessibility_troubles(page)
    assert troubles == []
    assert (watched.errors, watched.dialogs) == ([], [])
