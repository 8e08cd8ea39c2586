"""Carry out searches that were asked for in the console or over HTTP: one at a time, each in a process of its own.

A search waits until nothing is trained, and a run that is queued meanwhile waits for the search. Trials are in the
record as they end, so a search that was cancelled, or lost its worker, leaves what it has tried; it is not begun again
by itself.

    python -m retrain.search_child --request REQUEST_ID
"""

import argparse
import asyncio
from contextlib import suppress
from pathlib import Path

from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import run_requests, runs
from feedback.database import Database
from feedback.errors import HoneError, IllegalMove
from feedback.run_requests import RunRequest
from feedback.settings import FeedbackSettings
from retrain.children import child_environment, end_child, heed_sigterm, start_child
from retrain.scratch import sweep
from retrain.search_run import search

POLL_SECONDS = 1.0
LOST = "The worker ended while it searched. What was tried is kept; ask again for more."


async def look(database: Database, state_dir: Path, threads: int = 1) -> list[str]:
    """Carry out the oldest search that waits, to its end; returns what was done, one sentence each."""
    await asyncio.to_thread(sweep, state_dir)
    async with database.begin() as connection:
        # One worker leads, and looks once at a time: what runs in the record and not here has lost its process.
        for left in await run_requests.waiting(connection, status="running"):
            await _answer(connection, left, LOST)
        asked = [one for one in await run_requests.waiting(connection) if one.kind == "search"]
        if not asked or await runs.unfinished(connection):
            return []
        try:
            search_id = await run_requests.begin_search(connection, asked[0])
        except IllegalMove:
            return []  # Cancelled since it was read.
    log_file = state_dir / "logs" / "search.log"
    status = await _carry_out(database, asked[0], log_file, state_dir, threads)
    if status == 0:
        return [f"{search_id} for {asked[0].model} ended."]
    async with database.begin() as connection:
        why = f"The search ended with status {status}; {log_file} says why."
        await _answer(connection, asked[0], why)
    return [why]


async def _answer(connection: AsyncConnection, request: RunRequest, refusal: str | None) -> None:
    """Say what came of a search; who cancelled it meanwhile has said so already."""
    with suppress(IllegalMove):
        await run_requests.answer(connection, request.request_id, refusal=refusal)


async def _carry_out(
    database: Database, request: RunRequest, log_file: Path, state_dir: Path, threads: int
) -> int:
    """Run the search's process until its end, or until it is cancelled; returns its exit status."""
    process = await start_child(
        *("retrain.search_child", "--request", request.request_id),
        log_file=log_file,
        environment=child_environment(database, state_dir, threads),
    )
    try:
        while process.returncode is None and await _goes_on(database, request):
            try:
                await asyncio.wait_for(process.wait(), POLL_SECONDS)
            except TimeoutError:
                continue
    finally:
        await end_child(process)
    return process.returncode or 0


async def _goes_on(database: Database, request: RunRequest) -> bool:
    async with database.begin() as connection:
        found = await run_requests.get(connection, request.project, request.request_id)
    return found.status == "running"


def main() -> None:
    """Search as a request asks, and answer it."""
    parser = argparse.ArgumentParser(description="Carry out one search.")
    parser.add_argument("--request", required=True)
    heed_sigterm()
    asked = asyncio.run(_running(parser.parse_args().request))
    options, refusal = asked.search or {}, None
    try:
        search(
            asked.project,
            asked.model,
            trials=int(options["trials"]),
            sampler=str(options["sampler"]),
            method=asked.method,
            search_id=asked.search_id,
        )
    except HoneError as error:
        refusal = str(error)
    asyncio.run(_conclude(asked, refusal))


async def _running(request_id: str) -> RunRequest:
    async with (
        Database(FeedbackSettings.load().resolve_database_url(), pool_size=1) as database,
        database.begin() as connection,
    ):
        every = await run_requests.waiting(connection, status="running")
    return next(one for one in every if one.request_id == request_id)


async def _conclude(request: RunRequest, refusal: str | None) -> None:
    async with (
        Database(FeedbackSettings.load().resolve_database_url(), pool_size=1) as database,
        database.begin() as connection,
    ):
        await _answer(connection, request, refusal)


if __name__ == "__main__":
    main()
