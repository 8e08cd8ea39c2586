"""The operator's story in a real Chromium: read the evidence, approve, watch the canary, promote, roll back."""

from collections.abc import AsyncIterator
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from playwright.async_api import Browser

from feedback import adapters, experiments, looks, submissions
from feedback.adapters import Adapter
from feedback.completions import insert_many
from feedback.database import Database
from feedback.experiments import CANDIDATE_ARM, CHAMPION_ARM
from monitoring.outcomes import UnitOutcome
from monitoring.verdict import ExperimentPolicy, decide
from tests.browser_fixture import accessibility_troubles
from tests.builders import PROJECT, a_completion
from tests.monitoring.consoles import RunningConsole, a_history, a_worker, picture, running_console

PATHS = (
    "/",
    "/decide",
    "/decide/canaries",
    "/model",
    "/model/support@2",
    "/model/compare",
    "/playground",
    "/feedback",
    "/review",
    "/training",
    "/alerts",
    "/settings",
    "/settings/policy",
    "/settings/audit",
    "/settings/erasures",
)


@pytest.fixture
async def candidate(database: Database) -> Adapter:
    return await a_history(database)


@pytest.fixture
async def console(database: Database, database_url: str, candidate: Adapter) -> AsyncIterator[RunningConsole]:
    async with running_console(database, database_url) as console, a_worker(database):
        yield console


async def people_like_it(database: Database, candidate: Adapter) -> None:
    """Traffic on both arms of the running split, and the verdict a worker would write."""
    chance = Random(3)
    async with database.begin() as connection:
        split = await experiments.of_model(connection, PROJECT, "support")
        assert split is not None
        rows, units = [], []
        for number in range(240):
            arm = split.arm(CANDIDATE_ARM if number % 2 else CHAMPION_ARM)
            version = await adapters.by_id(connection, arm.adapter_id)
            one = a_completion(
                adapter_id=arm.adapter_id,
                version=version.version,
                experiment_id=split.experiment_id,
                arm=arm.arm,
                propensity=0.5,
                rater=f"canary-{number}",
                unit=f"canary-{number}",
                created_at=datetime.now(UTC) - timedelta(seconds=30 * (240 - number)),
            )
            up = chance.random() < (0.97 if arm.arm == CANDIDATE_ARM else 0.35)
            rows.append((one, up))
            units.append(
                UnitOutcome(
                    one.unit,
                    arm.arm,
                    1,
                    ups=int(up),
                    downs=int(not up),
                    propensity=0.5,
                    met_at=one.created_at,
                )
            )
        await insert_many(connection, [one for one, _ in rows])
        for one, up in rows:
            given = submissions.submission(
                project=PROJECT, completion_id=one.completion_id, rater=one.unit, kind="rating", value=up
            )
            await submissions.store(connection, given)
        rules = ExperimentPolicy(weights={CHAMPION_ARM: 0.5, CANDIDATE_ARM: 0.5})
        for met in range(60, len(units), 12):
            if met in (120, 180):
                step = split.step + 1
                split = await experiments.widen(
                    connection, split, step=step, share=(0.05, 0.1)[step - 1], by="hone"
                )
            seen = asdict(decide(units[:met], rules))
            await looks.keep(connection, split, seen, at=units[met].met_at)
        await experiments.store_verdict(connection, split, asdict(decide(units, rules)))


async def state_of(database: Database, reference: str) -> str:
    async with database.begin() as connection:
        return (await adapters.get(connection, PROJECT, reference)).state


async def test_an_operator_approves_watches_promotes_and_rolls_back(
    browser: Browser, console: RunningConsole, database: Database, candidate: Adapter
) -> None:
    watched = await console.sign_in(browser, viewport={"width": 1280, "height": 860})
    page = watched.page
    await page.get_by_text("Healthy.").wait_for()
    await picture(page, "console-home")
    await page.get_by_role("link", name="Read the evidence and decide").click()
    await page.get_by_text("the candidate won 18 and lost 3").wait_for()
    await page.get_by_text("Answers to read: 0 broken, 4 fixed of 4").wait_for()
    await picture(page, "console-evidence")

    await page.get_by_role("link", name="Approve").click()
    await page.get_by_text("may meet traffic").wait_for()
    await page.get_by_label("Why").fill("fixes the deadline")
    await page.get_by_role("button", name="Approve support@2").click()
    await page.get_by_text("Approved. It gets no traffic").wait_for()
    assert await state_of(database, "support@2") == "approved"

    await page.get_by_role("link", name="Start the canary").click()
    await page.get_by_role("button", name="Start the canary of support@2").click()
    await page.get_by_role("heading", name="Canary: support@2").wait_for()
    assert await state_of(database, "support@2") == "canary"
    await page.get_by_text("No verdict yet").wait_for()
    await people_like_it(database, candidate)
    # Nobody loads the page again: it hears that there is a verdict.
    await page.get_by_text("Candidate is better than champion").wait_for()
    await page.get_by_role("img", name="support@2's net approval less the champion's").wait_for()
    await picture(page, "console-canary")

    await page.get_by_role("link", name="Promote").click()
    await page.get_by_text("answers every new request, at once").wait_for()
    await page.get_by_role("button", name="Promote support@2").click()
    await page.get_by_text("Promoted. It answers every new request.").wait_for()
    assert await state_of(database, "support@2") == "champion"

    await page.get_by_role("link", name="Roll back to support@1").click()
    await page.get_by_text("support@2 is retired. It can be put back").wait_for()
    await page.get_by_role("button", name="Roll back to support@1").click()
    await page.get_by_text("Rolled back.").wait_for()
    assert await state_of(database, "support@1") == "champion"
    await page.get_by_text("fixes the deadline").wait_for()
    assert (watched.errors, watched.dialogs) == ([], [])
    assert all(one.url.startswith((console.url, "data:")) for one in watched.requests)


async def test_a_candidate_is_rejected_only_with_a_reason_and_for_good(
    browser: Browser, console: RunningConsole, database: Database
) -> None:
    page = (await console.sign_in(browser)).page
    await console.open(page, "/decide/reject/support@2")
    await page.get_by_role("button", name="Reject support@2").click()
    assert await page.get_by_label("Why").evaluate("one => one.validity.valueMissing")
    await page.get_by_label("Why").fill("it forgets Malta")
    await page.get_by_role("button", name="Reject support@2").click()
    await page.get_by_text("Rejected. It stays out.").wait_for()
    assert await state_of(database, "support@2") == "rejected"
    await page.get_by_text("Nothing waits for you.").wait_for()


async def test_a_button_that_somebody_else_made_pointless_says_so(
    browser: Browser, console: RunningConsole, database: Database
) -> None:
    first, second = [(await console.sign_in(browser)).page for _ in range(2)]
    for page in (first, second):
        await console.open(page, "/decide/approve/support@2")
    for page in (first, second):
        await page.get_by_role("button", name="Approve support@2").click()
    await second.get_by_text("is 'approved'; 'approve' needs it to be 'candidate'").wait_for()


async def test_an_open_page_shows_what_changed_and_leaves_what_is_being_written(
    browser: Browser, console: RunningConsole, database: Database, candidate: Adapter
) -> None:
    page = (await console.sign_in(browser)).page
    await console.open(page, "/model")
    async with database.begin() as connection:
        await adapters.move(connection, candidate, "approve", by="ada")
    await page.locator(".badge", has_text="approved").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1280])
async def test_everyone_can_use_every_page(
    browser: Browser, console: RunningConsole, width: int, scheme: str
) -> None:
    viewport = {"width": width, "height": 800}
    watched = await console.sign_in(browser, key=console.admin, viewport=viewport, color_scheme=scheme)
    page, troubles = watched.page, []
    for path in PATHS:
        await console.open(page, path)
        troubles += [f"{path}: {one}" for one in await accessibility_troubles(page)]
        if await page.evaluate("document.documentElement.scrollWidth > innerWidth"):
            troubles.append(f"{path}: wider than the screen")
        size = await page.evaluate("performance.getEntriesByType('navigation')[0].transferSize")
        assets = await page.evaluate(
            "performance.getEntriesByType('resource').reduce((sum, one) => sum + one.decodedBodySize, 0)"
        )
        if size + assets > 200_000:
            troubles.append(f"{path}: {size + assets} bytes")
        if (width, scheme, path) == (360, "dark", "/decide"):
            await picture(page, "console-decide-360-dark")
    assert troubles == []
    assert watched.errors == []


async def test_the_pages_are_reached_with_the_keyboard_alone(
    browser: Browser, console: RunningConsole
) -> None:
    page = (await console.sign_in(browser)).page
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.textContent") == "Skip to the page"
    await page.keyboard.press("d")
    await page.get_by_role("heading", name="Decide", exact=True).wait_for()
