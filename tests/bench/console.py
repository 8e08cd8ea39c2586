"""Measure the console's pages: `python -m tests.bench.console [--rows 1000000] [--keep DIRECTORY]`.

A record with so many completions of one project (three in four of one model, spread over a week, one in ten rated, a
canary on the last two days), and every page as an operator loads it, beside what was promised: 300 ms and 200 KB a page
with what it loads. The console has run for some seconds when the first page is asked for, and has counted what Home
shows. Times move with what else the machine does; CPU is what a page took of it, PostgreSQL and this program together.
`--keep` leaves the record in a directory and takes it up again from there.
"""

import argparse
import asyncio
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
import orjson
from sqlalchemy import text

from deploy.postgres import EmbeddedPostgres
from feedback import adapters, completions, experiments, looks, shipping
from feedback.database import Database, migrate
from feedback.experiments import CANDIDATE_ARM, CHAMPION_ARM
from tests.bench.record import Meter, batches
from tests.builders import PROJECT
from tests.monitoring.consoles import RunningConsole, a_history, a_worker, running_console

SECONDS_MAX = 0.3
BYTES_MAX = 200_000
CANARY_DAYS = 2
TIMES = 7
WARM_SECONDS = 20.0

_VOTES = text("""
INSERT INTO feedback (feedback_id, project, completion_id, rater, kind, name, value, effective, created_at)
SELECT 'fb-' || right(completion_id, 32), project, completion_id, rater, 'rating', 'thumbs',
       to_jsonb(hashtext(completion_id) % 4 <> 0), true, created_at + interval '1 minute'
FROM completions WHERE rater IS NOT NULL AND hashtext(completion_id) % 10 = 0 ON CONFLICT DO NOTHING
""")


async def fill(database: Database, rows: int) -> None:
    """A history as the tests have it, and so many completions more."""
    candidate = await a_history(database)
    async with database.begin() as connection:
        await shipping.approve(connection, PROJECT, candidate.name, by="ada", reason="bench")
        await shipping.start_canary(connection, PROJECT, candidate.name, by="ada")
        split = await experiments.of_model(connection, PROJECT, "support")
        assert split is not None
        champion = await adapters.champion(connection, PROJECT, "support")
        for minute in range(0, CANARY_DAYS * 1440, 5):
            await looks.keep(
                connection, split, _verdict(minute), at=datetime.now(UTC) - timedelta(minutes=minute)
            )
    versions = {CHAMPION_ARM: champion, CANDIDATE_ARM: candidate}
    done, began = 0, time.perf_counter()
    for batch in batches(rows, seed=rows):
        changed = list(_placed(batch, versions, split))
        async with database.begin() as connection:
            done += await completions.insert_documents(connection, changed)
        if done % 102_400 < len(batch):
            print(f"  {done:,} stored, {done / (time.perf_counter() - began):,.0f} a second", flush=True)
    async with database.begin() as connection:
        await connection.execute(_VOTES)
    connection = await database.connect_raw()
    await connection.execute("VACUUM ANALYZE")
    await connection.close()


def _verdict(minutes_ago: int) -> dict[str, Any]:
    width = 0.05 + 0.3 * minutes_ago / (CANARY_DAYS * 1440)
    arms = [{"units": 50_000 - minutes_ago, "rated_units": 5_000} for _ in range(2)]
    return {
        "state": "inconclusive",
        "difference": 0.02,
        "low": 0.02 - width,
        "high": 0.02 + width,
        "arms": arms,
    }


def _placed(batch: list[bytes], versions: dict[str, Any], split: experiments.Experiment) -> Iterator[bytes]:
    """The documents, as the versions and the running split of this record answered them."""
    since = datetime.now(UTC) - timedelta(days=CANARY_DAYS)
    for document in batch:
        row = orjson.loads(document)
        if row["model"] == "support":
            arm = row["arm"] or CHAMPION_ARM
            is_split = datetime.fromisoformat(row["created_at"]) > since
            version = versions[arm if is_split else CHAMPION_ARM]
            row |= {"adapter_id": version.adapter_id, "version": version.version}
            row |= {"arm": None, "propensity": None, "experiment_id": None}
            if is_split:
                share = split.arm(arm).weight
                row |= {"arm": arm, "propensity": share, "experiment_id": split.experiment_id}
        else:
            row |= {"model": "search", "adapter_id": "search--v0-00000000", "version": 0, "arm": None}
        yield orjson.dumps(row)


async def measure(database: Database, url: str, meter: Meter) -> bool:
    """Print a line a page; whether each keeps what was promised."""
    async with database.begin() as connection:
        query = (
            "SELECT completion_id FROM completions WHERE model = 'support' ORDER BY created_at DESC LIMIT 1"
        )
        newest = await connection.scalar(text(query))
        held = int(await connection.scalar(text("SELECT count(*) FROM completions")) or 0)
        run = await connection.scalar(text("SELECT run_id FROM runs ORDER BY created_at DESC LIMIT 1"))
        dataset = await connection.scalar(text("SELECT dataset_id FROM datasets LIMIT 1"))
    late: list[str] = []
    async with (
        running_console(database, url) as console,
        a_worker(database),
        httpx.AsyncClient(base_url=console.url, timeout=120) as client,
    ):
        await _sign_in(client, console)
        assets = await _assets(client)
        await asyncio.sleep(WARM_SECONDS)
        print(f"\n{'page':<44} {'first':>9} {'again':>9} {'slowest':>9} {'CPU':>9} {'KB in all':>10}")
        for path in pages(str(newest), str(run), str(dataset)):
            took, size, worked = [], 0, meter.cpu_seconds()
            for _ in range(TIMES + 1):
                began = time.perf_counter()
                answer = await client.get(path)
                took.append(time.perf_counter() - began)
                assert answer.status_code == 200, (
                    f"{path}: {answer.status_code} {answer.text.partition('<main')[2][:900]}"
                )
                size = len(answer.content) + assets
            well = took[0] <= SECONDS_MAX and max(took[1:]) <= SECONDS_MAX and size <= BYTES_MAX
            late += [] if well else [path]
            cpu_seconds = (meter.cpu_seconds() - worked) / (TIMES + 1)
            times = (took[0], statistics.median(took[1:]), max(took[1:]), cpu_seconds)
            cells = " ".join(f"{one * 1000:>6.0f} ms" for one in times)
            print(f"{path[:44]:<44} {cells} {size / 1000:>10.0f}{'' if well else '   too much'}", flush=True)
    promised = f"{SECONDS_MAX * 1000:.0f} ms and {BYTES_MAX / 1000:.0f} KB a page with {held:,} completions"
    print(f"\n{promised}: {f'{len(late)} pages are beyond it' if late else 'every page keeps it'}.")
    return not late


def pages(completion_id: str, run_id: str, dataset_id: str) -> Iterator[str]:
    """Every page, and the searches that look at most."""
    yield from ("/?model=support", "/?model=search", "/decide?model=support", "/model?model=support")
    yield from ("/model/support@1", "/model/support@2", "/decide/abort/support?model=support")
    yield "/decide/canaries?model=support"
    yield from ("/model/compare?model=support", "/playground?model=support")
    for query in ("", "&days=365", "&rating=up", "&rating=down", "&rating=corrected", "&rating=none"):
        yield f"/feedback?model=support{query}"
    yield from ("/feedback?model=support&arm=candidate", "/feedback?model=support&status=error&days=365")
    yield from ("/feedback?model=support&q=kettle", "/feedback?model=support&q=xylophone&days=365")
    yield f"/feedback/{completion_id}"
    yield from (
        "/review?model=support",
        "/training?model=support",
        f"/training/{run_id}",
        f"/training/{run_id}/rows",
        f"/training/datasets/{dataset_id}",
    )
    yield from ("/alerts?model=support", "/settings?model=support", "/settings/policy?model=support")
    yield from ("/settings/audit", "/settings/erasures")


async def _sign_in(client: httpx.AsyncClient, console: RunningConsole) -> None:
    answer = await client.post("/sign-in", data={"key": console.admin})
    assert answer.status_code == 303, answer.text


async def _assets(client: httpx.AsyncClient) -> int:
    """Bytes of what every page loads besides itself."""
    page = (await client.get("/sign-in")).text + (await client.get("/settings")).text
    found = {part.split('"')[0] for part in page.split('"/static/')[1:]}
    return sum([len((await client.get(f"/static/{one}")).content) for one in sorted(found)])


async def work(server: EmbeddedPostgres, rows: int) -> bool:
    """Fill the record unless it is full already, and measure."""
    async with Database(server.url) as database:
        async with database.begin() as connection:
            held = int(await connection.scalar(text("SELECT count(*) FROM completions")) or 0)
        if held < rows:
            print(f"filling the record with {rows:,} completions", flush=True)
            await fill(database, rows)
        return await measure(database, server.url, Meter(server))


def main() -> None:
    """Measure, and end with 1 if a page is slower or larger than promised."""
    parser = argparse.ArgumentParser(description="Measure the console's pages.")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--keep", type=Path, help="leave the record here, and take it up again from here")
    asked = parser.parse_args()
    with TemporaryDirectory(prefix="hone-bench-") as name:
        directory = asked.keep or Path(name)
        directory.mkdir(exist_ok=True)
        directory.chmod(0o711)
        with EmbeddedPostgres(directory / "postgres") as server:
            migrate(server.url)
            well = asyncio.run(work(server, asked.rows))
    raise SystemExit(0 if well else 1)


if __name__ == "__main__":
    main()
