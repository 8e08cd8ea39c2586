"""What gateways ask for and the worker answers, and when runs may train."""

from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import datasets, fine_tuning, golden, models, run_requests, runs
from feedback.database import Database
from feedback.errors import IllegalMove
from feedback.fine_tuning import Job, Target
from feedback.policy import TrainingPolicy, read_policy
from retrain import plan, requests
from retrain.plan import Plan, make_plan
from retrain.requests import answer_requests
from retrain.when import queue_depth, reason_to_wait
from tests.builders import PROJECT, an_uploaded_file
from tests.fakes import Asked, fake_engine
from tests.retrain.record import MODEL, a_subject, queued_run, teach
from tests.serving.running import running_gateway


async def a_job(connection: AsyncConnection, folder: Path, rows: list[dict[str, Any]]) -> Job:
    """A job for SFT on the rows."""
    file = await an_uploaded_file(connection, folder, b"\n".join(map(orjson.dumps, rows)))
    return await fine_tuning.create(
        connection,
        project=PROJECT,
        target=Target(await models.get(connection, PROJECT, MODEL), None),
        asked_model=MODEL,
        method="sft",
        hyperparameters={},
        training_file=file.file_id,
        validation_file=None,
        suffix=None,
        seed=1,
        metadata=None,
        by="ada",
    )


async def test_a_job_is_asked_the_golden_set_and_trains_on_nothing_it_is_asked(
    database: Database, state_dir: Path
) -> None:
    def row(asked: list[dict[str, str]], answer: str) -> dict[str, Any]:
        return {"messages": [*asked, {"role": "assistant", "content": answer}]}

    def question(text: str) -> list[dict[str, str]]:
        return [{"role": "user", "content": text}]

    asked = question("May I return a lamp that I have used for reading?")
    async with database.begin() as connection:
        ordinary = await queued_run(connection, "tiny")
        await runs.finish(connection, ordinary.run_id, status="failed", error="test")
        await golden.add(
            connection, project=PROJECT, model=MODEL, prompt=asked, answer="Within 30 days.", by="ada"
        )
        held_out = await datasets.rows(connection, ordinary.dataset_id, split="held_out")
        retained = [one.columns for one in held_out if one.columns["source"] == "approved"]
        rows = [row(question(f"{a_subject(9000 + n)}?"), f"{n} days.") for n in range(39)]
        rows.insert(
            1, row(question("MAY I return a lamp that I have used for reading it?"), "Within 99 days.")
        )
        rows += [row(one["prompt"], "Never.") for one in retained]
        job = await a_job(connection, state_dir, rows)
    await answer_requests(database)
    async with database.begin() as connection:
        job = await fine_tuning.get(connection, PROJECT, job.job_id)
        assert job.run_id is not None, job.error
        made = await datasets.get(connection, (await runs.by_id(connection, job.run_id)).dataset_id)
        frozen = await datasets.rows(connection, made.dataset_id)
        told = [event.message for event in await runs.events(connection, job.run_id)]
    assert [one.columns["prompt"] for one in frozen if one.split == "golden"] == [asked]
    learned = [str(one.columns["prompt"]).casefold() for one in frozen if one.split == "train"]
    assert len(learned) == made.counts["train"] and not [one for one in learned if "lamp" in one]
    assert not {str(one["prompt"]).casefold() for one in retained} & set(learned)
    assert made.counts["excluded"] == {"asks nearly what is evaluated with": 1 + len(retained)}
    lines = ", ".join(str(line) for line in (2, *range(41, 41 + len(retained))))
    assert [one for one in told if one.startswith(f"{1 + len(retained)} rows are not trained on")]
    assert [one for one in told if one.endswith(f"Lines of the training file: {lines}.")]


async def test_a_run_asked_for_over_http_is_planned_and_queued_by_the_worker(
    database: Database, database_url: str, state_dir: Path
) -> None:
    async with database.begin() as connection:
        await teach(connection, "tiny")
    async with running_gateway(database, database_url, state_dir) as running:
        plan = await running.client.post(f"/admin/v1/models/{MODEL}/plan", json={})
        run = await running.client.post(f"/admin/v1/models/{MODEL}/runs", json={"recipe": {"rank": 2}})
        wrong = await running.client.post(f"/admin/v1/models/{MODEL}/runs", json={"method": "ppo"})
        unfit = await running.client.post(f"/admin/v1/models/{MODEL}/runs", json={"method": "kto"})
        assert [answer.status_code for answer in (plan, run, wrong, unfit)] == [202, 202, 400, 202]
        await answer_requests(database)
        planned, queued, refused = [
            (await running.client.get(f"/admin/v1/run-requests/{asked.json()['request_id']}")).json()
            for asked in (plan, run, unfit)
        ]
    assert (planned["status"], planned["run_id"], planned["plan"]["method"]) == ("done", None, "sft")
    assert queued["status"] == "done" and queued["plan"]["recipe"]["rank"] == 2
    assert refused["status"] == "refused" and "KTO was asked for" in refused["refusal"]
    async with database.begin() as connection:
        (made,) = await runs.unfinished(connection)
        assert (made.run_id, made.requested_by) == (queued["run_id"], queued["requested_by"])
        assert await run_requests.waiting(connection) == []


@pytest.mark.parametrize("kind", ["plan", "now", "dataset"])
async def test_a_request_that_is_cancelled_while_it_is_planned_leaves_nothing_and_holds_up_nobody(
    kind: str, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with database.begin() as connection:
        await teach(connection, "tiny")
        first = await run_requests.create(connection, PROJECT, MODEL, kind, by="ada")
        second = await run_requests.create(connection, PROJECT, MODEL, "plan", by="ada")

    async def cancelled(connection: AsyncConnection, *asked: Any, **options: Any) -> Plan:
        with suppress(IllegalMove):
            async with database.begin() as other:
                await run_requests.cancel(other, PROJECT, first.request_id, by="ada")
        return await make_plan(connection, *asked, **options)

    for module in (requests, plan):
        monkeypatch.setattr(module, "make_plan", cancelled)
    await answer_requests(database)
    async with database.begin() as connection:
        answered = await run_requests.get(connection, PROJECT, first.request_id)
        other = await run_requests.get(connection, PROJECT, second.request_id)
        assert await runs.in_project(connection, PROJECT) == []
        assert await datasets.in_project(connection, PROJECT) == []
    assert (answered.refusal, answered.run_id, other.status) == ("Cancelled on request.", None, "done")


@pytest.mark.parametrize(
    ("windows", "hour", "may"),
    [
        ((), 12, True),
        (("22:00-06:00",), 23, True),
        (("22:00-06:00",), 5, True),
        (("22:00-06:00",), 6, False),
        (("01:00-02:00", "12:00-13:00"), 12, True),
        (("01:00-02:00",), 0, False),
    ],
)
def test_runs_train_only_in_their_windows(windows: tuple[str, ...], hour: int, may: bool) -> None:
    now = datetime(2026, 11, 21, hour, 30 if hour != 6 else 0, tzinfo=UTC)
    assert (reason_to_wait(TrainingPolicy(windows=windows), now, None) is None) is may


async def test_runs_rest_while_the_engines_are_busy_and_not_for_engines_that_say_nothing() -> None:
    text = 'vllm:num_requests_running{model_name="a"} 3.0\nvllm:num_requests_waiting{model_name="a"} 2.0\n'

    async def says(asked: Asked) -> None:
        asked.writer.write(f"HTTP/1.1 200 OK\r\ncontent-length: {len(text)}\r\n\r\n{text}".encode())

    async with fake_engine(says) as engine:
        assert await queue_depth([engine.url, "http://127.0.0.1:9"]) == 5
    assert await queue_depth(["http://127.0.0.1:9"]) is None
    policy, now = TrainingPolicy(queue_depth_max=4), datetime.now(UTC)
    assert "busy" in (reason_to_wait(policy, now, 5) or "")
    assert reason_to_wait(policy, now, 4) is None and reason_to_wait(policy, now, None) is None


def test_a_window_that_is_no_window_is_refused() -> None:
    with pytest.raises(ValueError, match=r"training\.windows"):
        read_policy({"training": {"windows": ["at night"]}})
