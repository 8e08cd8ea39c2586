"""What the console refuses: strangers, forged forms, roles past their limits, and texts that would be markup."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import unescape
from pathlib import Path

import httpx
import pytest
from playwright.async_api import Browser
from sqlalchemy import select

from feedback import adapters, audit, datasets, erasures, keys, models, review, run_requests, runs
from feedback.database import Database
from feedback.tables import completions
from feedback.watch_tables import drift_reports
from tests.builders import PROJECT
from tests.injection import CORPUS, MARK
from tests.monitoring.consoles import RunningConsole, a_history, running_console

PAGES = (
    "/",
    "/decide",
    "/decide/canaries",
    "/model",
    "/model/support@1",
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
    "/live",
)
ACTIONS = (
    "/decide/approve/support@2",
    "/decide/promote/support@2",
    "/decide/rollback/support@0",
    "/model/compare",
    "/playground",
    "/playground/rate",
    "/playground/key",
    "/decide/canaries",
    "/training/now",
    "/training/dataset",
    "/training/search",
    "/training/requests/runreq-1/cancel",
    "/training/run-1/cancel",
    "/training/run-1/pause",
    "/training/run-1/resume",
    "/alerts/silence",
    "/review/rev-1/include",
    "/settings/keys",
    "/settings/policy",
    "/settings/policy/training",
    "/settings/erasures",
    "/sign-out",
)


@pytest.fixture
async def console(database: Database, database_url: str) -> AsyncIterator[RunningConsole]:
    await a_history(database, people=4)
    async with running_console(database, database_url) as console:
        yield console


@asynccontextmanager
async def signed_in(console: RunningConsole, key: str) -> AsyncIterator[httpx.AsyncClient]:
    """A client with a session, and the session's token in `csrf`."""
    async with httpx.AsyncClient(base_url=console.url, timeout=60) as client:
        answer = await client.post("/sign-in", data={"key": key})
        assert answer.status_code == 303, answer.text
        yield client


async def token(client: httpx.AsyncClient) -> str:
    page = (await client.get("/settings")).text
    return page.split('name="csrf" value="')[1].split('"')[0]


async def test_a_stranger_sees_nothing_and_is_asked_for_a_key(console: RunningConsole) -> None:
    async with httpx.AsyncClient(base_url=console.url, timeout=60) as client:
        for path in PAGES:
            answer = await client.get(path)
            assert (answer.status_code, answer.headers["location"].split("?")[0]) == (303, "/sign-in"), path
            assert "support" not in answer.text
        for path in ACTIONS:
            answer = await client.post(path, data={"csrf": "x", "reason": "x"})
            assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in"), path


@pytest.mark.parametrize("key", ["", "hk_wrong", "hk_"])
async def test_a_key_that_does_not_work_opens_nothing(console: RunningConsole, key: str) -> None:
    async with httpx.AsyncClient(base_url=console.url, timeout=60) as client:
        answer = await client.post("/sign-in", data={"key": key})
    assert answer.status_code == 401
    assert "set-cookie" not in answer.headers
    assert "hone key create --role operator" in answer.text


async def test_a_key_of_an_application_cannot_sign_in(console: RunningConsole, database: Database) -> None:
    async with database.begin() as connection:
        _, key = await keys.create(connection, role="app", name="shop", by="test")
    async with httpx.AsyncClient(base_url=console.url, timeout=60) as client:
        answer = await client.post("/sign-in", data={"key": key})
    assert answer.status_code == 401
    assert "role &#39;app&#39;" in answer.text


async def test_the_cookie_is_for_this_console_only_and_never_holds_the_key(console: RunningConsole) -> None:
    async with httpx.AsyncClient(base_url=console.url, timeout=60) as client:
        answer = await client.post("/sign-in", data={"key": console.operator})
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Path=/" in cookie
    assert console.operator not in cookie


async def test_behind_tls_the_cookie_never_travels_without_it(database: Database, database_url: str) -> None:
    async with (
        running_console(database, database_url, console_behind_tls=True) as console,
        httpx.AsyncClient(base_url=console.url, timeout=60) as client,
    ):
        cookie = (await client.post("/sign-in", data={"key": console.operator})).headers["set-cookie"]
    assert cookie.startswith("__Host-") and "Secure" in cookie


@pytest.mark.parametrize("path", ACTIONS)
async def test_a_form_that_no_page_of_the_session_made_changes_nothing(
    console: RunningConsole, database: Database, path: str
) -> None:
    async with signed_in(console, console.admin) as client, signed_in(console, console.operator) as other:
        foreign = await token(other)
        for forged in ({}, {"csrf": ""}, {"csrf": foreign}, {"csrf": "é"}):
            answer = await client.post(path, data={"reason": "x", **forged})
            assert answer.status_code == 403, (path, forged)
        assert (await client.get("/")).status_code == 200
    async with database.begin() as connection:
        assert (await adapters.get(connection, PROJECT, "support@2")).state == "candidate"


@pytest.mark.parametrize("cookie", ["", "x", "x.y", "a|b|c.d", "é.é", "." * 500])
async def test_a_forged_cookie_is_no_session(console: RunningConsole, cookie: str) -> None:
    async with httpx.AsyncClient(base_url=console.url, timeout=60) as client:
        answer = await client.get("/", headers={b"cookie": f"hone_console={cookie}".encode()})
    assert answer.headers["location"] == "/sign-in"


async def test_revoking_a_key_ends_its_sessions_at_once(console: RunningConsole, database: Database) -> None:
    async with signed_in(console, console.operator) as client:
        assert (await client.get("/")).status_code == 200
        async with database.begin() as connection:
            held = next(one for one in await keys.in_project(connection, PROJECT) if one.role == "operator")
            await keys.revoke(connection, PROJECT, held.key_id, by="test")
        assert (await client.get("/")).status_code == 303


async def test_only_an_administrator_makes_and_revokes_keys(
    console: RunningConsole, database: Database
) -> None:
    async with signed_in(console, console.operator) as operator:
        csrf = await token(operator)
        page = (await operator.get("/settings")).text
        assert "Make a key" not in page
        made = await operator.post("/settings/keys", data={"csrf": csrf, "name": "mine", "role": "admin"})
        assert made.status_code == 403
    async with signed_in(console, console.admin) as admin:
        csrf = await token(admin)
        made = await admin.post(
            "/settings/keys", data={"csrf": csrf, "name": "shop", "role": "app", "days": "30"}
        )
        assert made.status_code == 200 and "hk_" in made.text
    async with database.begin() as connection:
        shop = [one for one in await keys.in_project(connection, PROJECT) if one.name == "shop"]
    assert [one.role for one in shop] == ["app"]
    assert shop[0].expires_at is not None


async def test_an_erasure_needs_an_administrator_and_the_word(
    console: RunningConsole, database: Database
) -> None:
    form = {"rater": "customer-17", "sure": "erase"}
    async with signed_in(console, console.operator) as operator:
        csrf = await token(operator)
        assert (await operator.post("/settings/erasures", data=form | {"csrf": csrf})).status_code == 403
    async with signed_in(console, console.admin) as admin:
        csrf = await token(admin)
        unsure = await admin.post("/settings/erasures", data=form | {"csrf": csrf, "sure": "yes"})
        assert unsure.status_code == 400
        assert (await admin.post("/settings/erasures", data=form | {"csrf": csrf})).status_code == 303
        page = (await admin.get("/settings/erasures")).text
        assert "A person" in page and "requested" in page and "customer-17" not in page
    async with database.begin() as connection:
        assert len(await erasures.in_project(connection, PROJECT)) == 1


async def test_a_policy_is_changed_with_the_checks_that_hold_everywhere(console: RunningConsole) -> None:
    async with signed_in(console, console.operator) as client:
        csrf = await token(client)
        form = {"csrf": csrf, "model": "support", "field": "training.fresh_feedback_min", "value": "50"}
        assert (await client.post("/settings/policy", data=form)).status_code == 303
        assert "of 50 for the next run" in (await client.get("/?model=support")).text
        wrong = await client.post("/settings/policy", data=form | {"value": "none"})
        assert wrong.status_code == 400
        assert "training.fresh_feedback_min" in wrong.text
        unknown = await client.post("/settings/policy", data=form | {"field": "no.such"})
        assert unknown.status_code == 400


async def test_another_project_is_not_there(console: RunningConsole, database: Database) -> None:
    async with database.begin() as connection:
        _, key = await keys.create(connection, role="admin", name="other", project="other", by="test")
    async with signed_in(console, key) as client:
        assert "This project has no model" in (await client.get("/?model=support")).text
        assert (await client.get("/model/support@1")).status_code == 404
        csrf = (await client.get("/settings")).text.split('name="csrf" value="')[1].split('"')[0]
        answer = await client.post("/decide/approve/support@2", data={"csrf": csrf})
        assert answer.status_code == 404


@pytest.mark.parametrize("target", ["//192.0.2.1/", "https://192.0.2.1/", "/\\192.0.2.1", "javascript:1"])
async def test_signing_in_leads_nowhere_else(console: RunningConsole, target: str) -> None:
    async with httpx.AsyncClient(base_url=console.url, timeout=60) as client:
        answer = await client.post("/sign-in", data={"key": console.operator, "next": target})
    assert answer.headers["location"] == "/"


async def test_every_answer_forbids_inline_scripts_frames_and_caches(console: RunningConsole) -> None:
    async with signed_in(console, console.operator) as client:
        for path in ("/", "/sign-in", "/no-such-page", "/model/support@99"):
            headers = (await client.get(path)).headers
            policy = headers["content-security-policy"]
            assert (
                "unsafe" not in policy
                and "default-src 'none'" in policy
                and "frame-ancestors 'none'" in policy
            )
            assert headers["cache-control"] == "no-store"
            assert headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    ("path", "status", "says"),
    [
        ("/model/support@99", 404, "has no adapter"),
        ("/model/nonsense", 400, "does not name an adapter version"),
        ("/decide/explode/support@2", 404, "There is no action"),
        ("/decide/promote/support@2", 409, "needs it to be &#39;approved or canary&#39;"),
        ("/decide/abort/support", 409, "has no canary"),
        ("/feedback?rating=sideways", 400, "expected one of"),
        ("/feedback?version=x", 400, "expected a number"),
        ("/feedback?before=yesterday", 404, "expected a time"),
        ("/feedback/chatcmpl-none", 404, "has no completion"),
        ("/training/run-none", 404, "has no run"),
        ("/training/datasets/ds-none", 404, "No dataset has the id"),
        ("/alerts/drift/drift-none", 404, "There is no page for"),
        ("/nothing", 404, "There is no such page"),
    ],
)
async def test_a_wrong_address_says_what_was_expected(
    console: RunningConsole, path: str, status: int, says: str
) -> None:
    async with signed_in(console, console.operator) as client:
        answer = await client.get(path)
    assert answer.status_code == status
    assert says in answer.text


async def test_what_people_and_models_write_executes_nothing(
    browser: Browser, database: Database, database_url: str
) -> None:
    words = "\n".join(CORPUS)
    await a_history(database, words=words, people=4)
    async with database.begin() as connection:
        await keys.create(connection, role="app", name=words, by="test")
    async with running_console(database, database_url) as console:
        watched = await console.sign_in(browser, key=console.admin)
        page = watched.page
        for path in (*PAGES[:-1], "/model/support@2", "/decide/approve/support@2"):
            await console.open(page, path)
            assert await page.evaluate(f"window.{MARK}") is None, path
        await console.open(page, "/feedback")
        await page.locator("tbody a").first.click()
        await page.get_by_role("heading", name="Why this answer").wait_for()
        assert CORPUS[0] in await page.locator("main").inner_text()
        await console.open(page, "/training")
        await page.locator("tbody a").first.click()
        await page.get_by_role("heading", name="What it did").wait_for()
        assert await page.evaluate(f"window.{MARK}") is None
        await page.get_by_role("link", name="Rows, and what was left out").click()
        await page.get_by_role("heading", name="Composition").wait_for()
        assert await page.evaluate(f"window.{MARK}") is None
        await console.open(page, "/training")
        await page.get_by_role("region", name="Datasets").get_by_role("link").first.click()
        await page.get_by_role("heading", name="Composition").wait_for()
        assert await page.evaluate(f"window.{MARK}") is None
        assert await page.locator("main :is(script, iframe, meta, base, style)").count() == 0
    assert watched.dialogs == []
    assert watched.errors == []
    assert all(one.url.startswith((console.url, "data:")) for one in watched.requests)


async def test_a_drift_page_runs_its_scripts_without_an_origin_and_leads_nowhere_else(
    browser: Browser, database: Database, database_url: str, tmp_path: Path
) -> None:
    (tmp_path / "drift").mkdir()
    script = "try { out.textContent = document.cookie } catch { out.textContent = origin }"
    (tmp_path / "drift" / "one.html").write_text(f"<p id=out>none</p><script>{script}</script>")
    await a_history(database, people=4)
    async with running_console(database, database_url, state_dir=tmp_path) as console:
        page = (await console.sign_in(browser)).page
        async with database.begin() as connection:
            await connection.execute(drift_reports.update().values(page="drift/one.html"))
        await console.open(page, "/alerts/drift/drift-1?model=support")
        assert await page.locator("#out").inner_text() == "null"
        async with database.begin() as connection:
            await connection.execute(drift_reports.update().values(page="../../../../etc/hostname"))
        await console.open(page, "/alerts/drift/drift-1?model=support")
        await page.get_by_text("There is no page for").wait_for()


async def test_a_waiting_correction_is_decided_with_the_keyboard(
    browser: Browser, console: RunningConsole, database: Database
) -> None:
    page = (await console.sign_in(browser)).page
    await console.open(page, "/review")
    await page.get_by_text("You have 14 days, by the new rule.").first.wait_for()
    await page.keyboard.press("i")
    await page.get_by_text("Nothing waits.").wait_for()
    async with database.begin() as connection:
        [one] = await review.in_project(connection, PROJECT, status="included")
    assert one.decided_by is not None and one.decided_by.startswith("key:")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("q=MALTA", 3),
        ("q=malta&rating=none", 1),
        ("q=100%25_sure", 0),
        ("rating=corrected", 2),
        ("rating=commented", 2),
        ("version=0", 0),
        ("arm=candidate", 0),
        ("status=error", 0),
        ("", 12),
    ],
)
async def test_completions_are_found_by_what_was_asked_and_said(
    console: RunningConsole, query: str, found: int
) -> None:
    async with signed_in(console, console.operator) as client:
        page = (await client.get(f"/feedback?days=30&{query}")).text
    assert page.count('<a href="/feedback/chatcmpl-') == found


async def test_a_section_of_the_policy_is_saved_at_once_or_not_at_all(
    console: RunningConsole, database: Database
) -> None:
    async with signed_in(console, console.operator) as client:
        csrf = await token(client)
        form = {"csrf": csrf, "model": "support", "value:training.raters_min": "7"}
        good = await client.post(
            "/settings/policy/training", data=form | {"value:training.fresh_feedback_min": "50"}
        )
        assert good.status_code == 303
        wrong = await client.post(
            "/settings/policy/training",
            data=form | {"value:training.raters_min": "9", "value:training.held_out_share": "<b>much</b>"},
        )
        same = await client.post("/settings/policy/training", data=form)
        unknown = await client.post("/settings/policy/nonsense", data=form)
    assert wrong.status_code == 400
    assert "training.held_out_share" in wrong.text and "&lt;b&gt;much&lt;/b&gt;" in wrong.text
    assert same.headers["location"].endswith("done=same")
    assert unknown.status_code == 404
    async with database.begin() as connection:
        policy = (await models.get(connection, PROJECT, "support")).policy.training
        told = await audit.entries(connection, PROJECT, subject="support")
    assert (policy.raters_min, policy.fresh_feedback_min, policy.held_out_share) == (7, 50, 0.2)
    assert [one.action for one in told].count("model.change_policy") == 1


async def test_a_form_that_was_open_for_long_puts_nobody_elses_change_back(
    console: RunningConsole, database: Database
) -> None:
    async with signed_in(console, console.operator) as client:
        page = (await client.get("/settings/policy")).text
        shown = dict(re.findall(r'name="was:(training\.[a-z_.]+)" value="([^"]*)"', page))
        async with database.begin() as connection:
            await models.change_policy(
                connection, PROJECT, "support", {"training": {"fresh_feedback_min": 77}}, by="bob"
            )
        form = {
            f"{entry}:{name}": unescape(value) for name, value in shown.items() for entry in ("was", "value")
        }
        form |= {"csrf": await token(client), "model": "support"}
        saved = await client.post("/settings/policy/training", data=form | {"value:training.raters_min": "7"})
        clash = await client.post(
            "/settings/policy/training", data=form | {"value:training.fresh_feedback_min": "60"}
        )
    assert saved.status_code == 303
    assert clash.status_code == 400 and "somebody else has set it to 77" in clash.text
    async with database.begin() as connection:
        policy = (await models.get(connection, PROJECT, "support")).policy.training
    assert (policy.raters_min, policy.fresh_feedback_min) == (7, 77)


async def test_the_audit_page_shows_the_newest_hash_and_what_it_cannot_see(
    console: RunningConsole, database: Database
) -> None:
    async with signed_in(console, console.operator) as client:
        page = (await client.get("/settings/audit")).text
    async with database.begin() as connection:
        assert (await audit.newest(connection))[1] in page
    assert "cut off at the end do not show here" in page


async def test_a_run_is_paused_resumed_and_cancelled_from_its_page(
    browser: Browser, console: RunningConsole, database: Database
) -> None:
    async with database.begin() as connection:
        dataset = (await datasets.in_project(connection, PROJECT))[0]
        run = await runs.create(
            connection,
            project=PROJECT,
            model="support",
            method="sft",
            recipe={},
            recipe_hash="r" * 64,
            dataset_id=dataset.dataset_id,
            by="hone",
        )
        await runs.start(connection, run.run_id)
    page = (await console.sign_in(browser)).page
    await console.open(page, f"/training/{run.run_id}")
    await page.get_by_role("button", name="Pause").click()
    await page.get_by_text("It will rest at its next checkpoint").wait_for()
    await page.get_by_role("button", name="Resume").click()
    await page.get_by_role("button", name="Pause").wait_for()
    await page.get_by_role("button", name="Cancel this run").click()
    await page.get_by_text("It is being cancelled").wait_for()
    await page.get_by_role("link", name="Rows, and what was left out").click()
    await page.get_by_role("heading", name="Composition").wait_for()


async def test_waiting_items_are_walked_with_j_and_k_and_corrected_with_c(
    browser: Browser, console: RunningConsole, database: Database
) -> None:
    async with database.begin() as connection:
        ids = (await connection.scalars(select(completions.c.completion_id).limit(2))).all()
        for number, one in enumerate(ids):
            await review.propose(
                connection,
                project=PROJECT,
                completion_id=one,
                answer=f"answer {number}",
                reason="new",
                by="judge",
            )
    page = (await console.sign_in(browser)).page
    await console.open(page, "/review")
    await page.get_by_text("1 of 3").wait_for()
    await page.keyboard.press("j")
    await page.get_by_text("2 of 3").wait_for()
    await page.keyboard.press("j")
    await page.get_by_text("3 of 3").wait_for()
    await page.keyboard.press("k")
    await page.get_by_text("2 of 3").wait_for()
    await page.keyboard.press("c")
    await page.keyboard.type(" and more jixk")
    await page.get_by_role("button", name="Train on this answer").click()
    await page.get_by_text("Kept. It can be trained on").wait_for()
    await page.get_by_text("2 of 2").wait_for()
    async with database.begin() as connection:
        [one] = await review.in_project(connection, PROJECT, status="corrected")
    assert one.answer is not None and "and more jixk" in one.answer


async def test_an_operator_corrects_a_completion_on_its_page(
    browser: Browser, console: RunningConsole, database: Database
) -> None:
    page = (await console.sign_in(browser)).page
    await console.open(page, "/feedback")
    await page.locator("tbody a").first.click()
    await page.get_by_label("The right answer").fill("It is 14 days.")
    await page.get_by_role("button", name="Train on this answer").click()
    await page.get_by_text("Kept. It can be trained on").wait_for()
    async with database.begin() as connection:
        [one] = await review.in_project(connection, PROJECT, status="corrected")
    assert one.answer == "It is 14 days."


async def test_a_plan_and_a_run_are_asked_for_through_the_record(
    browser: Browser, console: RunningConsole, database: Database
) -> None:
    page = (await console.sign_in(browser)).page
    for name, kind in (("Plan", "plan"), ("Train now", "now")):
        await console.open(page, "/training")
        await page.get_by_role("button", name=name, exact=True).click()
        await page.get_by_role("status").filter(has_text="Asked.").wait_for()
        async with database.begin() as connection:
            assert [one.kind for one in await run_requests.waiting(connection)][-1] == kind
