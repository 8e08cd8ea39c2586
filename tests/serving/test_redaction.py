"""A model's policy says what of its text is ever written down; answers do not wait for more than that."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import text

from feedback import models
from feedback.database import Database
from feedback.privacy_policy import PrivacyPolicy
from serving.redaction import MARK, pack, read_completion
from tests.builders import PROJECT
from tests.fakes import fake_engine
from tests.serving.running import Running, running_gateway

ADDRESS = "jane.doe@example.org"
ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": f"I am {ADDRESS}. How long?"}]}


async def use(running: Running, redaction: str) -> None:
    """Set the model's redaction, and wait until the gateway knows."""
    async with running.database.begin() as connection:
        changes = {"privacy": {"redaction": redaction}}
        await models.change_policy(connection, PROJECT, "support", changes, by="test")
    await running.gateway.tables.refresh()


def everything_in(directory: Path) -> bytes:
    """Every byte of every file below."""
    return b"".join(path.read_bytes() for path in directory.rglob("*") if path.is_file())


@pytest.mark.parametrize("stream", [True, False])
async def test_redacting_everything_writes_no_address_to_the_spool_or_the_record(
    database: Database, database_url: str, state_dir: Path, stream: bool
) -> None:
    async with (
        fake_engine() as engine,
        running_gateway(database, database_url, state_dir, engine.url) as running,
    ):
        await use(running, "everything")
        answer = await running.ask(stream, **ASKED)
        assert answer.status_code == 200
        [row] = await running.rows(1)
        body = {
            "completion_id": row["completion_id"],
            "kind": "comment",
            "value": f"Write to {ADDRESS}",
            "metadata": {"from": ADDRESS},
        }
        said = await running.client.post("/v1/feedback", json=body)
        assert said.status_code == 200, said.text
        async with database.begin() as connection:
            raw = await connection.scalar(text("SELECT count(*) FROM completion_texts"))
            [comment] = (await connection.execute(text("SELECT value, metadata FROM feedback"))).all()
        assert ADDRESS.encode() not in everything_in(state_dir)
    assert raw == 0
    assert row["request"]["messages"][0]["content"] == "I am <EMAIL_1>. How long?"
    assert row["prompt_token_ids"] is row["output_token_ids"] is None
    assert row["redacted"] == {"EMAIL": 1}
    assert tuple(comment) == ("Write to <EMAIL_1>", {"from": "<EMAIL_1>"})


async def test_redacting_for_training_keeps_the_text_and_a_redacted_copy(
    database: Database, database_url: str, state_dir: Path
) -> None:
    async with (
        fake_engine() as engine,
        running_gateway(database, database_url, state_dir, engine.url) as running,
    ):
        await use(running, "training")
        await running.ask(True, **ASKED)
        [row] = await running.rows(1)
        async with database.begin() as connection:
            copy = await connection.scalar(text("SELECT request FROM completion_redacted"))
    assert row["request"]["messages"] == ASKED["messages"]
    assert copy["messages"][0]["content"] == "I am <EMAIL_1>. How long?"


async def test_a_completion_that_cannot_be_redacted_is_lost_and_not_stored(
    database: Database, database_url: str, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(row: bytes, policy: object) -> bytes:
        raise RuntimeError(row.decode())

    monkeypatch.setattr("serving.redaction.redact_row", fail)
    async with (
        fake_engine() as engine,
        running_gateway(database, database_url, state_dir, engine.url) as running,
    ):
        await use(running, "everything")
        answer = await running.ask(True, **ASKED)
        assert answer.text.endswith("data: [DONE]\n\n")
        await running.gateway.drain.flush()
        assert running.gateway.recorder.lost == 1
        assert ADDRESS.encode() not in everything_in(state_dir)


def test_a_client_that_sends_the_mark_itself_is_not_redacted_for_it() -> None:
    head = {
        "completion_id": "cmpl-1",
        "endpoint": "/v1/completions",
        "request": {"privacy": {"redaction": "training"}, "prompt": ADDRESS},
    }
    _, parts = pack(head, bytearray(b'{"choices":[{"text":"Hi"}]}'), PrivacyPolicy())
    assert MARK in b"".join(parts)
    assert "redacted" not in orjson.loads(read_completion(b"".join(parts)))
