"""What gateways ask for and the worker answers, when runs may train, and what they start from."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from feedback import adapters, models, run_requests, runs
from feedback.database import Database
from feedback.policy import TrainingPolicy, read_policy
from feedback.privacy_tables import erasures
from retrain.file_rows import FileRow
from retrain.replay import replayed
from retrain.requests import answer_requests
from retrain.start import choose_start
from retrain.when import queue_depth, reason_to_wait
from tests.builders import PASSED, PROJECT
from tests.fakes import Asked, fake_engine
from tests.retrain.record import MODEL, queued_run, teach
from tests.serving.running import running_gateway


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


async def test_a_champion_is_continued_until_something_speaks_against_it(
    database: Database, tmp_path: Path
) -> None:
    async with database.begin() as connection:
        run = await queued_run(connection, "tiny")
        model = await models.get(connection, PROJECT, MODEL)
        assert "base model, on all" in (await choose_start(connection, model)).sentence
        model = await models.change_policy(
            connection, PROJECT, MODEL, {"training": {"start": "champion", "from_base_every": 2}}, by="ada"
        )
        assert "champion is the base model" in (await choose_start(connection, model)).sentence

        first = await _champion(connection, run, 1, tmp_path / "one")
        start = await choose_start(connection, model)
        assert (start.start_from, start.since) == (first.path, run.created_at)
        (tmp_path / "one").rename(tmp_path / "elsewhere")
        assert "not on this machine" in (await choose_start(connection, model)).sentence
        (tmp_path / "elsewhere").rename(tmp_path / "one")

        again = await _run(connection, run, start_from=first.path)
        await _champion(connection, again, 2, tmp_path / "two")
        assert "2 runs in a row" in (await choose_start(connection, model)).sentence

        model = await models.change_policy(
            connection, PROJECT, MODEL, {"training": {"from_base_every": 5}}, by="ada"
        )
        assert (await choose_start(connection, model)).start_from == str(tmp_path / "two")
        erased = {
            "erasure_id": "e",
            "project": PROJECT,
            "kind": "rater",
            "phase": "done",
            "subject_hash": b"x",
        }
        later = datetime.now(UTC) + timedelta(seconds=1)
        await connection.execute(insert(erasures).values(**erased, requested_by="ada", requested_at=later))
        assert "something was erased" in (await choose_start(connection, model)).sentence


async def _run(connection: Any, like: runs.Run, **recipe: Any) -> runs.Run:
    return await runs.create(
        connection,
        project=PROJECT,
        model=MODEL,
        method=like.method,
        recipe=like.recipe | recipe,
        recipe_hash="r",
        dataset_id=like.dataset_id,
        by="test",
    )


async def _champion(connection: Any, run: runs.Run, version: int, directory: Path) -> adapters.Adapter:
    directory.mkdir()  # noqa: ASYNC240 # a test waits for nobody
    assert run.adapter_id is not None
    adapter = await adapters.register(
        connection,
        adapter_id=run.adapter_id,
        project=PROJECT,
        model=MODEL,
        version=version,
        base_model="tiny",
        path=str(directory),
        files_hash="0" * 64,
        run_id=run.run_id,
        by="test",
    )
    await runs.finish(connection, run.run_id, status="succeeded")
    adapter = await adapters.decide(connection, adapter, report=PASSED, evidence_hash="e" * 64, by="test")
    adapter = await adapters.move(connection, adapter, "approve", by="ada")
    return await adapters.promote(connection, adapter, by="ada", reason="test")


def test_the_same_part_of_a_fixed_set_is_repeated_whatever_its_order() -> None:
    fixed = [FileRow(f"Question {n}?", f"Answer {n}.") for n in range(50)]
    rows = replayed(fixed, "kto", 80, 0.2)
    assert len(rows) == 20
    assert rows == replayed(fixed[::-1], "kto", 80, 0.2)
    assert all(row.columns["label"] and row.columns["replay"] for row in rows)
    assert len(replayed(fixed, "sft", 1000, 0.5)) == 50


def test_a_window_that_is_no_window_is_refused() -> None:
    with pytest.raises(ValueError, match=r"training\.windows"):
        read_policy({"training": {"windows": ["at night"]}})
