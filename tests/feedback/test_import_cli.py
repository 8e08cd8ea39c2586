"""`hone feedback import` as a person types it."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection
from typer.testing import CliRunner, Result

from feedback.cli import app
from feedback.database import Database
from feedback.errors import HoneError
from tests.builders import a_model

EXPORTS = Path(__file__).parent / "exports"
TRACES, SCORES = EXPORTS / "langfuse_observations.jsonl", EXPORTS / "langfuse_scores.csv"


def in_database(url: str, work: Callable[[AsyncConnection], Awaitable[Any]]) -> Any:
    async def connected() -> Any:
        async with Database(url) as database, database.begin() as connection:
            return await work(connection)

    return asyncio.run(connected())


@pytest.fixture(autouse=True)
def configured(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HONE_DATABASE_URL", database_url)
    monkeypatch.setenv("COLUMNS", "200")
    in_database(database_url, a_model)


def hone_import(*arguments: object) -> Result:
    given = ["feedback", "import", "--model", "support", "--thumbs", "user-feedback", *map(str, arguments)]
    result = CliRunner().invoke(app, given)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def recorded(url: str) -> tuple[int, int, int]:
    """Completions, feedback, and imports in the audit trail."""

    async def work(connection: AsyncConnection) -> Any:
        tables = ("completions", "feedback", "audit WHERE action = 'feedback.import'")
        return [await connection.scalar(text(f"SELECT count(*) FROM {table}")) for table in tables]

    one, two, three = in_database(url, work)
    return one, two, three


def test_consent_is_asked_for_and_never_guessed(database_url: str) -> None:
    asked = hone_import(TRACES)
    assert asked.exit_code == 2
    assert "--consent" in asked.output
    assert recorded(database_url) == (0, 0, 0)


def test_files_are_imported_in_the_order_in_which_they_need_each_other(database_url: str) -> None:
    done = hone_import(SCORES, TRACES, "--consent", "yes")
    assert done.exit_code == 1
    assert "Imported 0 completions and 4 feedback" in done.output
    assert f"{SCORES}:7: what it is about, 'trace/deadbeef" in done.output
    assert recorded(database_url) == (2, 4, 2)


def test_a_dry_run_says_what_would_happen_and_stores_nothing(database_url: str) -> None:
    rehearsed = hone_import(TRACES, SCORES, "--consent", "no", "--dry-run", "--json")
    summaries = [orjson.loads(line) for line in rehearsed.output.splitlines() if '"dry_run"' in line]
    assert [(one["completions"], one["feedback"]) for one in summaries] == [(2, 0), (0, 4)]
    assert recorded(database_url) == (0, 0, 0)


def test_every_refused_row_can_be_written_to_a_file(tmp_path: Path) -> None:
    hone_import(TRACES, "--consent", "yes", "--refused", tmp_path / "refused.jsonl")
    refused = [orjson.loads(line) for line in (tmp_path / "refused.jsonl").read_bytes().splitlines()]
    assert [one["line"] for one in refused] == [4, 5]


@pytest.mark.parametrize(("answer", "kept"), [("yes", True), ("no", False)])
def test_what_was_answered_about_consent_is_kept_with_every_row(
    database_url: str, answer: str, kept: bool
) -> None:
    hone_import(EXPORTS / "open_webui.json", "--consent", answer)

    async def work(connection: AsyncConnection) -> Any:
        return list(await connection.scalars(text("SELECT DISTINCT consent FROM completions")))

    assert in_database(database_url, work) == [kept]


def test_a_good_file_ends_well_and_is_written_down_once(database_url: str) -> None:
    inferences = EXPORTS / "tensorzero_demonstration_feedback.csv"
    table = EXPORTS / "tensorzero_chat_inference.csv"
    hone_import(table, "--consent", "yes")
    assert hone_import(inferences, "--consent", "yes").exit_code == 0
    assert hone_import(inferences, "--consent", "yes").exit_code == 0
    assert recorded(database_url) == (2, 1, 2)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("missing.json", None, "missing.json cannot be read: .* No such file"),
        ("empty.json", b"", "empty.json is empty. Expected an export"),
        ("torn.csv.gz", b"\x1f\x8b\x08", "torn.csv.gz cannot be read"),
        ("torn.parquet", b"PAR1 and no more", "torn.parquet cannot be read"),
    ],
)
def test_a_file_that_is_none_is_answered_with_one_sentence(
    tmp_path: Path, name: str, content: bytes | None, sentence: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(HoneError, match=sentence):
        hone_import(tmp_path / name, "--consent", "yes")
