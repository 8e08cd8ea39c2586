"""Measure building a dataset: rows a second and peak memory. `python -m tests.bench.datasets --rows 100000 1000000`.

A record is generated inside PostgreSQL: people (five submissions each) rate or correct answers to questions of fourteen
words. Each figure is taken in a process of its own on the same record: reading everything once and forgetting it, which
is the least that any build must do, and building: selection with every defence on, split, balance, and freezing.

Absolute figures move from machine to machine; the ratio to reading, and the growth of memory, are what counts.
"""

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from deploy.postgres import EmbeddedPostgres
from feedback import models
from feedback.database import Database, migrate
from feedback.policy import ModelPolicy
from retrain.opinions import opinions
from retrain.plan import freeze, make_plan

PROJECT, MODEL = "default", "support"
WORDS = (
    "lamp kettle tent order parcel refund invoice gift return shipping delivery warranty battery colour size price "
    "please today tomorrow never always account password email address number ticket store hours open closed broken "
    "missing late early wrong right green blue small large heavy light cheap express free paid card cash voucher cable "
    "manual screen button handle wheel pocket zipper cover"
)

_GENERATE = """
WITH said AS (
    SELECT n, 'rater-' || md5((n / 5)::text) AS rater, md5(n::text) AS noise,
        TIMESTAMPTZ '2026-01-01' + (n % 2592000) * interval '1 second' AS at,
        (SELECT string_agg((string_to_array(:words, ' '))[1 + abs(hashint8(n * 31 + w)) % :vocabulary], ' ' ORDER BY w)
            FROM generate_series(1, 14) AS w) AS question,
        (SELECT string_agg((string_to_array(:words, ' '))[1 + abs(hashint8(n * 37 + w)) % :vocabulary], ' ' ORDER BY w)
            FROM generate_series(1, 20) AS w) AS answer
    FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n
), named AS (
    SELECT *, 'chatcmpl-' || lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7'
        || substr(noise, 1, 19) AS id FROM said
), kept AS (
    INSERT INTO completions (completion_id, day, project, model, adapter_id, version, unit, rater, key_id, engine,
        endpoint, consent, status, finish_reason, duration_seconds, created_at)
    SELECT id, completion_day(id), CAST(:project AS text), CAST(:model AS text), 'support--v0', 0, rater, rater,
        'key-1', 'http://engine', '/v1/chat/completions', true, 'ok', 'stop', 0.1, at FROM named
), texts AS (
    INSERT INTO completion_texts (completion_id, day, request, output_text, message)
    SELECT id, completion_day(id), jsonb_build_object('model', 'support', 'messages', jsonb_build_array(
        jsonb_build_object('role', 'user', 'content', question))), answer,
        jsonb_build_object('role', 'assistant', 'content', answer) FROM named
)
INSERT INTO feedback (feedback_id, project, completion_id, rater, kind, name, value, effective, created_at)
SELECT 'fb-' || noise, CAST(:project AS text), id, rater, CASE WHEN n % 10 = 0 THEN 'demonstration' ELSE 'rating' END,
    CASE WHEN n % 10 = 0 THEN 'demonstration' ELSE 'thumbs' END,
    CASE WHEN n % 10 = 0 THEN to_jsonb(answer || ' indeed') ELSE to_jsonb(n % 10 < 7) END, true, at FROM named
"""


async def generate(database: Database, rows: int) -> None:
    """A record in which so many things were said."""
    async with database.begin() as connection:
        await models.create(
            connection, project=PROJECT, model=MODEL, base_model="tiny", policy=ModelPolicy(), by="bench"
        )
        first, last = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 2, 1, tzinfo=UTC)
        await connection.execute(
            text("SELECT make_partitions(:first, :last)"), {"first": first.date(), "last": last.date()}
        )
    for start in range(0, rows, 50_000):
        async with database.begin() as connection:
            await connection.execute(
                text(_GENERATE),
                {
                    "words": WORDS,
                    "vocabulary": len(WORDS.split()),
                    "first": start,
                    "last": min(rows, start + 50_000) - 1,
                    "project": PROJECT,
                    "model": MODEL,
                },
            )
    async with database.begin() as connection:
        await connection.execute(text("ANALYZE"))


async def read(connection: AsyncConnection) -> int:
    """Everything that was said, once, without looking at it."""
    seen = 0
    async for batch in opinions(connection, PROJECT, MODEL):
        seen += len(batch)
    return seen


async def build(connection: AsyncConnection) -> int:
    """A frozen dataset of it; returns its rows."""
    dataset = await freeze(connection, await make_plan(connection, PROJECT, MODEL))
    return int(dataset.counts["train"] + dataset.counts["held_out"] + dataset.counts["time_forward"])


async def measure(what: str, url: str) -> dict[str, float]:
    """One figure, in this process."""
    async with Database(url, pool_size=1) as database, database.begin() as connection:
        began, spent = time.perf_counter(), time.process_time()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        rows = await (read if what == "read" else build)(connection)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "rows": rows,
        "seconds": time.perf_counter() - began,
        "cpu": time.process_time() - spent,
        "mib": peak / 1024,
        "grown": (peak - before) / 1024,
    }


def in_a_process(what: str, url: str) -> dict[str, float]:
    """One figure, in a fresh process: peak memory never falls."""
    command = [sys.executable, "-m", "tests.bench.datasets", "--measure", what, "--url", url]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, nargs="+", default=[100_000, 1_000_000])
    parser.add_argument("--measure", choices=("read", "build"))
    parser.add_argument("--url")
    asked = parser.parse_args()
    if asked.measure:
        print(json.dumps(asyncio.run(measure(asked.measure, asked.url))))
        return
    print(
        f"{'said':>9} {'what':>6} {'rows':>8} {'seconds':>8} {'own CPU':>8} {'said/s':>8} {'peak MiB':>9} {'grown':>6}"
    )
    for rows in asked.rows:
        with tempfile.TemporaryDirectory(prefix="hone-bench-") as name:
            Path(name).chmod(0o711)
            settings = {"fsync": "off", "synchronous_commit": "off"}
            with EmbeddedPostgres(Path(name) / "postgres", settings=settings) as server:
                migrate(server.url)
                asyncio.run(_generate(server.url, rows))
                taken = {what: in_a_process(what, server.url) for what in ("read", "build")}
        for what, one in taken.items():
            print(
                f"{rows:>9} {what:>6} {one['rows']:>8.0f} {one['seconds']:>8.1f} {one['cpu']:>8.1f} "
                f"{rows / one['seconds']:>8.0f} {one['mib']:>9.0f} {one['grown']:>6.0f}",
                flush=True,
            )
        print(
            f"{rows:>9} building takes {taken['build']['seconds'] / taken['read']['seconds']:.1f} times reading"
        )


async def _generate(url: str, rows: int) -> None:
    async with Database(url, pool_size=1) as database:
        await generate(database, rows)


if __name__ == "__main__":
    main()
