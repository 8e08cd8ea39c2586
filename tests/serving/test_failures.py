"""Whose failure a failure is, and what follows from it in the record, the metrics and the guardrails."""

from pathlib import Path
from typing import Any

import pytest

from feedback import experiments
from feedback.completions import insert_many
from feedback.database import Database
from feedback.exposures import unit_counts
from serving.error_codes import CODES
from serving.failures import MEANINGS, classify
from tests import fakes
from tests.builders import a_completion, an_adapter
from tests.fakes import fake_engine
from tests.serving.running import running_gateway


@pytest.mark.parametrize(
    ("status", "code", "message", "whose"),
    [
        (400, "400", "This model's maximum context length is 512 tokens.", "caller"),
        (422, None, "", "caller"),
        (429, "rate_limit_exceeded", "", "caller"),
        (429, None, "the engine's queue is full", "infrastructure"),
        (503, "engine_unavailable", "", "infrastructure"),
        (504, "engine_timeout", "", "infrastructure"),
        (500, None, "EngineCore encountered an issue. See stack trace.", "infrastructure"),
        (500, None, "list index out of range", "model"),
        (400, "400", "Out of range float values are not JSON compliant: nan", "model"),
        (400, "400", "You wrote: Out of range float values are not JSON compliant", "caller"),
        (502, "generation_failed", "", "model"),
        (502, "engine_gave_up", "", "infrastructure"),
        (501, None, "", "unknown"),
        (599, "whatever", "", "unknown"),
    ],
)
def test_every_failure_is_somebodys(status: int, code: str | None, message: str, whose: str) -> None:
    assert classify(status, code, message) == whose


def test_every_code_is_of_a_class_that_has_a_meaning() -> None:
    assert {one.error_class for one in CODES} <= set(MEANINGS)
    assert len({one.code for one in CODES}) == len(CODES)


@pytest.mark.parametrize(
    ("behave", "whose"),
    [
        (fakes.refuse(400, "temperature must be non-negative"), "caller"),
        (fakes.refuse(500, "list index out of range"), "model"),
        (fakes.refuse(400, "Out of range float values are not JSON compliant: nan"), "model"),
        (fakes.give_up("error"), "model"),
        (fakes.give_up("abort"), "infrastructure"),
        (fakes.refuse(501, "no such thing"), "unknown"),
    ],
)
async def test_the_class_of_a_failure_is_in_the_record_and_in_the_metrics(
    database: Database, database_url: str, state_dir: Path, behave: fakes.Behaviour, whose: str
) -> None:
    async with (
        fake_engine(behave) as engine,
        running_gateway(database, database_url, state_dir, engine.url) as running,
    ):
        await running.ask()
        [row] = await running.rows(1)
        metrics = (await running.client.get("/metrics")).text
    assert (row["status"], row["error_class"]) == ("error", whose)
    labels = f'{{arm="",class="{whose}",model_version="support@0",project="default"}}'
    assert f"hone_errors_total{labels} 1.0" in metrics


@pytest.mark.parametrize("field", ["structured_outputs", "response_format", "tool_choice"])
async def test_a_grammar_that_the_engine_cannot_compile_is_no_fault_of_the_version(
    database: Database, database_url: str, state_dir: Path, field: str
) -> None:
    async with (
        fake_engine(fakes.refuse(500, "Internal server error")) as engine,
        running_gateway(database, database_url, state_dir, engine.url) as running,
    ):
        form: dict[str, Any] = {field: {"grammar": "root ::= root"}}
        asked = await running.ask(**form)
        plain = await running.ask(
            tool_choice="auto", response_format={"type": "text"}, text={"verbosity": "low"}
        )
        rows = await running.rows(2)
    assert (asked.status_code, plain.status_code) == (400, 500)
    assert asked.json()["error"]["param"] == field
    assert {row["error_class"] for row in rows} == {"caller", "model"}


async def test_an_engine_that_does_not_know_our_key_is_called_that(
    database: Database, database_url: str, state_dir: Path
) -> None:
    async def unauthorized(asked: fakes.Asked) -> None:
        fakes.send_json(asked, 401, {"error": "Unauthorized"})  # vLLM's own words, in no shape of OpenAI's.

    async with (
        fake_engine(unauthorized) as engine,
        running_gateway(database, database_url, state_dir, engine.url) as running,
    ):
        answer = await running.ask()
    assert (answer.status_code, answer.json()["error"]["code"]) == (502, "engine_key_refused")


@pytest.mark.parametrize(
    ("behave", "whose"),
    [
        (fakes.fail_in_stream(), "infrastructure"),
        (fakes.fail_and_go_on(), "model"),
        (fakes.die_after(2), "infrastructure"),
    ],
    ids=["its engine dies", "an error between two words", "the connection breaks"],
)
async def test_a_failure_within_a_stream_is_seen_wherever_it_stands(
    database: Database, database_url: str, state_dir: Path, behave: fakes.Behaviour, whose: str
) -> None:
    async with (
        fake_engine(behave) as engine,
        running_gateway(database, database_url, state_dir, engine.url) as running,
    ):
        await running.ask(stream=True)
        [row] = await running.rows(1)
    assert (row["status"], row["error_class"]) == ("error", whose)


async def test_an_answer_that_quotes_an_error_event_is_no_failure(
    database: Database, database_url: str, state_dir: Path
) -> None:
    quoted = 'They sent\n\ndata: {"error": {"code": 500}}\n\n'
    async with (
        fake_engine(fakes.answer_well(("Look:", quoted))) as engine,
        running_gateway(database, database_url, state_dir, engine.url) as running,
    ):
        await running.ask(stream=True)
        [row] = await running.rows(1)
    assert (row["status"], row["error_class"], row["output_text"]) == ("ok", None, f"Look:{quoted}")


async def test_requests_without_a_version_are_counted_by_status(
    database: Database, database_url: str, state_dir: Path
) -> None:
    async with running_gateway(database, database_url, state_dir) as running:
        await running.ask(messages=[])
        await running.ask(headers={"authorization": "Bearer hk_wrong"})
        metrics = (await running.client.get("/metrics")).text
    assert 'hone_refusals_total{status="400"} 1.0' in metrics
    assert 'hone_refusals_total{status="401"} 1.0' in metrics


async def test_a_version_is_blamed_for_its_own_failures_and_for_what_nobody_can_name(
    database: Database,
) -> None:
    async with database.begin() as connection:
        candidate = await an_adapter(connection, state="approved")
        split = await experiments.start_canary(connection, candidate, by="test")
        failed = [
            a_completion(
                experiment_id=split.experiment_id, arm="candidate", propensity=0.01, unit=f"unit-{whose}",
                status="error", error_class=whose,
            )
            for whose in ("caller", "infrastructure", "model", None)
        ]  # fmt: skip
        await insert_many(connection, failed)
        met = {one.unit: one.errors for one in await unit_counts(connection, split, maturation_seconds=0)}
    assert met == {"unit-caller": 0, "unit-infrastructure": 0, "unit-model": 1, "unit-None": 1}
