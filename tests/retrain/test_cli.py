"""The commands as people type them, on a real record. Nothing trains here: runs are ended by hand."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection
from typer.testing import CliRunner, Result

from feedback import adapters, runs
from feedback.database import Database
from feedback.errors import HoneError, Unwell
from feedback.runs import Run
from retrain.cli import app
from retrain.train import log_file
from tests.builders import FAILED, PASSED, PROJECT
from tests.retrain.record import MODEL, evaluating_run, small_policy, teach


@pytest.fixture(autouse=True)
def configured(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HONE_DATABASE_URL", database_url)
    monkeypatch.setenv("COLUMNS", "200")


def in_database(url: str, work: Callable[[AsyncConnection], Awaitable[Any]]) -> Any:
    async def connected() -> Any:
        async with Database(url) as database, database.begin() as connection:
            return await work(connection)

    return asyncio.run(connected())


def hone(*arguments: str) -> Result:
    result = CliRunner().invoke(app, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_plan_says_in_words_what_the_next_run_would_do(database_url: str) -> None:
    in_database(database_url, lambda connection: teach(connection, "tiny"))
    output = hone("retrain", "plan", "--model", MODEL).output
    assert "SFT: 40 of 10 demonstrations or approved answers (20 demonstrations, 20 approved)." in output
    assert "Left out: 10 (over the limit of corrections with the same text)." in output
    assert "Method: SFT." in output
    assert "learning rate" in output
    plan = json.loads(hone("retrain", "plan", "--model", MODEL, "--json").output)
    assert (plan["method"], plan["recipe"]["method"]) == ("sft", "sft")
    assert in_database(database_url, lambda connection: runs.in_project(connection, PROJECT)) == []


def test_now_queues_a_run_that_list_and_show_know_and_cancel_ends(database_url: str) -> None:
    in_database(database_url, lambda connection: teach(connection, "tiny"))
    queued = json.loads(hone("retrain", "now", "--model", MODEL, "--json").output)
    (listed,) = [json.loads(line) for line in hone("run", "list", "--json").output.splitlines()]
    assert listed["run_id"] == queued["run_id"]
    shown = json.loads(hone("run", "show", queued["run_id"], "--json").output)
    assert [event["message"] for event in shown["events"]] == ["Method: SFT."]
    assert "will stop" in hone("run", "cancel", queued["run_id"]).output
    cancelled: Run = in_database(database_url, lambda connection: runs.by_id(connection, queued["run_id"]))
    assert cancelled.cancel_requested


@pytest.mark.filterwarnings("ignore")
def test_a_search_says_what_it_tried_and_a_run_takes_the_best(database_url: str, tiny_model: Path) -> None:
    policy = small_policy(recipe={"rank": 4, "alpha": 8, "sft": {"learning_rate": 0.003, "epochs": 1.0}})
    in_database(database_url, lambda connection: teach(connection, tiny_model, policy=policy))
    output = hone("retrain", "search", "--model", MODEL, "--trials", "1", "--sampler", "random").output
    search_id = output.partition(":")[0]
    assert f"hone retrain now --model {MODEL} --from-search {search_id}" in " ".join(output.split())
    (trial,) = [
        json.loads(line) for line in hone("retrain", "trials", search_id, "--json").output.splitlines()
    ]
    assert trial["status"] == "complete" and trial["recipe"]["learning_rate"] != 0.003
    with pytest.raises(HoneError, match="the search was of SFT"):
        hone("retrain", "now", "--model", MODEL, "--method", "kto", "--from-search", search_id)
    queued = json.loads(hone("retrain", "now", "--model", MODEL, "--from-search", search_id, "--json").output)
    assert queued["recipe"]["learning_rate"] == trial["recipe"]["learning_rate"]
    assert queued["dataset_id"] == trial["dataset_id"]


def test_a_run_is_paused_and_resumed_and_its_log_is_shown(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HONE_STATE_DIR", str(tmp_path))
    in_database(database_url, lambda connection: teach(connection, "tiny"))
    run_id = json.loads(hone("retrain", "now", "--model", MODEL, "--json").output)["run_id"]
    with pytest.raises(HoneError, match="has no log"):
        hone("run", "logs", run_id)
    with pytest.raises(HoneError, match="nothing to resume"):
        hone("run", "resume", run_id)
    assert f"hone run resume {run_id}" in hone("run", "pause", run_id).output
    assert "will go on" in hone("run", "resume", run_id).output
    file = log_file(tmp_path, run_id)
    file.parent.mkdir(parents=True)
    file.write_text("loss 0.5\n")
    assert hone("run", "logs", run_id).output == "loss 0.5\n"


def test_what_cannot_be_trained_is_refused_with_what_is_missing(database_url: str) -> None:
    in_database(database_url, lambda connection: teach(connection, "tiny", people=1))
    with pytest.raises(HoneError, match=r"People: 1 of 3 raters, not enough\..*Not possible"):
        hone("retrain", "now", "--model", MODEL)
    assert "Not possible" in hone("retrain", "plan", "--model", MODEL).output
    with pytest.raises(HoneError, match="--method is 'ppo'; expected auto, sft, dpo, kto, sft"):
        hone("retrain", "plan", "--model", MODEL, "--method", "ppo")


@pytest.mark.parametrize(("report", "decision"), [(PASSED, "candidate"), (FAILED, "rejected")])
def test_following_a_run_ends_with_what_the_gate_said(
    report: dict[str, Any], decision: str, database_url: str
) -> None:
    async def ended(connection: AsyncConnection) -> str:
        run, adapter = await evaluating_run(connection)
        await runs.add_event(connection, run.run_id, "Step 1 of 2, loss 1.0")
        await adapters.decide(connection, adapter, report=report, evidence_hash="e" * 64, by="hone")
        await runs.finish(connection, run.run_id, status="succeeded")
        return run.run_id

    run_id = in_database(database_url, ended)
    for arguments in (("run", "show", run_id), ("run", "show", run_id, "--watch")):
        output = hone(*arguments).output
        assert f"The gate says {decision}" in output
        assert "Step 1" not in output
        assert ("hone approve support@1" in output) is (decision == "candidate")


def test_following_a_failed_run_ends_with_its_reason(database_url: str) -> None:
    async def failed(connection: AsyncConnection) -> str:
        run, _ = await evaluating_run(connection)
        await runs.finish(connection, run.run_id, status="failed", error="The disk is full.")
        return run.run_id

    with pytest.raises(Unwell, match="ended as 'failed': The disk is full"):
        hone("run", "show", in_database(database_url, failed), "--watch")
