"""A rollout of two candidates on the operator's page: started, read, judged apart, one taken back, one promoted."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping

import pytest
from playwright.async_api import Browser, Page
from sqlalchemy import text

from feedback import adapters, experiments, shipping, submissions
from feedback.completions import insert_many
from feedback.database import Database
from feedback.policy import ModelPolicy, RolloutPolicy
from retrain import rollout
from serving.routing import draw
from serving.routing_table import load_table
from tests.browser_fixture import accessibility_troubles
from tests.builders import PROJECT, a_completion, a_model
from tests.injection import CORPUS, MARK
from tests.monitoring.consoles import (
    RunningConsole,
    a_history,
    a_trained_version,
    a_worker,
    picture,
    running_console,
)

POLICY = ModelPolicy(rollout=RolloutPolicy(steps=(0.4, 0.5), units_min=20, rated_units_min=10))
NAMES = ("support@2", "support@3")


@pytest.fixture
async def console(database: Database, database_url: str) -> AsyncIterator[RunningConsole]:
    async with database.begin() as connection:
        await a_model(connection, policy=POLICY)
    await a_history(database, people=4)
    async with database.begin() as connection:
        await a_trained_version(connection)
        for name in NAMES:
            await shipping.approve(connection, PROJECT, name, by="ada")
    async with running_console(database, database_url) as console, a_worker(database):
        yield console


async def started(page: Page, console: RunningConsole) -> None:
    """Both canaries, started as an operator starts them."""
    await console.open(page, "/decide")
    await page.get_by_role("link", name="Let them meet traffic at once").click()
    await page.get_by_text("Together they answer 40% of people").wait_for()
    await page.get_by_role("button", name="Start these canaries").click()
    await page.get_by_text("The canaries have started").wait_for()


async def people_ask(database: Database, likes: Mapping[str, float], people: range, words: str = "") -> None:
    """Everybody asks once, of the arm that routing gives them; `likes` is the share of each arm's that is voted up.

    Of every forty requests of an arm one fails by its model and one by its engine.
    """
    split = (await load_table(database, [])).models[PROJECT, "support"].experiment
    assert split is not None
    asked, said, of_arm = [], [], Counter[str]()
    for number in people:
        drawn = draw(split, f"person-{number}")
        assert drawn is not None
        fault = {0: "model", 1: "infrastructure"}.get(of_arm[drawn.arm.arm] % 40)
        of_arm[drawn.arm.arm] += 1
        one = a_completion(
            unit=f"person-{number}",
            rater=f"person-{number}",
            experiment_id=split.experiment_id,
            arm=drawn.arm.arm,
            propensity=drawn.propensity,
            allocation=drawn.allocation,
            status="error" if fault else "ok",
            error=words or ("it broke" if fault else None),
            error_class=fault,
        )
        asked.append(one)
        if not fault:
            up = number % 100 < 100 * likes[drawn.arm.arm]
            said.append(
                submissions.submission(
                    project=PROJECT, completion_id=one.completion_id, rater=one.unit, kind="rating", value=up
                )
            )
    async with database.begin() as connection:
        await insert_many(connection, asked)
        await submissions.store_all(connection, said)


async def looked_at(database: Database) -> None:
    """The worker looks once, a minute after it looked last."""
    async with database.begin() as connection:
        await connection.execute(text("UPDATE verdict_looks SET minute = minute - interval '1 minute'"))
    await rollout.tick(database)


LIKED = {"champion": 0.5, "candidate": 0.9, "candidate-2": 0.5}


async def test_every_arm_is_shown_with_its_share_its_people_its_failures_and_its_verdict(
    browser: Browser, console: RunningConsole, database: Database
) -> None:
    watched = await console.sign_in(browser, viewport={"width": 1280, "height": 1300})
    page = watched.page
    await started(page, console)
    for people in (range(300), range(300, 600)):
        await people_ask(database, LIKED, people)
        await looked_at(database)
    async with database.begin() as connection:
        split = await experiments.of_model(connection, PROJECT, "support")
    assert split is not None and split.verdict is not None and len(split.candidates) == 2
    await console.open(page, "/decide")
    await page.get_by_role("heading", name="Canaries: support@2, support@3").wait_for()
    await page.get_by_role("heading", name="Every arm now").wait_for()
    rows = page.get_by_role("region", name="Every arm now").locator("tbody tr")
    counted = {one["arm"]: one for one in split.verdict["arms"]}
    for row, name, arm in zip(await rows.all(), ("support@1", *NAMES), split_order(split), strict=True):
        said = await row.inner_text()
        assert said.startswith(name)
        assert f"{split.arm(arm).weight:.1%}" in said and f"{counted[arm]['rated_units']} voted" in said
        assert "the model" in said and "engine or network" in said
        if arm != "champion":
            numbers = split.verdict["candidates"][arm]
            assert f"{100 * numbers['low']:+.1f}".replace("-", "\u2212") in said
            await page.get_by_text(numbers["sentence"]).first.wait_for()
            await page.get_by_role("img", name=f"{name}'s net approval less the champion's").wait_for()
    assert await page.get_by_text("support@2 better").count() == 1
    await picture(page, "console-arms")
    assert (watched.errors, watched.dialogs) == ([], [])


def split_order(split: experiments.Experiment) -> list[str]:
    return ["champion", *(arm.arm for arm in split.candidates)]


async def test_one_canary_is_taken_back_while_the_other_goes_on_and_is_promoted(
    browser: Browser, console: RunningConsole, database: Database
) -> None:
    page = (await console.sign_in(browser)).page
    await started(page, console)
    await page.get_by_role("link", name="Take back support@3").click()
    await page.get_by_text("The rollout of support@2 goes on.").wait_for()
    await page.get_by_label("Why").fill("it forgets Malta")
    await page.get_by_role("button", name="End the canary of support@3").click()
    await page.get_by_text("support@3 is a candidate again").wait_for(state="detached")
    await page.get_by_role("heading", name="Canaries: support@2", exact=True).wait_for()
    row = page.get_by_role("region", name="Every arm now").locator("tr", has_text="support@3")
    await row.get_by_text("taken back").wait_for()
    await page.get_by_text("it forgets Malta").first.wait_for()
    await page.get_by_role("link", name="Promote support@2").click()
    await page.get_by_role("button", name="Promote support@2").click()
    await page.get_by_text("Promoted. It answers every new request.").wait_for()
    async with database.begin() as connection:
        states = [(await adapters.get(connection, PROJECT, name)).state for name in NAMES]
    assert states == ["champion", "candidate"]


async def test_ending_all_canaries_says_so_of_all(
    browser: Browser, console: RunningConsole, database: Database
) -> None:
    page = (await console.sign_in(browser)).page
    await started(page, console)
    await page.get_by_role("link", name="Abort all").click()
    await page.get_by_text("support@2 and support@3 are candidates again").wait_for()
    await page.get_by_role("button", name="End the canary of support@2, support@3").click()
    await page.get_by_text("The canary is ended.").wait_for()
    async with database.begin() as connection:
        assert await experiments.of_model(connection, PROJECT, "support") is None


async def test_canaries_that_cannot_start_say_why_and_none_starts(
    browser: Browser, console: RunningConsole, database: Database
) -> None:
    page = (await console.sign_in(browser)).page
    await console.open(page, "/decide/canaries")
    for name in NAMES:
        await page.get_by_label(name).uncheck()
    await page.get_by_role("button", name="Start these canaries").click()
    await page.get_by_role("alert").filter(has_text="0 candidates were named").wait_for()
    async with database.begin() as connection:
        assert await experiments.of_model(connection, PROJECT, "support") is None


@pytest.mark.parametrize(("width", "scheme"), [(360, "dark"), (1280, "light")])
async def test_everyone_can_read_two_candidates_and_what_broke_executes_nothing(
    browser: Browser, console: RunningConsole, database: Database, width: int, scheme: str
) -> None:
    viewport = {"width": width, "height": 900}
    watched = await console.sign_in(browser, viewport=viewport, color_scheme=scheme)
    page = watched.page
    await console.open(page, "/decide/canaries")
    troubles = await accessibility_troubles(page)
    await page.get_by_role("button", name="Start these canaries").click()
    await page.get_by_text("The canaries have started").wait_for()
    for people in (range(300), range(300, 600)):
        await people_ask(database, LIKED, people, "\n".join(CORPUS))
        await looked_at(database)
    async with database.begin() as connection:
        await shipping.abort(
            connection, PROJECT, "support", only=NAMES[1], by=CORPUS[0], reason="\n".join(CORPUS)
        )
    await console.open(page, "/decide")
    await page.get_by_role("img", name="support@2's net approval").wait_for()
    await page.get_by_text(CORPUS[0]).first.wait_for()
    assert await page.evaluate(f"window.{MARK}") is None
    troubles += await accessibility_troubles(page)
    assert not await page.evaluate("document.documentElement.scrollWidth > innerWidth")
    assert troubles == []
    assert (watched.errors, watched.dialogs) == ([], [])
