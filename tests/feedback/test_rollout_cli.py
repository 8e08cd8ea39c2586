"""`hone rollout` and `hone experiment list` at the terminal, of a split with several candidates."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deploy.cli import app
from feedback import experiments, shipping
from feedback.database import Database
from tests.builders import PROJECT, a_model, an_adapter

runner = CliRunner()


@pytest.fixture(autouse=True)
def here(database_url: str, state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Commands work on this test's record and state directory."""
    monkeypatch.setenv("HONE_DATABASE_URL", database_url)
    monkeypatch.setenv("HONE_STATE_DIR", str(state_dir))
    yield


async def printed(*arguments: str) -> str:
    done = await asyncio.to_thread(runner.invoke, app, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return " ".join(done.output.split())


def verdict_on(version: str, state: str) -> dict[str, Any]:
    return {
        "state": state,
        "sentence": f"{version} says {state}.",
        "guardrails": [{"sentence": f"{version} is well."}],
    }


async def test_every_candidate_is_named_with_its_state_its_verdict_and_its_guardrails(
    database: Database,
) -> None:
    names = ["support@1", "support@2", "support@3"]
    async with database.begin() as connection:
        await a_model(connection)
        for _ in names:
            await an_adapter(connection, state="approved")
        split = await shipping.start_canaries(connection, PROJECT, names, rule="equal", by="ada")
        each = {
            "candidate": verdict_on("support@1", "inconclusive"),
            "candidate-3": verdict_on("support@3", "better"),
        }
        leading = each["candidate-3"] | {"arm": "candidate-3", "candidates": each}
        await experiments.store_verdict(connection, split, leading)
        await shipping.abort(connection, PROJECT, "support", only="support@2", by="ada", reason="it rambles")
    shown = await printed("rollout", "--model", "support")
    assert "version support@3" in shown
    assert "support@1 (running, 0.3% of raters): support@1 says inconclusive. support@1 is well." in shown
    assert "support@2 (taken_back, 0.0% of raters): it rambles" in shown
    assert "support@3 (running, 0.3% of raters): support@3 says better. support@3 is well." in shown
    listed = await printed("experiment", "list")
    assert "support@1, support@2, support@3, support@0 running" in listed
    assert "support@1 inconclusive, support@3 better" in listed
