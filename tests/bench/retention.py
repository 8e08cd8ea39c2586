"""Whether the record grows slow, and whether the disk comes back: `python -m tests.bench.retention [--rows 1000000]`.

Inserts completions of 60 days, a day after the other, as a gateway's drain does, and prints what a row costs at the
start and at the end of the way, by wall and by CPU time of the database. Then drops what is over its time, and prints
how long that took and how many bytes came back. 10,000,000 rows take about an hour and 25 GB.
"""

import argparse
import asyncio
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median

import psutil
from sqlalchemy import text

from deploy.postgres import EmbeddedPostgres
from feedback import completions, retention
from feedback.database import Database, migrate
from feedback.ids import new_hex
from feedback.settings import FeedbackSettings
from tests.builders import a_completion
from tests.conftest import open_directory

DAYS = 60
BATCH = 1000
ID_MARK, DAY_MARK = b"@completion@", b"@created@"


def template() -> bytes:
    """One row with marks where its id and moment go: making rows must not be what is measured."""
    row = a_completion(
        completion_id=ID_MARK.decode(),
        output_text="You may return it within 30 days, in its box. " * 4,
        prompt_token_ids=list(range(60)),
        output_token_ids=list(range(64)),
    )
    return completions.document(row).replace(row.created_at.isoformat().encode(), DAY_MARK)


def batch(row: bytes, moment: datetime) -> list[bytes]:
    """Rows of one moment."""
    milliseconds = int(moment.timestamp() * 1000)
    return [
        row.replace(ID_MARK, f"chatcmpl-{milliseconds:012x}{new_hex()[12:]}".encode()).replace(
            DAY_MARK, moment.isoformat().encode()
        )
        for _ in range(BATCH)
    ]


async def size(database: Database) -> int:
    """Bytes of the tables of completions, indexes included."""
    query = "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r' AND relname LIKE 'completion%'"
    async with database.begin() as connection:
        return int(await connection.scalar(text(query)) or 0)


def cpu_seconds(server: psutil.Process) -> float:
    """CPU time of the database's processes up to now."""
    return sum(sum(one.cpu_times()[:2]) for one in (server, *server.children(recursive=True)))


async def measure(url: str, rows: int, server: psutil.Process) -> None:
    """Insert, and drop."""
    row, start = template(), datetime.now(UTC) - timedelta(days=DAYS)
    steps = rows // BATCH
    costs: list[tuple[float, float]] = []
    async with Database(url) as database:
        for step in range(steps):
            documents = batch(row, start + timedelta(days=DAYS) * (step / steps))
            began, cpu = time.perf_counter(), cpu_seconds(server)
            async with database.begin() as connection:
                await completions.insert_documents(connection, documents)
            costs.append((time.perf_counter() - began, cpu_seconds(server) - cpu))
        part = max(1, steps // 20)
        for name, some in (("first", costs[:part]), ("last", costs[-part:])):
            wall, cpu = (median(one[index] for one in some) / BATCH * 1e6 for index in (0, 1))
            print(f"{name} 5%: {wall:.1f} us a row, {cpu:.1f} us of it CPU time of the database")
        before = await size(database)
        began = time.perf_counter()
        done = await retention.keep(
            database, FeedbackSettings(text_retention_days=30, feedback_text_retention_days=0)
        )
        seconds, after = time.perf_counter() - began, await size(database)
    print(f"{rows} rows: {before / 2**20:.0f} MiB, {before / rows:.0f} bytes a row")
    print(f"{len(done)} partitions dropped in {seconds:.2f} s: {(before - after) / 2**20:.0f} MiB came back")


def main() -> None:
    """Run against an embedded server in a directory of its own."""
    parser = argparse.ArgumentParser(description="Insert cost over many rows, and what retention gives back.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    rows = parser.parse_args().rows
    with open_directory() as directory, EmbeddedPostgres(directory / "postgres") as server:
        migrate(server.url)
        pid = int((Path(server.pgdata) / "postmaster.pid").read_text().splitlines()[0])
        asyncio.run(measure(server.url, rows, psutil.Process(pid)))


if __name__ == "__main__":
    main()
