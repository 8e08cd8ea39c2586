"""`hone feedback` and `hone completion` as a person types them."""

import asyncio
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection
from typer.testing import CliRunner, Result

from feedback.cli import app
from feedback.completions import Completion
from feedback.database import Database
from feedback.errors import HoneError
from feedback.feedback_cli import moment
from tests.builders import a_model, a_rated_completion


@pytest.fixture(autouse=True)
def configured(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HONE_DATABASE_URL", database_url)
    monkeypatch.setenv("COLUMNS", "300")


def in_database(url: str, work: Callable[[AsyncConnection], Awaitable[Any]]) -> Any:
    async def connected() -> Any:
        async with Database(url) as database, database.begin() as connection:
            return await work(connection)

    return asyncio.run(connected())


def rated(url: str, *values: bool, **changes: Any) -> list[Completion]:
    async def work(connection: AsyncConnection) -> list[Completion]:
        await a_model(connection)
        return [await a_rated_completion(connection, value=value, **changes) for value in values]

    made: list[Completion] = in_database(url, work)
    return made


def hone(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_answers_are_listed_with_what_was_asked_and_said(database_url: str) -> None:
    up, down = rated(database_url, True, False)
    listed = hone("completion", "list").output
    assert "How long may I return a lamp?" in listed
    assert "Within 30 days." in listed
    only = hone("completion", "list", "--rating", "down", "--json").output
    assert [orjson.loads(line)["completion_id"] for line in only.splitlines()] == [down.completion_id]
    assert up.completion_id not in only


def test_a_list_that_goes_on_says_how(database_url: str) -> None:
    first, second = rated(database_url, True, False)
    page = hone("completion", "list", "--limit", "1", "--model", "support@0")
    assert second.completion_id in page.stdout
    assert f"--after {second.completion_id}" in page.stderr
    rest = hone("completion", "list", "--limit", "1", "--after", second.completion_id)
    assert first.completion_id in rest.stdout
    assert "--after" not in rest.stderr


def test_what_people_said_is_listed_and_shown(database_url: str) -> None:
    (one,) = rated(database_url, False)
    listed = orjson.loads(hone("feedback", "list", "--json").output)
    assert (listed["completion_id"], listed["value"], listed["version"]) == (one.completion_id, False, 0)
    shown = orjson.loads(hone("completion", "show", one.completion_id, "--json").output)
    assert shown["feedback"][0]["feedback_id"] == listed["feedback_id"]


def test_why_says_which_arm_answered_whom(database_url: str) -> None:
    (one,) = rated(database_url, True, experiment_id="exp-1", arm="candidate", propensity=0.1, version=7)
    said = hone("completion", "why", one.completion_id).output
    assert (
        "support@7 answered as arm 'candidate' of exp-1, to which 'rater-a' belongs with a chance of 10%."
        in said
    )
    assert "It trained no version yet." in said


def test_feedback_is_exported_as_json_lines_and_as_parquet(database_url: str, tmp_path: Path) -> None:
    rated(database_url, True, False)
    for name in ("rows.jsonl", "rows.parquet"):
        done = hone("feedback", "export", "--columns", "kto", "--to", str(tmp_path / name))
        assert f"2 rows in {tmp_path / name}." in done.output
    lines = [orjson.loads(line) for line in (tmp_path / "rows.jsonl").read_bytes().splitlines()]
    assert sorted(line["label"] for line in lines) == [False, True]
    assert pq.read_table(tmp_path / "rows.parquet").column_names[:3] == ["prompt", "completion", "label"]
    assert len(hone("feedback", "export", "--rating", "up").output.splitlines()) == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (
            ("completion", "list", "--since", "yesterday"),
            "--since 'yesterday' is no time; expected 2026-05-29",
        ),
        (
            ("completion", "list", "--since", "99999999999w"),
            "--since '99999999999w' is no time; expected 2026-05-29",
        ),
        (("completion", "list", "--until", "0001-01-02"), "until is 0001-01-02.*; expected a time from 1970"),
        (
            ("completion", "list", "--model", "support@new"),
            "'support@new' names no version; expected a model such as support",
        ),
        (("feedback", "export", "--to", "rows.csv"), r"ends in '.csv'; expected .jsonl or .parquet"),
        (("completion", "show", "chatcmpl-1"), "has no completion 'chatcmpl-1'"),
    ],
)
def test_a_mistake_is_answered_with_what_was_expected(arguments: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(HoneError, match=sentence):
        hone(*arguments)


def test_a_time_may_be_said_as_how_long_ago() -> None:
    day, hours = moment("1d", "--since"), moment("24h", "--since")
    assert day is not None and hours is not None
    assert abs((day - hours).total_seconds()) < 1


def test_a_file_that_cannot_be_written_is_not_taken_for_a_database_that_is_gone(
    database_url: str, tmp_path: Path
) -> None:
    rated(database_url, True)
    nowhere = str(tmp_path / "no such folder" / "rows.jsonl")
    with pytest.raises(HoneError, match=r"rows.jsonl cannot be written: No such file or directory"):
        hone("feedback", "export", "--to", nowhere)


def test_an_export_into_a_pipe_ends_quietly_when_nobody_reads_on(database_url: str) -> None:
    rated(database_url, True)
    command = f"set -o pipefail; {sys.executable} -m deploy.cli feedback export | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)
