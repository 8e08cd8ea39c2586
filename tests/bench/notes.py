"""Measure what it costs a completion, and a vote, that it notes itself for the sums behind a running verdict.

    python -m tests.bench.notes [--rounds N]

On an embedded PostgreSQL of its own, everything belongs to a running split. Rounds with the triggers and without them
take turns in pairs, and whichever goes first changes every time; the median of the pairs' ratios of CPU time,
PostgreSQL's and Python's together, moves least with what else the machine does.
"""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory

import orjson
from sqlalchemy import text

from deploy.postgres import EmbeddedPostgres
from feedback import experiments, submissions
from feedback.database import Database, migrate
from feedback.importers.load import store_feedback
from tests.bench.record import PROJECT, Meter, batches, ingest
from tests.builders import an_adapter

ROWS = 4096
VOTES = 150
TRIGGERS = (("completions", "exposure_arrives"), ("feedback", "votes_insert"), ("feedback", "votes_update"))
Round = Callable[[int], Awaitable[int]]
"""Prepares one round; what it returns is measured."""


async def measure(database: Database, meter: Meter, rounds: int) -> None:
    """Print a line for each way in which rows arrive."""
    async with database.begin() as connection:
        split = await experiments.start_canary(
            connection, await an_adapter(connection, state="approved"), by="bench"
        )
        await connection.execute(text("SELECT make_partitions(current_date - 7, current_date)"))
    said: list[str] = []

    def complete(number: int) -> Awaitable[int]:
        some = [[_in_split(one, split.experiment_id) for one in batch] for batch in batches(ROWS, number)]
        said.extend(orjson.loads(one)["completion_id"] for batch in some for one in batch)
        return ingest(database, some)

    def vote(number: int) -> Awaitable[int]:
        return _one_by_one(database, _votes(said, VOTES))

    def bring_in(number: int) -> Awaitable[int]:
        return _together(database, _votes(said, VOTES * 10))

    for name, work in (("completions", complete), ("votes, API", vote), ("votes, import", bring_in)):
        low, middle, high = quantiles(await _ratios(database, meter, work, rounds), n=4)
        print(
            f"{name:<14} takes {middle:.3f} times the CPU that it takes without notes (half of the pairs: {low:.3f} to "
            f"{high:.3f})",
            flush=True,
        )


async def _ratios(database: Database, meter: Meter, work: Round, rounds: int) -> list[float]:
    """CPU per row with notes over that without, of each pair of rounds."""
    found: list[float] = []
    await work(-1)
    for number in range(rounds):
        per_row: dict[bool, float] = {}
        for noted in (True, False) if number % 2 else (False, True):
            await _switch(database, noted)
            cost = await meter.measure(work(2 * number + noted))
            per_row[noted] = cost.cpu_seconds / cost.rows
        found.append(per_row[True] / per_row[False])
    await _switch(database, True)
    return found


async def _one_by_one(database: Database, given: list[submissions.Submission]) -> int:
    for one in given:
        async with database.begin() as connection:
            await submissions.store(connection, one)
    return len(given)


async def _together(database: Database, given: list[submissions.Submission]) -> int:
    async with database.begin() as connection:
        await store_feedback(connection, given)
    return len(given)


async def _switch(database: Database, noted: bool) -> None:
    async with database.begin() as connection:
        for table, trigger in TRIGGERS:
            await connection.execute(
                text(f"ALTER TABLE {table} {'ENABLE' if noted else 'DISABLE'} TRIGGER {trigger}")
            )
        await connection.execute(text("TRUNCATE exposure_changes"))


def _in_split(document: bytes, experiment_id: str) -> bytes:
    named = document.replace(b'"experiment_id":null', f'"experiment_id":"{experiment_id}"'.encode())
    return named.replace(b'"arm":null', b'"arm":"champion"').replace(
        b'"propensity":null', b'"propensity":0.9'
    )


def _votes(said: list[str], count: int) -> list[submissions.Submission]:
    """On answers that nobody has voted on yet."""
    names, said[:] = said[:count], said[count:]
    assert len(names) == count, "more votes than completions"
    return [
        submissions.submission(
            project=PROJECT,
            completion_id=name,
            rater=f"rater-{number % 997:024x}",
            kind="rating",
            value=number % 3 > 0,
        )
        for number, name in enumerate(names)
    ]


def main(arguments: Sequence[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.notes", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10, help="Rounds each way.")
    chosen = parser.parse_args(arguments)

    async def work(server: EmbeddedPostgres) -> None:
        async with Database(server.url) as database:
            await measure(database, Meter(server), chosen.rounds)

    with TemporaryDirectory(prefix="hone-bench-") as name:
        directory = Path(name)
        directory.chmod(0o711)
        with EmbeddedPostgres(directory / "postgres", settings={"synchronous_commit": "off"}) as server:
            migrate(server.url)
            asyncio.run(work(server))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
