"""Searches and datasets that were asked for are carried out by the worker, once, and can be ended."""

import asyncio
from pathlib import Path

import pytest

from feedback import datasets, run_requests, runs, searches
from feedback.database import Database
from feedback.errors import IllegalMove
from feedback.run_requests import RunRequest, search_of
from retrain import search_child
from retrain.requests import answer_requests
from retrain.settings import RetrainSettings
from retrain.when import why_wait
from retrain.worker import Worker
from tests.builders import PROJECT
from tests.retrain.record import MODEL, teach


async def an_asked_search(database: Database, base_model: Path | str, *, trials: int = 1) -> RunRequest:
    async with database.begin() as connection:
        await teach(connection, base_model)
        return await run_requests.create(
            connection, PROJECT, MODEL, "search", search=search_of(trials, "random"), by="ada"
        )


async def again(database: Database, request: RunRequest) -> RunRequest:
    async with database.begin() as connection:
        return await run_requests.get(connection, PROJECT, request.request_id)


async def test_a_search_that_was_asked_for_keeps_its_trials_and_changes_nothing_else(
    database: Database, tiny_model: Path, tmp_path: Path
) -> None:
    asked = await an_asked_search(database, tiny_model)
    said = await search_child.look(database, tmp_path)
    answered = await again(database, asked)
    assert (answered.status, answered.refusal) == ("done", None), said
    assert answered.search_id is not None
    async with database.begin() as connection:
        (trial,) = await searches.trials(connection, PROJECT, answered.search_id)
        assert trial.status == "complete"
        assert await runs.in_project(connection, PROJECT) == []
    assert await search_child.look(database, tmp_path) == []


async def test_a_search_without_rows_says_what_is_missing(database: Database, tmp_path: Path) -> None:
    async with database.begin() as connection:
        await teach(connection, "tiny", people=1)
        asked = await run_requests.create(
            connection, PROJECT, MODEL, "search", search=search_of(2, "grid"), by="ada"
        )
    await search_child.look(database, tmp_path)
    answered = await again(database, asked)
    assert answered.status == "refused"
    assert "There is nothing to search with." in (answered.refusal or "")


async def test_a_search_ends_when_it_is_cancelled_and_only_once(database: Database, tmp_path: Path) -> None:
    asked = await an_asked_search(database, "tiny", trials=200)
    looking = asyncio.create_task(search_child.look(database, tmp_path))
    while (await again(database, asked)).status == "waiting":
        await asyncio.sleep(0.05)
    async with database.begin() as connection:
        await run_requests.cancel(connection, PROJECT, asked.request_id, by="ada")
    await looking
    answered = await again(database, asked)
    assert (answered.status, answered.refusal) == ("refused", "Cancelled on request.")
    async with database.begin() as connection:
        assert await run_requests.in_project(connection, PROJECT) == [answered]
        assert await run_requests.in_project(connection, "other") == []
        with pytest.raises(IllegalMove, match="is 'refused'"):
            await run_requests.cancel(connection, PROJECT, asked.request_id, by="ada")


async def test_a_search_that_lost_its_worker_is_not_begun_again_by_itself(
    database: Database, tmp_path: Path
) -> None:
    asked = await an_asked_search(database, "tiny")
    async with database.begin() as connection:
        await run_requests.begin_search(connection, asked)
    assert await search_child.look(database, tmp_path) == []
    assert (await again(database, asked)).refusal == search_child.LOST


async def test_a_search_waits_until_nothing_is_trained(database: Database, tmp_path: Path) -> None:
    asked = await an_asked_search(database, "tiny")
    async with database.begin() as connection:
        await run_requests.create(connection, PROJECT, MODEL, "now", by="ada")
    await answer_requests(database)
    assert await search_child.look(database, tmp_path) == []
    assert (await again(database, asked)).status == "waiting"


async def test_a_run_that_is_queued_meanwhile_says_what_it_waits_for(
    database: Database, tmp_path: Path
) -> None:
    asked = await an_asked_search(database, "tiny")
    async with database.begin() as connection:
        search_id = await run_requests.begin_search(connection, asked)
        await run_requests.create(connection, PROJECT, MODEL, "now", by="ada")
    await answer_requests(database)
    worker = Worker(database, tmp_path, RetrainSettings())
    await worker.tick()
    assert worker.child is None
    async with database.begin() as connection:
        (run,) = await runs.unfinished(connection)
        *_, waits = await runs.events(connection, run.run_id)
        await run_requests.cancel(connection, PROJECT, asked.request_id, by="ada")
    assert waits.message == (
        f"Waits: search {search_id} goes on; `hone retrain cancel {asked.request_id}` lets the run go first."
    )
    assert await why_wait(database, run, worker.settings) is None


async def test_a_dataset_that_was_asked_for_is_frozen_without_a_run(database: Database) -> None:
    async with database.begin() as connection:
        await teach(connection, "tiny")
        asked = await run_requests.create(connection, PROJECT, MODEL, "dataset", by="ada")
        unfit = await run_requests.create(connection, PROJECT, MODEL, "dataset", method="kto", by="ada")
    await answer_requests(database)
    made, refused = await again(database, asked), await again(database, unfit)
    assert made.status == "done" and refused.status == "refused"
    assert "No dataset can be made" in (refused.refusal or "")
    async with database.begin() as connection:
        (frozen,) = await datasets.in_project(connection, PROJECT)
        assert frozen.dataset_id == made.dataset_id and frozen.counts["train"] > 0
        assert await runs.in_project(connection, PROJECT) == []
