"""`hone dataset` and `hone review` as a person types them."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection
from typer.testing import CliRunner, Result

from feedback.database import Database
from feedback.dataset_cli import app
from feedback.errors import HoneError
from retrain.plan import freeze, make_plan
from tests.builders import PROJECT
from tests.retrain.rated_builders import MODEL, record, taught, voted
from tests.retrain.test_data import people, policy

LAMP, OLD = "How long may I return a lamp?", "You may return it within 30 days."
NEW = "You may return it within 90 days."


@pytest.fixture(autouse=True)
def configured(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HONE_DATABASE_URL", database_url)
    monkeypatch.setenv("COLUMNS", "300")


def in_database(url: str, work: Callable[[AsyncConnection], Awaitable[Any]]) -> Any:
    async def connected() -> Any:
        async with Database(url) as database, database.begin() as connection:
            return await work(connection)

    return asyncio.run(connected())


def frozen(url: str) -> str:
    """The id of a dataset of people who agree, one who does not, and a correction that waits."""
    doubtful = [
        taught(LAMP, NEW, wrong=OLD, rater="solo"),
        voted("Else?", "No.", True, rater="x", consent=False),
    ]

    async def work(connection: AsyncConnection) -> str:
        await record(connection, [*people(), *doubtful], policy())
        return (await freeze(connection, await make_plan(connection, PROJECT, MODEL))).dataset_id

    made: str = in_database(url, work)
    return made


def hone(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def rows_of(*arguments: str) -> list[dict[str, Any]]:
    return [orjson.loads(line) for line in hone(*arguments).output.splitlines()]


def test_a_dataset_is_shown_with_its_balance_and_what_was_left_out(database_url: str) -> None:
    dataset_id = frozen(database_url)
    assert dataset_id in hone("dataset", "list").output
    shown = hone("dataset", "show", dataset_id).output
    for part in (
        "Method: SFT.",
        "splits",
        "topics",
        "versions",
        "languages",
        "raters; the one with most has",
    ):
        assert part in shown
    assert "1  completion has no consent to training" in shown
    whole = orjson.loads(hone("dataset", "show", dataset_id, "--json").output)
    assert whole["selection"]["policy"]["rows_per_rater_max"] == 100
    assert set(whole["balance"]["splits"]) == {"train", "held_out"}


def test_what_was_left_out_is_listed_by_reason(database_url: str) -> None:
    dataset_id = frozen(database_url)
    listed = hone(
        "dataset", "exclusions", dataset_id, "--reason", "completion has no consent", "--json"
    ).output
    assert [orjson.loads(line)["reason"] for line in listed.splitlines()] == [
        "completion has no consent to training"
    ]
    assert "Nothing was left out." in hone("dataset", "exclusions", dataset_id, "--reason", "nonsense").output


def test_rows_are_exported_by_split(database_url: str) -> None:
    dataset_id = frozen(database_url)
    rows = [orjson.loads(line) for line in hone("dataset", "export", dataset_id).output.splitlines()]
    train = [
        orjson.loads(line)
        for line in hone("dataset", "export", dataset_id, "--split", "train").output.splitlines()
    ]
    assert {row["split"] for row in rows} == {"train", "held_out"}
    assert train == [row for row in rows if row["split"] == "train"]
    with pytest.raises(HoneError, match="--split is 'test'; expected train"):
        hone("dataset", "export", dataset_id, "--split", "test")


def test_a_dataset_of_another_project_is_not_there(database_url: str) -> None:
    dataset_id = frozen(database_url)
    for command in (("show",), ("exclusions",), ("export",)):
        with pytest.raises(HoneError, match="No dataset has the id"):
            hone("dataset", *command, dataset_id, "--project", "other")


def test_golden_questions_are_added_from_a_file_listed_and_removed(database_url: str, tmp_path: Path) -> None:
    frozen(database_url)
    file = tmp_path / "golden.jsonl"
    file.write_text(
        '{"prompt": "Who are you?", "completion": "A shop."}\n\n{"prompt": "Why?", "completion": "So."}\n'
    )
    for _ in range(2):
        said = hone("dataset", "golden", "add", "--model", MODEL, str(file)).output
        assert "2 golden questions are kept" in said and "2 of them are plain text" in said
    listed = [
        orjson.loads(line)
        for line in hone("dataset", "golden", "list", "--model", MODEL, "--json").output.splitlines()
    ]
    assert [(one["prompt"], one["answer"]) for one in listed] == [
        ("Who are you?", "A shop."),
        ("Why?", "So."),
    ]
    assert "golden no more" in hone("dataset", "golden", "remove", listed[0]["golden_id"]).output
    assert "Who are you?" not in hone("dataset", "golden", "list", "--model", MODEL).output


@pytest.mark.parametrize(
    ("line", "message"),
    [("nonsense", "line 1 is not JSON"), ('{"prompt": "Who?"}', "line 1 has no prompt and completion")],
)
def test_a_golden_file_of_another_form_is_refused_by_line(
    database_url: str, tmp_path: Path, line: str, message: str
) -> None:
    file = tmp_path / "golden.jsonl"
    file.write_text(line)
    with pytest.raises(HoneError, match=message):
        hone("dataset", "golden", "add", "--model", MODEL, str(file))


def test_a_golden_file_that_is_not_there_is_named(database_url: str, tmp_path: Path) -> None:
    with pytest.raises(HoneError, match=r"golden\.jsonl cannot be read \(No such file or directory\)"):
        hone("dataset", "golden", "add", "--model", MODEL, str(tmp_path / "golden.jsonl"))


def test_what_waits_is_listed_decided_and_gone_from_the_list(database_url: str) -> None:
    frozen(database_url)
    waiting = rows_of("review", "list", "--json")
    (mine,) = [one for one in waiting if one["question"] == LAMP]
    assert (mine["before"], mine["after"], mine["status"]) == (OLD, NEW, "waiting")
    assert "is let in" in hone("review", "approve", mine["review_id"], "--reason", "asked the boss").output
    assert LAMP not in hone("review", "list").output
    assert "asked the boss" in hone("review", "list", "--status", "included").output
    assert "stays out" in hone("review", "exclude", mine["review_id"]).output
    assert "is let in" in hone("review", "include", mine["review_id"]).output
    assert (
        "corrected answer" in hone("review", "correct", mine["completion_id"], "--answer", "Ask us.").output
    )
    assert "Ask us." in hone("review", "list", "--status", "all").output
