"""The watcher keeps a real engine in step with a real registry, and lets no unproven version take traffic."""

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from feedback import adapters, engines, models, shipping
from feedback.adapters import Adapter
from feedback.database import Database
from feedback.tables import adapters as adapters_table
from serving.adapter_watcher import AdapterWatcher
from serving.engine_api import EngineApi
from serving.probe import EDITION
from serving.settings import ServingSettings
from tests.builders import PROJECT
from tests.engine_fixture import RunningEngine, run_engine, small_engine
from tests.serving.publishing import copy_of, published
from tests.tiny_model import build_bad_adapter

# The first test of a session waits for the engine to start, which a busy machine draws out.
pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

PROMPT = [10, 11, 12]
ROUNDING_NATS = 0.05
"""Far more than batches and processors differ by. Equal tokens are not promised; equal numbers in one context are."""
BAD = ("nan", "wrong_shape", "rank_too_high", "dora", "wrong_base", "wrong_prefix")


class Watched:
    """A watcher at work on one engine, with the requests under way that a test pretends."""

    def __init__(self, database: Database, url: str, settings: ServingSettings, state_dir: Path) -> None:
        self.database, self.url = database, url
        self.in_flight: Counter[str] = Counter()
        self.changes: list[set[str]] = []
        self.watcher = AdapterWatcher(
            database,
            [url],
            settings,
            state_dir,
            in_flight=lambda engine, adapter_id: self.in_flight[adapter_id],
            on_change=lambda: self.changes.append(set(self.watcher.holders)),
        )

    def is_ready(self, adapter: Adapter) -> bool:
        return self.url in self.watcher.holders.get(adapter.adapter_id, frozenset())

    async def until(self, condition: Callable[[], bool], seconds: float = 60.0) -> None:
        async with asyncio.timeout(seconds):
            while not condition():
                await asyncio.sleep(0.02)

    async def until_stands(self, adapter: Adapter, state: str, seconds: float = 60.0) -> str | None:
        """Wait until the record says so; the detail."""
        async with asyncio.timeout(seconds):
            while True:
                async with self.database.begin() as connection:
                    for held in await engines.standing(connection, adapter.adapter_id):
                        if (held.engine, held.state) == (self.url, state):
                            return held.detail
                await asyncio.sleep(0.02)

    async def listed(self) -> set[str]:
        async with EngineApi(self.url) as api:
            return set((await api.look()).adapters)


@asynccontextmanager
async def watching(
    database: Database, engine: RunningEngine, state_dir: Path, **settings: Any
) -> AsyncIterator[Watched]:
    chosen = small_engine(
        **{
            "engine_check_seconds": 0.2,
            "engine_unload_grace_seconds": 0.0,
            "registry_refresh_seconds": 1.0,
            **settings,
        }
    )
    watched = Watched(database, engine.url, chosen, state_dir)
    task = asyncio.create_task(watched.watcher.run())
    try:
        yield watched
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def test_a_version_is_loaded_probed_and_ready_as_soon_as_it_is_registered(
    database: Database, engine: RunningEngine, tiny_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    async with watching(database, engine, tmp_path) as watched:
        one = await published(database, engine.model, copy_of(tiny_adapters[0]), tmp_path, state="trained")
        await watched.until(lambda: watched.is_ready(one))
        two = await published(database, engine.model, copy_of(tiny_adapters[1]), tmp_path, state="champion")
        await watched.until(lambda: watched.is_ready(two))
        await watched.until_stands(two, "ready")
        async with database.begin() as connection:
            base = await adapters.get(connection, PROJECT, "support@0")
            stored = [(await adapters.by_id(connection, a.adapter_id)).fingerprint for a in (base, one, two)]
            [seen] = await engines.every(connection)
        assert watched.is_ready(base)
        assert await watched.listed() >= {one.adapter_id, two.adapter_id}
        assert all(stored) and stored[0] != stored[1] != stored[2]
        assert (seen.engine, seen.base_model, seen.healthy) == (engine.url, str(engine.model), True)


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
async def test_bad_adapters_fail_with_a_reason_that_can_be_read_and_the_engine_never_sees_them(
    database: Database,
    engine: RunningEngine,
    tiny_model: Path,
    tiny_adapters: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    good = await published(database, tiny_model, copy_of(tiny_adapters[0]), tmp_path, state="champion")
    bad = {
        kind: await published(
            database,
            tiny_model,
            partial(build_bad_adapter, kind, tiny_model),
            tmp_path,
        )
        for kind in BAD
    }
    async with watching(database, engine, tmp_path) as watched:
        reasons = {kind: await watched.until_stands(adapter, "failed") for kind, adapter in bad.items()}
        await watched.until(lambda: watched.is_ready(good))
        assert all(reasons.values()) and len(set(reasons.values())) == len(BAD)
        assert "DoRA" in str(reasons["dora"])
        names = {adapter.adapter_id for adapter in bad.values()}
        assert not names & await watched.listed()
        assert not names & watched.watcher.holders.keys()
    assert not any(name in engine.log.read_text() for name in names)


async def test_a_killed_engine_holds_nothing_and_everything_is_proven_again_after_its_restart(
    database: Database, tiny_model: Path, tiny_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    one = await published(database, tiny_model, copy_of(tiny_adapters[0]), tmp_path, state="champion")
    with run_engine(tiny_model, tmp_path) as engine:
        async with watching(database, engine, tmp_path) as watched:
            await watched.until(lambda: watched.is_ready(one))
            engine.kill()
            await watched.until(lambda: not watched.watcher.holders)
            async with database.begin() as connection:
                await watched.until_stands(one, "ready")
                assert await engines.holders(connection, one.adapter_id) == [], (
                    "an unhealthy engine holds nothing"
                )
            await asyncio.to_thread(engine.start)
            await watched.until(lambda: watched.is_ready(one))
            assert one.adapter_id in await watched.listed()
            await watched.until_stands(one, "ready")


async def test_a_restart_that_nobody_saw_leaves_no_row_ready_that_was_not_proven_since(
    database: Database, engine: RunningEngine, tiny_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    one = await published(database, engine.model, copy_of(tiny_adapters[0]), tmp_path, state="champion")
    async with database.begin() as connection:
        await engines.report(
            connection, engine.url, base_model=str(engine.model), healthy=True, limits={"started_at": 1.0}
        )
        await engines.report_adapter(connection, engine.url, one.adapter_id, state="ready")
    (tmp_path / one.adapter_id / "adapter_config.json").write_text("{}")
    async with watching(database, engine, tmp_path) as watched:
        detail = await watched.until_stands(one, "failed")
        assert "not those that were published" in str(detail)


async def test_a_version_leaves_only_when_its_last_stream_has_ended_and_streams_go_on_meanwhile(
    database: Database, engine: RunningEngine, tiny_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    old = await published(database, engine.model, copy_of(tiny_adapters[0]), tmp_path)
    async with watching(database, engine, tmp_path) as watched:
        await watched.until(lambda: watched.is_ready(old))
        watched.in_flight[old.adapter_id] = 3
        streams = [asyncio.create_task(stream(engine.url, old.adapter_id, PROMPT, 300)) for _ in range(3)]
        new = await published(database, engine.model, copy_of(tiny_adapters[1]), tmp_path, state="champion")
        await watched.until(lambda: watched.is_ready(new))
        async with database.begin() as connection:
            await shipping.reject(connection, PROJECT, old.name, by="ada", reason="test")
        await watched.until(lambda: old.adapter_id not in watched.watcher.holders)
        assert "no longer wanted" in str(await watched.until_stands(old, "loaded"))
        assert old.adapter_id in await watched.listed()
        whole = await asyncio.gather(*streams)
        assert [len(one.tokens) for one in whole] == [300, 300, 300]
        for one in whole:
            before_last = [*PROMPT, *one.tokens[:-1]]
            by_old, by_new = [
                (await stream(engine.url, v.adapter_id, before_last, 1)).last for v in (old, new)
            ]
            assert one.last == pytest.approx(by_old, abs=ROUNDING_NATS), "its last token is the old version's"
            assert one.last != pytest.approx(by_new, abs=4 * ROUNDING_NATS)
        assert old.adapter_id in await watched.listed(), "still in flight for all the watcher knows"
        watched.in_flight.clear()
        async with asyncio.timeout(60):
            while old.adapter_id in await watched.listed():
                await asyncio.sleep(0.05)
        assert watched.is_ready(new)


@dataclass
class Streamed:
    """A greedy streamed answer, and the largest log-probabilities where its last token was chosen."""

    tokens: list[int]
    last: list[float]


async def stream(url: str, name: str, prompt: list[int], length: int) -> Streamed:
    """One answer, which must end properly."""
    body = {
        "model": name,
        "prompt": prompt,
        "max_tokens": length,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "return_token_ids": True,
        "logprobs": 5,
    }
    streamed = Streamed([], [])
    last = ""
    async with (
        httpx.AsyncClient(timeout=60, trust_env=False) as client,
        client.stream("POST", f"{url}/v1/completions", json=body) as answer,
    ):
        assert answer.status_code == 200
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                choice = json.loads(line[6:])["choices"][0]
                streamed.tokens += choice["token_ids"] or []
                if choice["logprobs"]:
                    streamed.last = sorted(choice["logprobs"]["top_logprobs"][-1].values(), reverse=True)[:5]
            last = line or last
    assert last == "data: [DONE]"
    return streamed


async def test_a_version_that_vanished_from_the_engine_is_loaded_again(
    database: Database, engine: RunningEngine, tiny_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    one = await published(database, engine.model, copy_of(tiny_adapters[0]), tmp_path)
    async with (
        watching(database, engine, tmp_path, engine_check_seconds=30.0) as watched,
        EngineApi(engine.url) as api,
    ):
        await watched.until(lambda: watched.is_ready(one))
        await api.unload(one.adapter_id)
        watched.watcher.suspect(engine.url, one.adapter_id)
        assert not watched.is_ready(one), "out of traffic at once"
        await watched.until(lambda: watched.is_ready(one))
        assert one.adapter_id in await watched.listed()


async def test_a_version_that_computes_otherwise_than_at_first_takes_no_traffic(
    database: Database, engine: RunningEngine, tiny_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    one = await published(database, engine.model, copy_of(tiny_adapters[0]), tmp_path)
    two = await published(database, engine.model, copy_of(tiny_adapters[1]), tmp_path)
    async with watching(database, engine, tmp_path) as watched:
        await watched.until(lambda: watched.is_ready(one) and watched.is_ready(two))
    async with database.begin() as connection:
        other = await adapters.by_id(connection, two.adapter_id)
        await connection.execute(
            adapters_table.update()
            .where(adapters_table.c.adapter_id == one.adapter_id)
            .values(fingerprint=other.fingerprint)
        )
    async with watching(database, engine, tmp_path) as watched:
        detail = await watched.until_stands(one, "failed")
        assert "this version's first probe" in str(detail)
        await watched.until(lambda: watched.is_ready(two))
        assert not watched.is_ready(one)


async def test_a_fingerprint_of_another_edition_is_taken_again_and_a_broken_one_is_no_pass(
    database: Database, engine: RunningEngine, tiny_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    one = await published(database, engine.model, copy_of(tiny_adapters[0]), tmp_path)
    two = await published(database, engine.model, copy_of(tiny_adapters[1]), tmp_path)
    async with database.begin() as connection:
        await adapters.store_fingerprint(connection, one.adapter_id, {"edition": 1, "prompt": [-1.0]})
        await adapters.store_fingerprint(connection, two.adapter_id, {"edition": EDITION, "answers": 7})
    async with watching(database, engine, tmp_path) as watched:
        await watched.until(lambda: watched.is_ready(one))
        assert "cannot be read" in str(await watched.until_stands(two, "failed"))
    async with database.begin() as connection:
        stored = (await adapters.by_id(connection, one.adapter_id)).fingerprint
    assert stored is not None and stored["edition"] == EDITION


async def test_when_the_engine_has_no_room_the_champion_stays_and_the_rest_says_why(
    database: Database, engine: RunningEngine, tiny_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    champion = await published(database, engine.model, copy_of(tiny_adapters[0]), tmp_path, state="champion")
    candidate = await published(
        database, engine.model, copy_of(tiny_adapters[1]), tmp_path, state="candidate"
    )
    async with watching(database, engine, tmp_path, engine_max_cpu_loras=2) as watched:
        await watched.until(lambda: watched.is_ready(champion))
        detail = await watched.until_stands(candidate, "failed")
        assert "keeps 1 versions, and 2 are wanted" in str(detail)
        assert candidate.adapter_id not in await watched.listed()
        async with database.begin() as connection:
            await shipping.reject(connection, PROJECT, candidate.name, by="ada", reason="test")


async def test_a_version_published_at_a_url_is_copied_once_and_served_from_the_copy(
    database: Database, engine: RunningEngine, tiny_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    copies = tmp_path / "copies"
    one = await published(
        database, engine.model, copy_of(tiny_adapters[0]), tmp_path / "store", url="file://{directory}"
    )
    async with watching(database, engine, tmp_path, engine_adapter_dir=copies) as watched:
        await watched.until(lambda: watched.is_ready(one))
    assert [path.name for path in copies.iterdir()] == [one.adapter_id]
    async with EngineApi(engine.url) as api:
        assert (await api.look()).adapters[one.adapter_id] == str(copies / one.adapter_id)


async def test_versions_of_another_base_model_are_not_this_engines_business(
    database: Database, engine: RunningEngine, tiny_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    async with database.begin() as connection:
        await models.create(
            connection, project=PROJECT, model="other", base_model="Qwen/Qwen3-0.6B", by="test"
        )
        await models.create(
            connection, project=PROJECT, model="support", base_model=str(engine.model), by="test"
        )
        base = await adapters.get(connection, PROJECT, "support@0")
        other = await adapters.get(connection, PROJECT, "other@0")
    async with watching(database, engine, tmp_path) as watched:
        await watched.until(lambda: watched.is_ready(base))
        await asyncio.sleep(0.5)
        assert not watched.is_ready(other)
        async with database.begin() as connection:
            assert await engines.standing(connection, other.adapter_id) == []
