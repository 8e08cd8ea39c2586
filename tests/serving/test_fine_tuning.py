"""OpenAI's fine-tuning calls as its own SDK makes them; the worker's part is done by hand where training would be."""

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import orjson
import pytest

from feedback import adapters, fine_tuning, keys, runs
from feedback.adapters import Adapter
from feedback.database import Database
from feedback.settings import FeedbackSettings
from feedback.uploads import FileStore
from retrain import requests
from retrain.job_results import keep_job_results
from retrain.recipe import Recipe
from retrain.requests import answer_requests
from retrain.step_metrics import history_of
from retrain.training import TrainingResult
from tests.builders import FAILED, PASSED, PROJECT
from tests.fakes import fake_engine
from tests.interleaved import meanwhile
from tests.serving.running import Running, hold, running_gateway


@dataclass
class Tuning:
    running: Running
    client: openai.AsyncOpenAI
    engine_url: str

    @property
    def database(self) -> Database:
        return self.running.database

    async def upload(self, content: bytes, name: str = "shop.jsonl") -> str:
        return (await self.client.files.create(file=(name, content), purpose="fine-tune")).id

    async def job(self, content: bytes = b"", **fields: Any) -> str:
        file = await self.upload(content or sft_file())
        made = await self.client.fine_tuning.jobs.create(
            **{"model": "support", "training_file": file, **fields}
        )
        return made.id

    async def train(self, job_id: str, report: dict[str, Any]) -> Adapter:
        """What the worker does with a job's run, without training."""
        await answer_requests(self.database)
        async with self.database.begin() as connection:
            (run,) = await runs.unfinished(connection)
            assert run.adapter_id is not None
            data = {"step": 3, "steps": 9, "loss": 0.5}
            await runs.add_event(connection, run.run_id, "Step 3 of 9, loss 0.5000", data=data)
            done = {"step": 9, "train_loss": 0.25, "valid_loss": 0.75, "train_accuracy": 0.5}
            await runs.add_event(connection, run.run_id, "Trained in 1.0 s.", data=done)
            adapter = await adapters.register(
                connection,
                adapter_id=run.adapter_id,
                project=PROJECT,
                model=run.model,
                version=1,
                base_model="tiny",
                path="/nowhere",
                files_hash="0" * 64,
                run_id=run.run_id,
                by="test",
            )
            adapter = await adapters.decide(
                connection, adapter, report=report, evidence_hash="e" * 64, by="test"
            )
            store = FileStore.of(FeedbackSettings.load())
            for _ in range(2):  # the process may have been killed after the first
                await keep_job_results(connection, run, a_result(), store)
            await runs.finish(connection, run.run_id, status="succeeded")
        await hold(self.database, adapter, self.engine_url)
        return adapter


LOGGED = [
    {"step": 1, "loss": 0.75, "mean_token_accuracy": 0.25, "num_tokens": 120.0},
    {"step": 2, "loss": 0.25, "mean_token_accuracy": 0.5, "num_tokens": 240.0},
    {"step": 2, "eval_loss": 0.5, "eval_mean_token_accuracy": 0.375},
]


def a_result() -> TrainingResult:
    """What a training of two steps came to."""
    return TrainingResult(Path("/nowhere"), 30, 0, 2, 0.25, 1.0, 1, "cpu", history=history_of(LOGGED))


def sft_file(rows: int = 30) -> bytes:
    def row(n: int) -> dict[str, Any]:
        asked, said = f"{n:05b}{n}: may I?", f"Yes, number {n}."
        return {"messages": [{"role": "user", "content": asked}, {"role": "assistant", "content": said}]}

    return b"\n".join(orjson.dumps(row(n)) for n in range(rows))


@pytest.fixture
async def tuning(database: Database, database_url: str, state_dir: Path) -> AsyncIterator[Tuning]:
    async with _tuning(database, database_url, state_dir) as found:
        yield found


@asynccontextmanager
async def _tuning(database: Database, database_url: str, state_dir: Path) -> AsyncIterator[Tuning]:
    async with (
        fake_engine() as engine,
        running_gateway(database, database_url, state_dir, engine.url) as running,
        openai.AsyncOpenAI(base_url=f"{running.url}/v1", api_key=running.key, max_retries=0) as client,
    ):
        yield Tuning(running, client, engine.url)


async def test_a_file_comes_back_as_it_was_sent_and_is_gone_when_deleted(
    tuning: Tuning, state_dir: Path
) -> None:
    content = sft_file(4000)
    assert len(content) > 2**18
    file_id = await tuning.upload(content, name="../../shop.jsonl")
    shown = await tuning.client.files.retrieve(file_id)
    assert (shown.bytes, shown.purpose, shown.status) == (len(content), "fine-tune", "processed")
    assert (await tuning.client.files.content(file_id)).content == content
    assert [path.name for path in (state_dir / "files").iterdir()] == [file_id]
    other = await tuning.upload(b"{}")
    assert [file.id async for file in tuning.client.files.list(limit=1)] == [other, file_id]
    assert (await tuning.client.files.delete(file_id)).deleted
    with pytest.raises(openai.NotFoundError, match=file_id):
        await tuning.client.files.retrieve(file_id)
    assert [path.name for path in (state_dir / "files").iterdir()] == [other]


async def test_a_file_that_is_not_jsonl_is_refused_by_line(tuning: Tuning) -> None:
    for content, says in (
        (b'{"messages": []}\nhello', "'shop.jsonl', line 2: it is not JSON"),
        (b"[1]", "'shop.jsonl', line 1: it is '[1]', not an object"),
        (b"\n\n", "'shop.jsonl' is empty"),
    ):
        with pytest.raises(openai.BadRequestError, match=re.escape(says)):
            await tuning.upload(content)
    with pytest.raises(openai.BadRequestError, match="'purpose' is 'batch'"):
        await tuning.client.files.create(file=("a.jsonl", b"{}"), purpose="batch")
    assert [file async for file in tuning.client.files.list()] == []


async def test_a_file_past_the_limit_is_refused(
    database: Database, database_url: str, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HONE_FILE_BYTES_MAX", "100000")
    async with _tuning(database, database_url, state_dir) as tuning:
        with pytest.raises(openai.APIStatusError, match="longer than 100000 bytes") as raised:
            await tuning.upload(sft_file(4000))
    assert raised.value.status_code == 413


async def test_a_job_that_cannot_be_is_refused_by_its_field(tuning: Tuning) -> None:
    file = await tuning.upload(sft_file())
    refused: list[tuple[dict[str, Any], str, str]] = [
        ({"model": "gpt-4o"}, "model", "no model 'gpt-4o' to fine-tune; it has: support"),
        ({"training_file": "file-1"}, "training_file", "no file 'file-1'"),
        ({"validation_file": "file-2"}, "validation_file", "no file 'file-2'"),
        ({"method": {"type": "reinforcement"}}, "method.type", "'reinforcement'"),
        ({"method": {"type": "dpo", "kto": {}}}, "method", "options of 'kto' are given"),
        ({"hyperparameters": {"n_epochs": 0}}, "hyperparameters.n_epochs", "greater than or equal to 1"),
        ({"hyperparameters": {"beta": 0.1}}, "beta", "the method is supervised"),
        ({"suffix": "a b"}, "suffix", "'a b'"),
        ({"integrations": [{"type": "wandb"}]}, "integrations", "wandb.*leave integrations out"),
    ]
    for fields, param, says in refused:
        with pytest.raises(openai.APIStatusError, match=says) as raised:
            await tuning.client.fine_tuning.jobs.create(
                **{"model": "support", "training_file": file, **fields}
            )
        assert raised.value.status_code == (404 if param == "model" else 400)
        assert isinstance(raised.value.body, dict) and raised.value.body["param"] == param


async def test_rows_of_another_method_end_the_job_naming_file_and_line(tuning: Tuning) -> None:
    job_id = await tuning.job(method={"type": "dpo"})
    await answer_requests(tuning.database)
    job = await tuning.client.fine_tuning.jobs.retrieve(job_id)
    assert job.status == "failed"
    assert job.error is not None
    assert (job.error.code, job.error.param) == ("invalid_training_file", "training_file")
    assert "'shop.jsonl'" in job.error.message and "line 1: 'prompt' is missing" in job.error.message


async def test_too_few_rows_end_the_job_with_the_number_needed(tuning: Tuning) -> None:
    job_id = await tuning.job(sft_file(8))
    await answer_requests(tuning.database)
    job = await tuning.client.fine_tuning.jobs.retrieve(job_id)
    assert job.error is not None and "at least 10 are needed" in job.error.message
    events = await tuning.client.fine_tuning.jobs.list_events(job_id)
    assert [event.level for event in events.data] == ["error", "info"]


@pytest.mark.parametrize(("report", "says"), [(PASSED, "passed the gate"), (FAILED, "the gate rejected it")])
async def test_a_succeeded_job_answers_under_its_name_whatever_the_gate_said(
    tuning: Tuning, report: dict[str, Any], says: str
) -> None:
    chosen = {"n_epochs": 2, "learning_rate_multiplier": 0.5}
    job_id = await tuning.job(
        suffix="shop",
        seed=3,
        metadata={"team": "a"},
        method={"type": "supervised", "supervised": {"hyperparameters": chosen}},
    )
    adapter = await tuning.train(job_id, report)
    job = await tuning.client.fine_tuning.jobs.retrieve(job_id)
    assert (job.status, job.seed, job.metadata) == ("succeeded", 3, {"team": "a"})
    assert job.hyperparameters.n_epochs == 2 and job.hyperparameters.batch_size == 8
    name = job.fine_tuned_model
    assert name == f"ft:tiny:default:shop:{adapter.adapter_id.rpartition('-')[2]}"

    question: Any = [{"role": "user", "content": "How long?"}]
    await tuning.running.gateway.tables.refresh()
    answer = await tuning.client.chat.completions.create(model=name, messages=question)
    assert answer.model == "support@1"
    assert (
        await tuning.client.chat.completions.create(model="support", messages=question)
    ).model == "support@0"
    assert name in [model.id async for model in tuning.client.models.list()]

    events = [event async for event in tuning.client.fine_tuning.jobs.list_events(job_id, limit=2)]
    assert says in events[0].message and name in events[0].message
    (step,) = [event for event in events if event.type == "metrics"]
    assert step.data == {"step": 3, "steps": 9, "total_steps": 9, "train_loss": 0.5, "loss": 0.5}
    (checkpoint,) = [one async for one in tuning.client.fine_tuning.jobs.checkpoints.list(job_id)]
    assert (checkpoint.step_number, checkpoint.metrics.valid_loss) == (9, 0.75)
    assert checkpoint.fine_tuned_model_checkpoint == name

    assert (await tuning.client.models.delete(name)).deleted
    await tuning.running.gateway.tables.refresh()
    with pytest.raises(openai.NotFoundError):
        await tuning.client.chat.completions.create(model=name, messages=question)
    async with tuning.database.begin() as connection:
        wanted = [one.name for one in await adapters.wanted_on_engines(connection)]
    assert ("support@1" in wanted) is (report is PASSED)


async def test_a_job_goes_on_from_the_model_of_an_earlier_one(tuning: Tuning) -> None:
    first = await tuning.job()
    adapter = await tuning.train(first, PASSED)
    name = (await tuning.client.fine_tuning.jobs.retrieve(first)).fine_tuned_model
    await tuning.job(model=name)
    await answer_requests(tuning.database)
    async with tuning.database.begin() as connection:
        (run,) = await runs.unfinished(connection)
    assert (run.recipe["start_from"], run.recipe["reference"]) == (adapter.path, "base")


async def test_jobs_of_one_model_wait_for_each_other_and_may_rest(tuning: Tuning) -> None:
    jobs = tuning.client.fine_tuning.jobs
    first, second = await tuning.job(), await tuning.job(metadata={"n": "2"})
    await answer_requests(tuning.database)
    assert (await jobs.retrieve(first)).status == (await jobs.retrieve(second)).status == "queued"
    async with tuning.database.begin() as connection:
        (run,) = await runs.unfinished(connection)
    assert str((await jobs.pause(second)).status) == "paused"
    assert (await jobs.resume(second)).status == "validating_files"
    with pytest.raises(openai.ConflictError, match="not paused"):
        await jobs.resume(second)
    await jobs.pause(first)
    async with tuning.database.begin() as connection:
        assert (await runs.by_id(connection, run.run_id)).pause_requested
    assert (await jobs.cancel(second)).status == "cancelled"
    with pytest.raises(openai.ConflictError, match="has ended as 'cancelled'"):
        await jobs.cancel(second)
    assert [job.id async for job in jobs.list(limit=1)] == [second, first]
    assert [job.id async for job in jobs.list(metadata={"n": "2"})] == [second]


@pytest.mark.parametrize("verb", ["cancel", "pause"])
async def test_a_job_that_is_stopped_while_its_files_are_read_gets_no_run(
    tuning: Tuning, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, jobs = await tuning.job(), tuning.client.fine_tuning.jobs
    job_recipe = requests.job_recipe

    async def stopped(*asked: Any) -> Recipe:
        await getattr(jobs, verb)(job_id)
        return await job_recipe(*asked)

    monkeypatch.setattr(requests, "job_recipe", stopped)
    await answer_requests(tuning.database)
    await answer_requests(tuning.database)
    assert str((await jobs.retrieve(job_id)).status) == {"cancel": "cancelled", "pause": "paused"}[verb]
    async with tuning.database.begin() as connection:
        assert await runs.in_project(connection, PROJECT) == []


async def test_a_job_that_is_cancelled_while_its_run_is_queued_takes_the_run_with_it(
    tuning: Tuning, monkeypatch: pytest.MonkeyPatch
) -> None:
    job_id, attach = await tuning.job(), fine_tuning.attach
    cancelling = []

    async def attached(*asked: Any, **options: Any) -> None:
        cancelling.append(
            await meanwhile(
                tuning.database, lambda other: fine_tuning.cancel(other, PROJECT, job_id, by="ada")
            )
        )
        await attach(*asked, **options)

    monkeypatch.setattr(fine_tuning, "attach", attached)
    await answer_requests(tuning.database)
    await cancelling[0]
    async with tuning.database.begin() as connection:
        (run,) = await runs.unfinished(connection)
    assert run.cancel_requested


async def test_keys_of_role_app_may_ask_but_not_train(tuning: Tuning) -> None:
    async with tuning.database.begin() as connection:
        _, key = await keys.create(connection, role="app", name="app", by="test", project=PROJECT)
    await tuning.running.gateway.tables.refresh()
    with pytest.raises(openai.PermissionDeniedError, match="role operator or admin"):
        await tuning.client.with_options(api_key=key).fine_tuning.jobs.list()


async def test_what_a_job_measured_at_each_step_can_be_downloaded_but_not_trained_on(tuning: Tuning) -> None:
    job_id = await tuning.job()
    before = await tuning.client.fine_tuning.jobs.retrieve(job_id)
    assert (before.result_files, before.trained_tokens) == ([], None)
    await tuning.train(job_id, PASSED)
    job = await tuning.client.fine_tuning.jobs.retrieve(job_id)
    (file_id,) = job.result_files
    assert job.trained_tokens == 240
    file = await tuning.client.files.retrieve(file_id)
    assert (file.filename, file.purpose) == ("step_metrics.csv", "fine-tune-results")
    assert [one.id async for one in tuning.client.files.list(purpose="fine-tune-results")] == [file_id]
    content = await tuning.client.files.content(file_id)
    assert content.text.splitlines() == [
        "step,train_loss,train_accuracy,valid_loss,valid_mean_token_accuracy",
        "1,0.75,0.25,,",
        "2,0.25,0.5,0.5,0.375",
    ]
    (checkpoint,) = (await tuning.client.fine_tuning.jobs.checkpoints.list(job_id)).data
    assert (checkpoint.metrics.train_loss, checkpoint.metrics.train_mean_token_accuracy) == (0.25, 0.5)
    with pytest.raises(openai.BadRequestError, match="has purpose 'fine-tune-results'"):
        await tuning.client.fine_tuning.jobs.create(model="support", training_file=file_id)


async def test_an_upload_that_is_not_in_the_record_leaves_nothing_behind(
    tuning: Tuning, monkeypatch: pytest.MonkeyPatch, state_dir: Path
) -> None:
    async def away(*_: Any, **__: Any) -> None:
        raise ConnectionError("the database went away")

    monkeypatch.setattr("serving.files.uploads.create", away)
    with pytest.raises(openai.InternalServerError):
        await tuning.upload(sft_file())
    assert [path for path in (state_dir / "files").rglob("*") if path.is_file()] == []
