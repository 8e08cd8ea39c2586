"""Cost and return: engines' time is divided fairly, and nothing is free because nobody set a price."""

import asyncio
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from feedback import costs, datasets, experiments, runs
from feedback.completions import insert_many
from feedback.costs import Served
from feedback.database import Database
from monitoring.cost import Prices, report
from monitoring.cost_cli import app
from monitoring.settings import MonitoringSettings
from tests.builders import PROJECT, a_completion, a_model, an_adapter

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
SINCE, UNTIL = NOW - timedelta(hours=1), NOW + timedelta(hours=1)


def asked(start: float, seconds: float, **changes: Any) -> Any:
    """A completion that was under way from `start` seconds after noon."""
    began = NOW + timedelta(seconds=start)
    return a_completion(created_at=began, duration_seconds=seconds, engine="http://one", **changes)


async def test_requests_that_share_an_engine_share_its_time(database: Database) -> None:
    answered = [
        asked(0, 10, version=1, adapter_id="a", prompt_tokens=100, output_tokens=10),
        asked(
            5,
            10,
            version=2,
            adapter_id="b",
            prompt_tokens=1,
            output_tokens=20,
            status="error",
            error_class="model",
        ),
        asked(100, 4, version=2, adapter_id="b", prompt_tokens=1, output_tokens=20, project="another"),
        asked(102, 4, version=1, adapter_id="a"),
        asked(200, 7, version=None, adapter_id=None, upstream="other", prompt_tokens=5, output_tokens=5),
        asked(300, 9, version=1, adapter_id="a", endpoint="import:langfuse"),
    ]
    async with database.begin() as connection:
        await a_model(connection)
        await insert_many(connection, answered)
        found = await costs.served(connection, PROJECT, model=None, since=SINCE, until=UNTIL)
    assert [(one.version, one.upstream, one.requests, one.failed) for one in found] == [
        (1, None, 2, 0), (2, None, 1, 1), (None, "other", 1, 0),
    ]  # fmt: skip
    # 0-5 alone, 5-10 shared, 10-15 alone; 102-104 shared with another project's, 104-106 alone.
    assert [one.engine_seconds for one in found] == pytest.approx([5 + 2.5 + 1 + 2, 2.5 + 5, 0])
    assert (found[0].prompt_tokens, found[1].output_tokens) == (103, 20)


@pytest.mark.parametrize(
    ("prices", "amount"),
    [
        (Prices(), None),
        (Prices(training_hour=3.0), None),
        (Prices(engine_hour=3.6), 0.1),
        (Prices(million_prompt_tokens=2.0, million_output_tokens=4.0), 2.0 + 8.0),
        (Prices(engine_hour=3.6, million_prompt_tokens=0.0), 0.1),
        (Prices(million_prompt_tokens=0.0), 0.0),
    ],
)
def test_an_amount_is_made_of_the_prices_that_are_set(prices: Prices, amount: float | None) -> None:
    served = Served("support", 1, None, 5, 0, 1_000_000, 2_000_000, 100.0)
    assert prices.of_answers(served) == (None if amount is None else pytest.approx(amount))


def test_an_upstreams_answers_have_prices_of_their_own() -> None:
    served = Served("support", None, "other", 5, 0, 1_000_000, 2_000_000, 0.0)
    assert Prices(engine_hour=3.6, million_output_tokens=9.0).of_answers(served) is None
    assert Prices(upstream_million_output_tokens=9.0).of_answers(served) == 18.0


async def test_an_improvement_shows_what_it_took_and_how_much_better_people_liked_it(
    database: Database,
) -> None:
    async with database.begin() as connection:
        candidate = await an_adapter(connection, state="approved")
        dataset = await datasets.freeze(
            connection, project=PROJECT, model="support", method="sft", rows=[], selection={}, counts={}
        )
        run = await runs.create(
            connection, project=PROJECT, model="support", method="sft", recipe={}, recipe_hash="0",
            dataset_id=dataset.dataset_id, by="test",
        )  # fmt: skip
        await connection.execute(
            text("UPDATE runs SET progress = '{\"seconds\": 1800}' WHERE run_id = :run"), {"run": run.run_id}
        )
        await connection.execute(
            text(
                'UPDATE adapters SET run_id = :run, gate = \'{"evidence": {"seconds": 1800, "energy_watt_hours": 20}}\''
                " WHERE adapter_id = :adapter"
            ),
            {"run": run.run_id, "adapter": candidate.adapter_id},
        )
        split = await experiments.start_canary(connection, candidate, by="test")
        await connection.execute(
            text(
                'UPDATE experiments SET verdict = \'{"state": "better", "difference": 0.12, "low": 0.03,'
                ' "high": 0.21}\' WHERE experiment_id = :split'
            ),
            {"split": split.experiment_id},
        )
        now = datetime.now(UTC)
        found = await report(
            connection,
            PROJECT,
            Prices(training_hour=5.0),
            since=now - timedelta(hours=1),
            until=now + timedelta(hours=1),
        )
    [one] = found["improvements"]
    assert (one["name"], one["training_seconds"], one["energy_watt_hours"]) == (candidate.name, 1800.0, 20.0)
    assert one["lift"] == {"state": "better", "difference": 0.12, "low": 0.03, "high": 0.21}
    assert one["cost"] == found["cost"] == pytest.approx(5.0)


async def test_nobody_is_told_that_it_was_free(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with database.begin() as connection:
        await a_model(connection)
        await insert_many(connection, [a_completion(engine="http://one")])
    monkeypatch.setenv("HONE_DATABASE_URL", database_url)
    monkeypatch.setenv("COLUMNS", "200")
    shown = await asyncio.to_thread(CliRunner().invoke, app, ["cost", "--days", "1"])
    assert shown.exit_code == 0, shown.output
    assert "support@0" in shown.output and "no price set" in shown.output


def test_every_price_of_the_settings_is_used() -> None:
    settings = {
        name.removeprefix("price_") for name in MonitoringSettings.model_fields if name.startswith("price_")
    }
    assert settings == set(Prices.__slots__)
