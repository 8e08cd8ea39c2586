"""Measure what the record costs: `python -m tests.bench.record [--rows 100000 1000000]`.

Ingestion (completions as a gateway drains them, feedback as the API stores it and as an import does), bytes on disk,
pages and searches at each size, exports with their peak memory. In the same run, beside them, stands a plain baseline:
COPY of the same rows, as JSON, into one table without an index. Rows per second of wall time move with what else the
machine does; rows per second of CPU time (PostgreSQL and Python together) and the ratios are what counts.

PostgreSQL is the embedded one with its usual, durable settings. Completions are spread over seven days; every tenth is
rated, every hundredth corrected; one in ten carries metadata.
"""

import argparse
import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import asyncpg
import orjson
import psutil
from sqlalchemy import text

from deploy.postgres import EmbeddedPostgres
from feedback import browse, completions, export, keys, models, submissions
from feedback.database import Database, migrate
from feedback.ids import VARIANT
from feedback.importers.load import store_feedback
from feedback.wanted import Wanted

PROJECT = "default"
BATCH = 1024
DAYS = 7
PAGES = 40
EXPORTED_ALL_WAYS = 200_000
RARE = "xylophone"
WORDS = (
    "lamp", "return", "days", "refund", "order", "box", "shipping", "kettle", "warranty", "repair", "price", "shop",
    "customer", "help", "invoice", "address", "colour", "delivery", "week", "working", "please", "contact", "receipt",
)  # fmt: skip


@dataclass
class Cost:
    """What some work took."""

    rows: int
    seconds: float
    cpu_seconds: float

    def __str__(self) -> str:
        return f"{self.rows / self.seconds:>9,.0f} rows/s  {self.rows / self.cpu_seconds:>9,.0f} rows per CPU second"


class Meter:
    """CPU time of PostgreSQL and of this process together."""

    def __init__(self, server: EmbeddedPostgres) -> None:
        self.postmaster = psutil.Process(int((server.pgdata / "postmaster.pid").read_text().split()[0]))

    def cpu_seconds(self) -> float:
        """Up to now; a backend that ends in between takes its share with it, so connections stay open."""
        processes = [self.postmaster, *self.postmaster.children(recursive=True)]
        times = [one.cpu_times() for one in processes]
        return sum(one.user + one.system for one in times) + time.process_time()

    async def measure(self, work: Awaitable[int]) -> Cost:
        """Do the work, which returns how many rows it handled."""
        began, cpu = time.perf_counter(), self.cpu_seconds()
        rows = await work
        return Cost(rows, time.perf_counter() - began, self.cpu_seconds() - cpu)


def documents(count: int, seed: int) -> Iterator[bytes]:
    """Completions as `insert_documents` takes them, oldest first."""
    draw = random.Random(seed)
    start = datetime.now(UTC) - timedelta(days=DAYS)
    for number in range(count):
        at = start + timedelta(days=DAYS) * (number / count)
        noise = f"{draw.getrandbits(80):020x}"
        name = f"chatcmpl-{int(at.timestamp() * 1000):012x}7{noise[:3]}{VARIANT[noise[3]]}{noise[4:19]}"
        asked = [
            {
                "role": "system",
                "content": "You answer questions of customers of a lamp shop, politely and briefly.",
            },
            {"role": "user", "content": " ".join(draw.choices(WORDS, k=20))},
            {"role": "assistant", "content": " ".join(draw.choices(WORDS, k=30))},
            {"role": "user", "content": " ".join(draw.choices(WORDS, k=20))},
        ]
        answer = " ".join(draw.choices(WORDS, k=40)) + (f" {RARE}" if number % 20_000 == 7 else "")
        rater = f"rater-{draw.randrange(count // 10 + 1):024x}"
        metadata = {"page": "returns", "visit": str(number)} if number % 10 == 0 else None
        yield orjson.dumps(
            {
                "completion_id": name, "project": PROJECT, "model": "support" if number % 4 else "sales",
                "adapter_id": "support--v3-00000000", "version": 3, "experiment_id": None,
                "arm": "candidate" if number % 20 == 0 else None, "propensity": None, "unit": rater, "rater": rater,
                "session": f"chat-{number // 3}", "key_id": "key-1", "engine": "http://127.0.0.1:8000",
                "endpoint": "/v1/chat/completions", "consent": True, "status": "ok", "error": None,
                "finish_reason": "stop", "request": {"model": "support", "messages": asked, "temperature": 0.7},
                "output_text": answer, "message": {"role": "assistant", "content": answer},
                "prompt_token_ids": draw.choices(range(32_000), k=95),
                "output_token_ids": draw.choices(range(32_000), k=45),
                "prompt_tokens": 95, "output_tokens": 45, "metadata": metadata, "time_to_first_token_seconds": 0.05,
                "time_per_output_token_seconds": 0.01, "duration_seconds": 0.5, "created_at": at,
                "policy_version": None,
            }
        )  # fmt: skip


def batches(count: int, seed: int) -> Iterator[list[bytes]]:
    """The same, as many at a time as a gateway drains."""
    batch: list[bytes] = []
    for one in documents(count, seed):
        batch.append(one)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


async def ingest(database: Database, some: Sequence[list[bytes]]) -> int:
    """Store completions, a transaction a batch."""
    rows = 0
    for batch in some:
        async with database.begin() as connection:
            rows += await completions.insert_documents(connection, batch)
    return rows


async def copy(raw: asyncpg.Connection, some: Sequence[list[bytes]]) -> int:
    """The baseline: COPY into one table without an index."""
    for batch in some:
        records = [(document.decode(),) for document in batch]
        await raw.copy_records_to_table("baseline", records=records, columns=["document"])
    return sum(map(len, some))


async def ingestion(database: Database, meter: Meter, rows: int, *, seed: int) -> None:
    """Fill the record, and the baseline beside it, in turns; prints both."""
    async with database.begin() as connection:
        await connection.execute(text("DROP TABLE IF EXISTS baseline"))
        await connection.execute(text("CREATE TABLE baseline (document jsonb)"))
    ours, plain, raw_bytes = Cost(0, 0, 0), Cost(0, 0, 0), 0
    waiting: list[list[bytes]] = []
    raw = await database.connect_raw()

    async def both() -> None:
        nonlocal raw_bytes
        for work, total in ((ingest(database, waiting), ours), (copy(raw, waiting), plain)):
            cost = await meter.measure(work)
            total.rows, total.seconds = total.rows + cost.rows, total.seconds + cost.seconds
            total.cpu_seconds += cost.cpu_seconds
        raw_bytes += sum(len(one) for batch in waiting for one in batch)
        waiting.clear()

    for batch in batches(rows, seed):
        waiting.append(batch)
        if len(waiting) == 20:
            await both()
    await both()
    await raw.close()
    stored = await size(database, "completions", "completion_texts", "completion_redacted")
    baseline = await size(database, "baseline")
    async with database.begin() as connection:
        held = int(await connection.scalar(text("SELECT count(*) FROM completions")) or 0)
    print(f"  completions      {ours}")
    print(f"  COPY, no index   {plain}   ratio of CPU {ours.cpu_seconds / plain.cpu_seconds:.1f}")
    print(
        f"  on disk          {stored / held:,.0f} bytes a completion with indexes; "
        f"as JSON {raw_bytes / ours.rows:,.0f}; baseline {baseline / plain.rows:,.0f}; "
        f"ratio {stored / held / (baseline / plain.rows):.2f}"
    )


async def size(database: Database, *tables: str) -> int:
    """Bytes of tables with partitions, TOAST and indexes."""
    measured = text("""
        SELECT coalesce(sum(pg_total_relation_size(relid)), 0)
        FROM (SELECT CAST(CAST(:one AS text) AS regclass) AS relid
              UNION SELECT relid FROM pg_partition_tree(CAST(CAST(:one AS text) AS regclass))) AS parts""")
    async with database.begin() as connection:
        return sum([int(await connection.scalar(measured, {"one": table}) or 0) for table in tables])


async def feedback_costs(database: Database, meter: Meter) -> None:
    """Votes one at a time, as the API stores them, and many at a time, as an import does."""
    async with database.begin() as connection:
        ids = list(
            await connection.scalars(
                text(
                    "SELECT completion_id FROM completions WHERE hashtext(completion_id) % 10 = 0 "
                    "AND NOT EXISTS (SELECT FROM feedback WHERE feedback.completion_id = completions.completion_id)"
                )
            )
        )
    given = [
        submissions.submission(
            project=PROJECT,
            completion_id=name,
            rater=f"rater-{number % 997:024x}",
            kind="demonstration" if number % 10 == 0 else "rating",
            value="The right answer would have been thirty days." if number % 10 == 0 else number % 3 > 0,
        )
        for number, name in enumerate(ids)
    ]

    async def one_by_one() -> int:
        for one in given[:2000]:
            async with database.begin() as connection:
                await submissions.store(connection, one)
        return len(given[:2000])

    async def together() -> int:
        for start in range(2000, len(given), 500):
            async with database.begin() as connection:
                await store_feedback(connection, given[start : start + 500])
        return len(given) - 2000

    print(f"  feedback, API    {await meter.measure(one_by_one())}")
    print(f"  feedback, import {await meter.measure(together())}")
    stored = await size(database, "feedback")
    async with database.begin() as connection:
        held = int(await connection.scalar(text("SELECT count(*) FROM feedback")) or 1)
        print(f"  on disk          {stored / held:,.0f} bytes a piece of feedback with indexes")
        for table in ("completions", "completion_texts", "feedback"):
            await connection.execute(text(f"ANALYZE {table}"))


async def pages(database: Database) -> None:
    """Latency of pages and searches, from places all over the record."""
    async with database.begin() as connection:
        anchors = list(
            await connection.scalars(
                text(
                    "SELECT completion_id FROM completions WHERE model = 'support' ORDER BY md5(completion_id) LIMIT :n"
                ),
                {"n": PAGES},
            )
        )
        said = list(
            await connection.scalars(
                text("SELECT feedback_id FROM feedback WHERE effective ORDER BY md5(feedback_id) LIMIT :n"),
                {"n": PAGES},
            )
        )
        session, rater, visit = (
            await connection.execute(
                text(
                    "SELECT session, rater, metadata ->> 'visit' FROM completions JOIN completion_texts "
                    "USING (completion_id, day) WHERE metadata IS NOT NULL ORDER BY md5(completion_id) LIMIT 1"
                )
            )
        ).one()
    month = datetime.now(UTC) - timedelta(days=30)
    cases: dict[str, tuple[Wanted, list[str | None]]] = {
        "first page": (Wanted(PROJECT), [None] * PAGES),
        "a page anywhere": (Wanted(PROJECT), [*anchors]),
        "of a model, anywhere": (Wanted(PROJECT, model="support"), [*anchors]),
        "stored, as OpenAI lists": (Wanted(PROJECT, stored=True), [*anchors]),
        "of an arm": (Wanted(PROJECT, arm="candidate"), [*anchors[:10]]),
        "thumbs down": (Wanted(PROJECT, rating=False), [*anchors[:10]]),
        "of a rater": (Wanted(PROJECT, rater=rater), [None] * 5),
        "of a session": (Wanted(PROJECT, session=session), [None] * 5),
        "metadata of many": (Wanted(PROJECT, metadata={"page": "returns"}), [*anchors[:10]]),
        "metadata of one": (Wanted(PROJECT, metadata={"visit": visit}), [None] * 5),
        "text of many": (Wanted(PROJECT, text="warranty repair", since=month), [None] * 5),
        "text of few": (Wanted(PROJECT, text=RARE, since=month), [None] * 3),
    }
    for name, (wanted, cursors) in cases.items():
        await latency(
            database, name, [partial(browse.completions_page, wanted=wanted, after=one) for one in cursors]
        )
    for name, wanted in (
        ("feedback, anywhere", Wanted(PROJECT)),
        ("feedback of a model", Wanted(PROJECT, model="sales")),
    ):
        await latency(
            database, name, [partial(browse.feedback_page, wanted=wanted, after=one) for one in said]
        )


async def latency(
    database: Database, name: str, calls: Sequence[Callable[[Any], Awaitable[browse.Page]]]
) -> None:
    """Print the percentiles of some calls, the first of which warms up."""
    seconds, rows = [], 0
    for call in (calls[0], *calls):
        began = time.perf_counter()
        async with database.begin() as connection:
            rows = len((await call(connection)).rows)
        seconds.append(time.perf_counter() - began)
    seconds = sorted(seconds[1:])
    p50, p95 = seconds[len(seconds) // 2], seconds[int(len(seconds) * 0.95) if len(seconds) > 1 else 0]
    print(f"  {name:<24} p50 {p50 * 1000:>9.1f} ms   p95 {p95 * 1000:>9.1f} ms   ({rows} rows)")


async def vote_on_everything(database: Database) -> None:
    """A thumb on every completion that has none, so that an export has as many rows as there are completions."""
    async with database.begin() as connection:
        await connection.execute(
            text("""
            INSERT INTO feedback (feedback_id, project, completion_id, rater, kind, name, value, effective, created_at)
            SELECT 'fb-' || right(completion_id, 32), project, completion_id, rater, 'rating', 'thumbs', 'true', true,
                   created_at
            FROM completions WHERE rater IS NOT NULL ON CONFLICT DO NOTHING""")
        )
        await connection.execute(text("ANALYZE feedback"))


def exports(url: str, rows: int) -> None:
    """Each export in a process of its own, which says what it took; of many rows, one of each format."""
    few = [(columns, kind) for columns in ("raw", "kto", "sft") for kind in ("jsonl", "parquet")]
    for columns, kind in few if rows <= EXPORTED_ALL_WAYS else few[::3]:
        command = [sys.executable, "-m", "tests.bench.record", "--export", columns, kind]
        done = subprocess.run(
            command, env={**os.environ, "HONE_DATABASE_URL": url}, capture_output=True, check=True
        )
        told = json.loads(done.stdout)
        print(
            f"  export {columns:<4} {kind:<8} {told['rows'] / told['seconds']:>8,.0f} rows/s  "
            f"{told['rows']:>7} rows  peak {told['peak_mib']:.0f} MiB, "
            f"of which {told['idle_mib']:.0f} before the first row"
        )


async def export_here(url: str, columns: str, kind: str) -> None:
    """Export to nowhere, and print rows, seconds and memory."""
    if kind == "parquet":
        import pyarrow.parquet

        pyarrow.Table.from_pylist([{"one": 1}])  # What it loads on first use is not the export's.
    counted = 0

    async def counting(connection: Any) -> Any:
        nonlocal counted
        async for row in export.rows(connection, Wanted(PROJECT), columns):
            counted += 1
            yield row

    async with Database(url, pool_size=1) as database, database.begin() as connection:
        await connection.execute(text("SELECT 1"))
        idle = peak_mib()
        began = time.perf_counter()
        rows = counting(connection)
        async for _ in export.parquet(rows) if kind == "parquet" else export.json_lines(rows):
            pass
        seconds = time.perf_counter() - began
    print(json.dumps({"rows": counted, "seconds": seconds, "peak_mib": peak_mib(), "idle_mib": idle}))


def peak_mib() -> float:
    """The most memory this program ever held. `getrusage` would tell that of the process that started it."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


async def measure(server: EmbeddedPostgres, sizes: Sequence[int]) -> None:
    """Fill the record up to each size and measure there."""
    meter, held = Meter(server), 0
    async with Database(server.url, pool_size=1) as database:
        async with database.begin() as connection:
            await keys.create(connection, role="admin", name="bench", by="bench", project=PROJECT)
            for name in ("support", "sales"):
                await models.create(connection, project=PROJECT, model=name, base_model="tiny", by="bench")
        for rows in sizes:
            print(f"\n{rows:,} completions")
            await ingestion(database, meter, rows - held, seed=rows)
            held = rows
            await feedback_costs(database, meter)
            await pages(database)
            await vote_on_everything(database)
            await asyncio.to_thread(exports, server.url, rows)


def main() -> None:
    """Measure, or export for the measurement."""
    parser = argparse.ArgumentParser(description="Measure what the record costs.")
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000], help="sizes, rising")
    parser.add_argument("--export", nargs=2, metavar=("COLUMNS", "KIND"), help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.export:
        asyncio.run(export_here(os.environ["HONE_DATABASE_URL"], *asked.export))
        return
    with TemporaryDirectory(prefix="hone-bench-") as name:
        directory = Path(name)
        directory.chmod(0o711)
        with EmbeddedPostgres(directory / "postgres") as server:
            migrate(server.url)
            asyncio.run(measure(server, sorted(asked.rows)))


if __name__ == "__main__":
    main()
