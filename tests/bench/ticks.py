"""Measure what a look at a running split costs, with ten thousand, a hundred thousand and a million completions in it.

    python -m tests.bench.ticks [--completions N ...] [--new N]

On an embedded PostgreSQL of its own. "Whole" sums the record anew, as a look without kept sums would have to; "new"
follows after `--new` completions and a fifth as many votes, "changed" after as many votes were changed, "nothing"
after nothing. Every look includes its transaction and its verdict, and every kept sum is compared with the whole.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

from sqlalchemy import text

from deploy.postgres import EmbeddedPostgres
from feedback import experiments, exposure_sums, exposures
from feedback.database import Database, migrate
from feedback.experiments import CHAMPION_ARM, Experiment
from monitoring.tally import outcomes_of, tally
from monitoring.totals import Totals
from monitoring.verdict import ExperimentPolicy, judge
from tests.builders import an_adapter

WEIGHTS = {"champion": 0.9, "candidate": 0.1}
POLICY = ExperimentPolicy(weights=WEIGHTS)
REQUESTS_PER_RATER = 5

_ASK = text("""
    INSERT INTO completions (completion_id, day, project, model, adapter_id, version, experiment_id, arm, propensity,
        unit, key_id, engine, endpoint, consent, status, output_tokens, time_to_first_token_seconds,
        time_per_output_token_seconds, duration_seconds)
    SELECT id, completion_day(id), 'default', 'support', 'support--v1-0', 1, :experiment_id,
           CASE WHEN inside THEN 'candidate' ELSE 'champion' END, CASE WHEN inside THEN 0.1 ELSE 0.9 END,
           'rater-' || rater, 'key', 'http://engine', '/v1/chat/completions', true, 'ok', 20 + n % 50,
           0.02 + (n % 17) / 100.0, 0.002, 0.2
    FROM (SELECT n, n / :per AS rater, (n / :per) % 10 = 0 AS inside,
                 'chatcmpl-' || lpad(to_hex((extract(epoch FROM now()) * 1000)::bigint), 12, '0')
                 || '7' || lpad(to_hex(n), 19, '0') AS id
          FROM generate_series(CAST(:first AS bigint), CAST(:last AS bigint)) AS n) AS made""")
_VOTE = text("""
    INSERT INTO feedback (feedback_id, project, completion_id, rater, kind, name, value, effective)
    SELECT 'fb-' || completion_id, project, completion_id, unit, 'rating', 'thumbs',
           to_jsonb(hashtext(completion_id) % 10 <> 0), true
    FROM completions WHERE experiment_id = :experiment_id AND hashtext(completion_id) % 5 = 0
    ON CONFLICT DO NOTHING""")
_CHANGE = text("""
    UPDATE feedback SET value = to_jsonb(value <> 'true') WHERE feedback_id IN (
        SELECT feedback_id FROM feedback ORDER BY hashtext(feedback_id) LIMIT :rows)""")


async def look(database: Database, experiment: Experiment) -> tuple[float, Totals]:
    """One look; its seconds and its totals."""
    began = time.perf_counter()
    async with database.begin() as connection:
        await exposure_sums.look_up_votes(connection)
    async with database.begin() as connection:
        totals = await tally(connection, experiment, WEIGHTS, control=CHAMPION_ARM, maturation_seconds=0.0)
        judge(totals, POLICY)
    return time.perf_counter() - began, totals


async def whole(database: Database, experiment: Experiment) -> tuple[float, Totals]:
    """The same without kept sums."""
    began = time.perf_counter()
    async with database.begin() as connection:
        counts = await exposures.unit_counts(connection, experiment, maturation_seconds=0.0)
        totals = Totals.of(outcomes_of(counts), WEIGHTS, control=CHAMPION_ARM)
        judge(totals, POLICY)
    return time.perf_counter() - began, totals


async def measure(database: Database, sizes: Sequence[int], new: int) -> int:
    """Print a line for every size; returns how many sums were not those of the whole record."""
    async with database.begin() as connection:
        experiment = await experiments.start_canary(
            connection, await an_adapter(connection, state="approved"), by="bench"
        )
        await connection.execute(text("SELECT make_partitions(current_date, current_date)"))
    name = {"experiment_id": experiment.experiment_id}
    print(
        f"{'completions':>12} {'whole':>10} {'first look':>11} {'nothing':>10} {f'{new} new':>10} {'changed':>10}"
    )
    there, wrong = 0, 0
    for size in sizes:
        async with database.begin() as connection:
            await connection.execute(
                _ASK, name | {"first": there, "last": size - 1, "per": REQUESTS_PER_RATER}
            )
            await connection.execute(_VOTE, name)
            await exposure_sums.distrust(connection)
        await vacuum(database)
        first, _ = await look(database, experiment)
        await vacuum(database)
        nothing = min([(await look(database, experiment))[0] for _ in range(5)])
        async with database.begin() as connection:
            span = {"first": size, "last": size + new - 1, "per": REQUESTS_PER_RATER}
            await connection.execute(_ASK, name | span)
            await connection.execute(_VOTE, name)
        arrived, _ = await look(database, experiment)
        async with database.begin() as connection:
            await connection.execute(_CHANGE, {"rows": new})
        changed, totals = await look(database, experiment)
        anew, expected = await whole(database, experiment)
        wrong += totals != expected
        there = size + new
        columns = (f"{seconds * 1000:.0f} ms" for seconds in (anew, first, nothing, arrived, changed))
        print(
            f"{size:>12,} {next(columns):>10} {next(columns):>11}",
            *(f"{one:>10}" for one in columns),
            flush=True,
        )
    print(
        "Kept sums differ from the whole record's."
        if wrong
        else "Every kept sum is that of the whole record."
    )
    return wrong


async def vacuum(database: Database) -> None:
    """Do what autovacuum would have done by then."""
    raw = await database.connect_raw()
    try:
        for table in ("completions", "feedback", "exposure_changes", "exposure_sums"):
            await raw.execute(f"VACUUM ANALYZE {table}")
    finally:
        await raw.close()


def main(arguments: Sequence[str]) -> int:
    """Print the table; 1 if a kept sum was wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.ticks", description=__doc__)
    parser.add_argument("--completions", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--new", type=int, default=500)
    chosen = parser.parse_args(arguments)

    async def work(url: str) -> int:
        async with Database(url) as database:
            return await measure(database, chosen.completions, chosen.new)

    with TemporaryDirectory(prefix="hone-bench-") as name:
        directory = Path(name)
        directory.chmod(0o711)
        with EmbeddedPostgres(directory / "postgres", settings={"synchronous_commit": "off"}) as server:
            migrate(server.url)
            return 1 if asyncio.run(work(server.url)) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
