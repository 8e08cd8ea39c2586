"""After an erasure no byte of what a person wrote is left in database, state directory and exports.

Looked at: every row of every table, every file of the database's directory but its write-ahead log, every file of the
state directory, and the export. The write-ahead log turns over by itself and backups are somebody else's: both are
named in the guide on privacy.
"""

import asyncio
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import text

from deploy.postgres import EmbeddedPostgres
from feedback import datasets, erasures, export, exports, keys, models, runs, submissions
from feedback.database import Database, migrate
from feedback.datasets import Row
from feedback.ids import new_id
from feedback.wanted import Wanted
from serving.drain import Drain
from serving.spool import COMPLETION, FEEDBACK, Spool
from tests.builders import PROJECT, a_rated_completion
from tests.conftest import open_directory
from tests.fakes import fake_engine
from tests.serving.running import running_gateway
from tests.serving.test_transcript import HEAD

PLANTED = "zebra-crossing-47-in-the-moonlight"
RATER = "jane-doe-of-elm-street"


def files_with(directory: Path, words: bytes) -> list[str]:
    """Every file below that holds the words."""
    found = []
    for path in directory.rglob("*"):
        if (
            path.is_file()
            and not path.is_symlink()
            and "pg_wal" not in path.parts
            and words in path.read_bytes()
        ):
            found.append(str(path.relative_to(directory)))
    return found


async def tables_with(database: Database, words: str) -> list[str]:
    """Every table that holds the words in some row."""
    found = []
    async with database.begin() as connection:
        names = await connection.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'"))
        for name in names.all():
            query = text(f'SELECT count(*) FROM "{name}" AS t WHERE t::text LIKE :words')
            if await connection.scalar(query, {"words": f"%{words}%"}):
                found.append(name)
    return found


async def plant(running: Any, state_dir: Path, elsewhere: Path) -> tuple[str, str]:
    """Everything that the service does with words: asked, answered, rated, frozen, trained on, exported, set aside."""
    asked = {
        "messages": [{"role": "user", "content": f"I live at {PLANTED}."}],
        "metadata": {"where": PLANTED},
    }
    answer = await running.ask(True, **asked, user=RATER, store=True)
    [row] = await running.rows(1)
    completion_id = row["completion_id"]
    assert answer.status_code == 200 and row["consent"]
    for body in (
        {"kind": "demonstration", "value": f"Say {PLANTED}.", "comment": PLANTED},
        {"kind": "comment", "value": PLANTED, "rater_id": "somebody-else"},
    ):
        said = await running.client.post("/v1/feedback", json={"completion_id": completion_id, **body})
        assert said.status_code == 200, said.text
    async with running.database.begin() as connection:
        rows = [Row("train", {"prompt": PLANTED, "completion": PLANTED}, row["rater"], (completion_id,), ())]
        frozen: dict[str, Any] = {"project": PROJECT, "model": "support", "method": "sft"}
        dataset = await datasets.freeze(connection, **frozen, rows=rows, selection={}, counts={})
        run = await runs.create(
            connection, **frozen, dataset_id=dataset.dataset_id, recipe={}, recipe_hash="r", by="test"
        )
        await runs.start(connection, run.run_id)
        await runs.finish(connection, run.run_id, status="failed")
        to = elsewhere / "export.jsonl"
        await exports.note(connection, PROJECT, to, by="test")
        pieces = [one async for one in export.json_lines(export.rows(connection, Wanted(PROJECT), "raw"))]
        to.write_bytes(b"".join(pieces))
    for path in ("checkpoints/checkpoint-3/rows.arrow", "adapter.partial/trainer_state.json", "train.log"):
        file = state_dir / "runs" / run.run_id / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"step 3 {PLANTED}\n")
    aside = state_dir / "spool" / "refused" / "record-1.bin"
    aside.parent.mkdir(parents=True, exist_ok=True)
    aside.write_text(f'{{"rater":"{row["rater"]}","request":"{PLANTED}"}}')
    return completion_id, row["rater"]


async def test_no_byte_of_a_planted_text_is_left_anywhere(tmp_path: Path) -> None:
    settings = {"fsync": "off", "synchronous_commit": "off", "wal_level": "minimal", "max_wal_senders": "0"}
    with open_directory() as directory, EmbeddedPostgres(directory / "postgres", settings=settings) as server:
        await asyncio.to_thread(migrate, server.url)
        state_dir, elsewhere = tmp_path / "state", tmp_path / "elsewhere"
        state_dir.mkdir()
        elsewhere.mkdir()
        async with (
            Database(server.url) as database,
            fake_engine() as engine,
            running_gateway(database, server.url, state_dir, engine.url) as running,
        ):
            completion_id, rater = await plant(running, state_dir, elsewhere)
            planted = await tables_with(database, PLANTED)
            assert len(planted) >= 3 and "audit" not in planted
            assert files_with(state_dir, PLANTED.encode()) and files_with(elsewhere, PLANTED.encode())
            async with database.begin() as connection:
                asked = await erasures.request(connection, PROJECT, rater=RATER, by="test")
            # One more vote waits in the spool, as if another gateway had kept it through an outage.
            late = submissions.submission(
                project=PROJECT, completion_id=completion_id, rater=rater, kind="comment", value=PLANTED
            )
            running.gateway.spool.append(FEEDBACK, late.to_json())
            waiting = await erasures.advance(database, asked.erasure_id, state_dir)
            assert waiting.phase == "record" and "gateway" in str(waiting.waits_for)
            drain = running.gateway.drain
            assert isinstance(drain, Drain)
            await drain.flush()
            await drain.let_go()
            done = await erasures.advance(database, asked.erasure_id, state_dir)
            assert done.phase == "done", done
            assert done.counts["export_files"] == done.counts["set_aside_records"] == 1
            await erasures.rewrite_tables(database)
            for words in (PLANTED, rater, completion_id):
                assert await tables_with(database, words) == []
                assert files_with(state_dir, words.encode()) == []
                assert files_with(elsewhere, words.encode()) == []
        assert files_with(directory, PLANTED.encode()) == []


async def test_an_erasure_is_asked_for_and_followed_over_http(
    database: Database, database_url: str, state_dir: Path
) -> None:
    async with database.begin() as connection:
        await a_rated_completion(connection, rater="rater-" + "a" * 24)
        _, admin = await keys.create(connection, role="admin", name="officer", by="test")
        _, operator = await keys.create(connection, role="operator", name="ops", by="test")
    async with (
        fake_engine() as engine,
        running_gateway(database, database_url, state_dir, engine.url) as running,
    ):
        path, mine = "/admin/v1/erasures", {"authorization": f"Bearer {admin}"}
        asked = await running.client.post(path, json={"rater_id": "rater-" + "a" * 24}, headers=mine)
        assert asked.status_code == 202 and asked.json()["phase"] == "requested", asked.text
        again = await running.client.post(path, json={"rater_id": "rater-" + "a" * 24}, headers=mine)
        assert again.json()["erasure_id"] == asked.json()["erasure_id"]
        await carry_out(database, asked.json()["erasure_id"], state_dir)
        shown = await running.client.get(f"{path}/{asked.json()['erasure_id']}", headers=mine)
        listed = await running.client.get(path, headers=mine)
        both = await running.client.post(path, json={"rater_id": "a", "completion_id": "b"}, headers=mine)
        theirs = await running.client.get(path, headers={"authorization": f"Bearer {operator}"})
    assert shown.json()["phase"] == "done" and shown.json()["tainted"] == []
    assert [one["erasure_id"] for one in listed.json()["data"]] == [asked.json()["erasure_id"]]
    assert (both.status_code, theirs.status_code) == (400, 403)


async def carry_out(database: Database, erasure_id: str, state_dir: Path) -> None:
    """What the worker does."""
    while (await erasures.advance(database, erasure_id, state_dir)).phase != "done":
        await asyncio.sleep(0.05)


async def test_a_log_says_why_a_record_was_refused_and_not_what_stood_in_it(
    database: Database, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    head = {"completion_id": new_id("chatcmpl"), "endpoint": "/v1/chat/completions", "status": PLANTED}
    spool = Spool(tmp_path / "spool")
    spool.append(COMPLETION, orjson.dumps({**HEAD, **head}) + b"\n{}")
    drain = Drain(spool, database)
    await drain.flush()
    assert drain.refused == 1
    assert "ck_completions_status" in caplog.text and PLANTED not in caplog.text


@pytest.mark.parametrize(
    ("store", "default", "consent"), [(True, False, True), (None, True, True), (False, True, False)]
)
async def test_consent_is_what_the_request_says_else_what_the_policy_says(
    database: Database, database_url: str, state_dir: Path, store: bool | None, default: bool, consent: bool
) -> None:
    async with (
        fake_engine() as engine,
        running_gateway(database, database_url, state_dir, engine.url) as running,
    ):
        async with database.begin() as connection:
            changes = {"consent_default": default}
            await models.change_policy(connection, PROJECT, "support", changes, by="test")
        await running.gateway.tables.refresh()
        await running.ask(False, **({} if store is None else {"store": store}))
        [row] = await running.rows(1)
        async with database.begin() as connection:
            said = submissions.submission(
                project=PROJECT,
                completion_id=row["completion_id"],
                rater="rater-a",
                kind="rating",
                value=True,
            )
            await submissions.store(connection, said)
            rows = [one async for one in export.rows(connection, Wanted(PROJECT), "kto")]
    assert row["consent"] is consent and len(rows) == int(consent)
