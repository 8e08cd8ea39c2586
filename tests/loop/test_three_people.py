"""The three people's stories in a real Chromium, on a whole service: an application embeds thumbs, a customer asks and
rates there, an operator sees it, trains, reads the evidence, approves, watches the canary, promotes and rolls back.

The model, the training, the gate and the verdict are real. `PICTURES=docs/images` makes the pictures of
`docs/the-loop-in-pictures.md` again.
"""

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from itertools import islice
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Browser, Page

from deploy.demo.people import crowd, visits
from deploy.demo.service import RunningService
from deploy.demo.story import Plan
from deploy.demo.traffic import Traffic
from tests.browser_fixture import Watched, accessibility_troubles, watched_page
from tests.house import tree
from tests.loop.service import Service, running_service
from tests.ports import free_port

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1800)]

PICTURES = os.environ.get("PICTURES")
"""Folder to write the documentation's pictures to; without it none is made."""
PLAN = Plan(seed=5)
AT_ONCE = 24
PATIENCE = 900_000
"""Milliseconds that a training run may take, with its evaluation, on a machine with other things to do."""
QUESTIONS = (
    "How long do I have to return a lamp?",
    "Can I send back a kettle?",
    "Until when can I return my tent?",
    "How many days do I have to return the scooter?",
    "Is it too late to send a blender back?",
)


@pytest.fixture(scope="module")
def shop(shop_model: Path) -> Iterator[Service]:
    """`hone up` on the demonstration model, with a record of its own."""
    with running_service(shop_model.parent / "three-people", "--model", str(shop_model)) as service:
        yield service


@asynccontextmanager
async def the_application(shop: Service, port: int) -> AsyncIterator[str]:
    """The example application in a process of its own; gives its address."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(tree.ROOT / "examples/help_page.py"), str(port)),
        env={**os.environ, "OPENAI_BASE_URL": f"{shop.base_url}/v1", "OPENAI_API_KEY": shop.key},
    )
    url = f"http://127.0.0.1:{port}"
    try:
        async with httpx.AsyncClient() as client:
            while True:
                try:
                    await client.get(url)
                    break
                except httpx.TransportError:
                    assert process.returncode is None, "the application ended"
                    await asyncio.sleep(0.1)
        yield url
    finally:
        process.terminate()
        await process.wait()


class Operator:
    """Somebody at the console."""

    def __init__(self, url: str, watched: Watched) -> None:
        self.url, self.watched, self.page = url, watched, watched.page

    @classmethod
    async def at(cls, browser: Browser, shop: Service) -> "Operator":
        """Sign in with the key that `hone up` left."""
        url = json.loads((shop.state_dir / "service.json").read_text())["console_url"]
        one = cls(url, await watched_page(browser, viewport={"width": 1280, "height": 860}))
        one.page.set_default_timeout(60_000)
        await one.open("/sign-in")
        await one.page.get_by_label("Key").fill(shop.key)
        await one.click("Sign in")
        await one.page.get_by_role("navigation", name="Pages").wait_for()
        return one

    async def open(self, path: str) -> None:
        await self.page.goto(f"{self.url}{path}")

    async def click(self, button: str) -> None:
        await self.page.get_by_role("button", name=button, exact=True).click()

    async def follow(self, link: str) -> None:
        await self.page.get_by_role("link", name=link).first.click()

    async def sees(self, text: str, *, patience: float = 60_000) -> None:
        await self.page.get_by_text(text).first.wait_for(timeout=patience)

    async def decide(self, button: str, *, why: str, seen: str) -> None:
        """Give a reason, press, and read that it is done."""
        await self.page.get_by_label("Why").fill(why)
        await self.click(button)
        await self.sees(seen)


class Customer:
    """Somebody with the application's help page before them."""

    def __init__(self, watched: Watched) -> None:
        self.watched, self.page = watched, watched.page

    @classmethod
    async def at(cls, browser: Browser, url: str) -> "Customer":
        one = cls(await watched_page(browser, viewport={"width": 760, "height": 620}))
        one.page.set_default_timeout(60_000)
        await one.page.goto(url)
        return one

    async def ask(self, question: str) -> str:
        before = await self.page.locator("article").count()
        await self.page.get_by_label("Your question").fill(question)
        await self.page.get_by_role("button", name="Ask").click()
        await self.page.locator("article").nth(before).wait_for()
        return await self.page.locator("article p").first.inner_text()

    async def hears_of(self, days: str) -> int:
        """In how many answers of all the questions about returns."""
        return sum([days in await self.ask(question) for question in QUESTIONS])

    async def corrects(self, answer: str) -> None:
        """Thumb down, and write what would have been right."""
        shown = self.page.locator("article").first
        await shown.get_by_role("button", name="Bad answer").click()
        await shown.get_by_role("status").filter(has_text="saved").wait_for()
        await shown.get_by_role("button", name="Comment or correct").click()
        await shown.get_by_label("The right answer").fill(answer)
        await shown.get_by_role("button", name="Send").click()
        await shown.get_by_role("status").filter(has_text="that is saved").wait_for()


async def picture(page: Page, name: str, troubles: list[str]) -> None:
    """What a person sees here, for the documentation, and what would keep somebody from using it."""
    troubles += [f"{name}: {one}" for one in await accessibility_troubles(page)]
    if PICTURES:
        await page.screenshot(path=Path(PICTURES) / f"story-{name}.png")


async def test_three_people_close_the_loop(browser: Browser, shop: Service) -> None:
    port, troubles = free_port(), list[str]()
    async with (
        the_application(shop, port) as url,
        RunningService.connect(shop.base_url, shop.key, "support") as service,
    ):
        policy = PLAN.policy()
        # The operator presses the button; nothing trains by itself.
        policy["training"]["enabled"] = False
        await service.change_policy({**policy, "feedback": {"allowed_origins": [url]}})
        customer, operator = await Customer.at(browser, url), await Operator.at(browser, shop)

        assert "30 days" in await customer.ask(QUESTIONS[0])
        await customer.corrects("You can return the lamp within 14 days of delivery.")
        await picture(customer.page, "customer", troubles)
        await _sees_what_was_said(operator, troubles)

        await _others_rate(service)
        await _train(operator, troubles)
        await _approve(operator, troubles)
        await _watch_the_canary(operator, service, troubles)

        await operator.follow("Promote")
        await operator.decide("Promote support@1", why="people like it better", seen="Promoted.")
        await _until_it_answers(service, "support@1")
        assert await customer.hears_of("14 days") >= 3
        await picture(customer.page, "after", troubles)

        await operator.follow("Roll back to support@0")
        await operator.decide("Roll back to support@0", why="only to show it", seen="Rolled back.")
        await picture(operator.page, "rollback", troubles)
        await _until_it_answers(service, "support@0")
        assert await customer.hears_of("30 days") >= 4
    assert troubles == []
    assert (customer.watched.errors, operator.watched.errors) == ([], [])


async def _sees_what_was_said(operator: Operator, troubles: list[str]) -> None:
    await operator.open("/feedback")
    await operator.page.get_by_role("row").filter(has_text=QUESTIONS[0]).get_by_role("link").click()
    await operator.sees("You can return the lamp within 14 days of delivery.")
    await picture(operator.page, "feedback", troubles)


async def _others_rate(service: RunningService) -> None:
    """Everybody else who uses the application."""
    traffic = Traffic(service, PLAN.seed, lambda *_: None)
    people = visits(crowd(PLAN.seed, 3000), PLAN.seed)
    while traffic.feedback < PLAN.feedback:
        await traffic.send(islice(people, AT_ONCE))


async def _train(operator: Operator, troubles: list[str]) -> None:
    await operator.open("/training")
    await operator.click("Train now")
    await operator.follow("It became a run.")
    judged = operator.page.locator(".badge").filter(has_text=re.compile("^(candidate|rejected|failed)$"))
    await judged.first.wait_for(timeout=PATIENCE)
    await picture(operator.page, "run", troubles)
    assert await judged.first.inner_text() == "candidate", await operator.page.locator("main").inner_text()


async def _approve(operator: Operator, troubles: list[str]) -> None:
    await operator.open("/decide")
    await operator.sees("fixed of")
    await picture(operator.page, "evidence", troubles)
    await operator.follow("Approve")
    await operator.decide("Approve support@1", why="it knows the new deadline", seen="Approved.")
    await operator.follow("Start the canary")
    await operator.click("Start the canary of support@1")
    await operator.page.get_by_role("heading", name="Canary: support@1").wait_for()


async def _watch_the_canary(operator: Operator, service: RunningService, troubles: list[str]) -> None:
    """Other people use both versions; the open page says by itself when there is a verdict."""
    traffic, seed = Traffic(service, PLAN.seed, lambda *_: None), PLAN.seed + 1_000_000
    people = visits(crowd(seed, PLAN.canary_questions_max), seed)
    heading = operator.page.get_by_role("heading", name="Canary: support@1")
    card = operator.page.locator("section").filter(has=heading)
    better = card.get_by_text("Candidate is better than champion").first
    while not await better.is_visible():
        batch = tuple(islice(people, AT_ONCE))
        assert batch, f"no verdict after {traffic}"
        await traffic.send(batch)
    await picture(operator.page, "canary", troubles)


async def _until_it_answers(service: RunningService, version: str) -> None:
    """A decision reaches the gateway within a moment."""
    async with asyncio.timeout(30):
        while (await service.ask("Hello!", rater="examiner", consent=False)).version != version:
            await asyncio.sleep(0.1)
