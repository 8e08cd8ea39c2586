"""`hone privacy` and `hone audit` at the terminal, and the worker behind them."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from feedback import audit, erasures
from feedback.database import Database
from feedback.errors import HoneError
from feedback.privacy_cli import app
from retrain.forgetting import carry_out_erasures
from tests.builders import PROJECT, a_rated_completion

NAME = "rater-" + "a" * 24
runner = CliRunner()


@pytest.fixture(autouse=True)
def here(database_url: str, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands work on this test's record and state directory."""
    monkeypatch.setenv("HONE_DATABASE_URL", database_url)
    monkeypatch.setenv("HONE_STATE_DIR", str(state_dir))
    yield


async def in_thread(*arguments: str) -> dict[str, object]:
    """What a command prints as JSON; it runs an event loop of its own."""
    done = await asyncio.to_thread(runner.invoke, app, [*arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    lines = [orjson.loads(line) for line in done.output.splitlines()]
    return {"rows": lines} if len(lines) != 1 else dict(lines[0])


async def test_a_dry_run_counts_and_erases_nothing(database: Database) -> None:
    async with database.begin() as connection:
        await a_rated_completion(connection, rater=NAME)
    counted = await in_thread("privacy", "erase", NAME, "--dry-run")
    assert counted["would_erase"] == {"completions": 1, "feedback": 1}
    async with database.begin() as connection:
        assert await connection.scalar(text("SELECT count(*) FROM completions")) == 1
        assert await erasures.in_project(connection, PROJECT) == []


async def test_a_person_is_erased_and_the_report_can_be_shown_again(database: Database) -> None:
    async with database.begin() as connection:
        await a_rated_completion(connection, rater=NAME)
    done = await in_thread("privacy", "erase", NAME, "--rewrite-tables")
    assert done["phase"] == "done" and done["tainted"] == []
    assert await in_thread("privacy", "show", str(done["erasure_id"])) == done
    assert (await in_thread("privacy", "list"))["erasure_id"] == done["erasure_id"]


async def test_the_worker_goes_on_with_what_was_asked_over_http(database: Database, state_dir: Path) -> None:
    async with database.begin() as connection:
        await a_rated_completion(connection, rater=NAME)
        asked = await erasures.request(connection, PROJECT, rater=NAME, by="key:1")
    await carry_out_erasures(database, state_dir)
    async with database.begin() as connection:
        assert (await erasures.get(connection, PROJECT, asked.erasure_id)).phase == "done"


async def test_what_retention_would_drop_is_shown_and_left(database: Database) -> None:
    async with database.begin() as connection:
        await a_rated_completion(connection, rater=NAME)
    shown = await in_thread("privacy", "retention", "--dry-run")
    rows = shown["rows"]
    assert isinstance(rows, list)
    assert {"completions", "completion_texts", "feedback"} <= {
        str(row["partition"]).split("_2")[0].removesuffix("_other") for row in rows
    }


async def test_a_trail_that_was_cut_off_is_noticed_with_a_hash_that_was_kept(
    database: Database, database_url: str
) -> None:
    async with database.begin() as connection:
        entry = {"project": PROJECT, "actor": "ada", "action": "test"}
        await audit.write(connection, **entry, subject="one", detail={})
        kept = await audit.write(connection, **entry, subject="two", detail={})
    whole = await asyncio.to_thread(runner.invoke, app, ["audit", "verify", "--newest", kept])
    assert whole.exit_code == 0 and kept in whole.output.replace("\n", "")
    async with database.begin() as connection:
        await connection.execute(text("ALTER TABLE audit DISABLE TRIGGER audit_rows_stay"))
        await connection.execute(text("DELETE FROM audit WHERE subject = 'two'"))
    with pytest.raises(HoneError, match="cut off"):
        await asyncio.to_thread(
            runner.invoke, app, ["audit", "verify", "--newest", kept], catch_exceptions=False
        )
