"""Drift in the record: windows follow the champion's first traffic, each kind says what changed, pages are kept."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import text

from feedback import adapters, models
from feedback.completions import Completion, insert_many
from feedback.database import Database
from feedback.policy import ModelPolicy
from feedback.traffic import window
from monitoring.drift import Report, last_message, look, newest
from retrain.drift_child import look as look_in_a_child
from tests.builders import PROJECT, a_completion, a_model

DRIFT = {"reference_rows": 200, "window_rows": 200, "pages": False}
POLICY = ModelPolicy.model_validate({"drift": DRIFT | {"votes_seconds": 0}})
WORDS = ("parcel", "lamp", "kettle", "invoice", "address", "chair", "refund")


def asked(number: int, *, poem: bool = False, answer: str = "Within 30 days.", **changes: Any) -> Completion:
    said = f"Where is my {WORDS[number % 7]} from May {number % 28}?"
    said = f"Write a poem about the sea and my {WORDS[number % 7]}" if poem else said
    body = {"model": "support", "messages": [{"role": "user", "content": said}]}
    return a_completion(
        unit=f"rater-{number}",
        rater=f"rater-{number}",
        request=orjson.dumps(body).decode(),
        output_text=answer,
        created_at=datetime.now(UTC) + timedelta(seconds=number),
        **changes,
    )


async def traffic(database: Database, first: int, count: int, **changes: Any) -> None:
    async with database.begin() as connection:
        champion = changes.pop("adapter_id", None)
        if champion is None:
            champion = (await adapters.champion(connection, PROJECT, "support")).adapter_id
        rows = [asked(number, adapter_id=champion, **changes) for number in range(first, first + count)]
        await insert_many(connection, rows)


async def a_service(database: Database, policy: ModelPolicy = POLICY) -> None:
    async with database.begin() as connection:
        await a_model(connection, policy=policy)


async def by_kind(database: Database, state_dir: Path) -> dict[str, Report]:
    return {report.kind: report for report in await look(database, state_dir)}


async def test_nothing_is_compared_before_there_is_a_reference_and_a_whole_window(
    database: Database, state_dir: Path
) -> None:
    await a_service(database)
    await traffic(database, 0, 399)
    assert await look(database, state_dir) == []


async def test_traffic_like_before_is_no_drift_and_is_compared_once(
    database: Database, state_dir: Path
) -> None:
    await a_service(database)
    await traffic(database, 0, 400)
    found = await by_kind(database, state_dir)
    assert {kind: (one.drifted, one.rows) for kind, one in found.items()} == {
        "input": (False, 200),
        "output": (False, 200),
        "feedback": (False, 200),
    }
    assert await look(database, state_dir) == []
    async with database.begin() as connection:
        assert len(await newest(connection, PROJECT, "support")) == 3


async def test_windows_go_on_where_they_were_when_the_references_first_texts_go(
    database: Database, state_dir: Path
) -> None:
    await a_service(database)
    await traffic(database, 0, 400)
    await traffic(database, 400, 200, poem=True)
    before = [one for one in await look(database, state_dir) if one.kind == "input"]
    assert [(one.drifted, one.alarm) for one in before] == [(False, False), (True, True)]
    async with database.begin() as connection:
        gone = "completion_id IN (SELECT completion_id FROM completions ORDER BY created_at LIMIT 50)"
        await connection.execute(text(f"DELETE FROM completion_texts WHERE {gone}"))
    assert await look(database, state_dir) == []
    await traffic(database, 600, 200, poem=True)
    [report] = [one for one in await look(database, state_dir) if one.kind == "input"]
    assert report.window_from > before[-1].window_to and report.drifted
    assert report.reference_from > before[-1].reference_from


async def test_a_promotion_begins_a_new_reference(database: Database, state_dir: Path) -> None:
    await a_service(database)
    await traffic(database, 0, 400)
    [before] = [one for one in await look(database, state_dir) if one.kind == "input"]
    async with database.begin() as connection:
        await connection.execute(text("UPDATE adapters SET updated_at = :at"), {"at": before.window_to})
    await traffic(database, 400, 400, poem=True)
    [report] = [one for one in await look(database, state_dir) if one.kind == "input"]
    assert report.reference_from > before.window_to and not report.drifted


async def test_people_who_ask_for_something_else_are_input_drift_only(
    database: Database, state_dir: Path
) -> None:
    await a_service(database)
    await traffic(database, 0, 200)
    await traffic(database, 200, 200, poem=True)
    found = await by_kind(database, state_dir)
    assert (found["input"].alarm, found["output"].alarm, found["feedback"].alarm) == (True, False, False)
    assert "what people ask about (p = 0.0" in found["input"].sentence


async def test_a_version_that_answers_otherwise_is_output_drift(database: Database, state_dir: Path) -> None:
    await a_service(database)
    await traffic(database, 0, 200)
    await traffic(database, 200, 200, answer="I cannot help with that.", output_tokens=40)
    found = await by_kind(database, state_dir)
    assert found["output"].alarm and not found["input"].alarm
    assert "how often answers refuse" in found["output"].sentence
    assert found["output"].adapter_id is not None


async def test_a_window_that_drifted_gets_evidentlys_page_without_any_words(
    database: Database, state_dir: Path
) -> None:
    pytest.importorskip("evidently", reason="the page needs hone-llm[drift]")
    policy = ModelPolicy.model_validate({"drift": {"reference_rows": 200, "window_rows": 200}})
    await a_service(database, policy)
    await traffic(database, 0, 200)
    await traffic(database, 200, 200, poem=True)
    # In the child, as the worker does it: the import alone takes seconds and stays out of this process.
    assert await look_in_a_child(database, state_dir) == []
    async with database.begin() as connection:
        [report] = [one for one in await newest(connection, PROJECT, "support") if one.kind == "input"]
    assert report.page is not None
    page = await asyncio.to_thread((state_dir / report.page).read_text)
    assert "how long their messages are" in page and "poem" not in page


async def vote(database: Database, names: Sequence[str], *, after: timedelta) -> None:
    """A thumb up for each of these answers, so long after it."""
    async with database.begin() as connection:
        await connection.execute(
            text(
                "INSERT INTO feedback (feedback_id, project, completion_id, rater, kind, name, value, effective,"
                " created_at) SELECT 'fb-' || completion_id, project, completion_id, unit, 'rating', 'thumbs', 'true',"
                " true, created_at + :after FROM completions WHERE completion_id = ANY(:names)"
            ),
            {"after": after, "names": list(names)},
        )


async def test_votes_that_have_not_come_yet_are_no_drift(database: Database, state_dir: Path) -> None:
    await a_service(database, ModelPolicy.model_validate({"drift": DRIFT | {"votes_seconds": 3600}}))
    async with database.begin() as connection:
        champion = await adapters.champion(connection, PROJECT, "support")
        await connection.execute(text("UPDATE adapters SET updated_at = now() - interval '9 hours'"))
        now = datetime.now(UTC)
        rows = [asked(number, adapter_id=champion.adapter_id) for number in range(400)]
        old = [
            replace(row, created_at=now - timedelta(hours=8, seconds=-n)) for n, row in enumerate(rows[:200])
        ]
        new = [
            replace(row, created_at=now - timedelta(minutes=30, seconds=-n))
            for n, row in enumerate(rows[200:])
        ]
        await insert_many(connection, [*old, *new])
    await vote(database, [row.completion_id for row in old[:60]], after=timedelta(hours=2))
    await vote(database, [row.completion_id for row in old[60:120]], after=timedelta(minutes=5))
    assert set(await by_kind(database, state_dir)) == {"input", "output"}, (
        "the newest votes are still to come"
    )
    await vote(database, [row.completion_id for row in new[60:120]], after=timedelta(minutes=5))
    async with database.begin() as connection:
        for table in ("completions", "feedback"):
            await connection.execute(text(f"UPDATE {table} SET created_at = created_at - interval '1 hour'"))
    assert not (await by_kind(database, state_dir))["feedback"].drifted


async def test_a_policy_may_switch_it_off(database: Database, state_dir: Path) -> None:
    await a_service(database)
    await traffic(database, 0, 400)
    async with database.begin() as connection:
        await models.change_policy(connection, PROJECT, "support", {"drift": {"enabled": False}}, by="ada")
    assert await look(database, state_dir) == []


async def test_one_rater_fills_no_window(database: Database) -> None:
    await a_service(database)
    async with database.begin() as connection:
        began = datetime.now(UTC) - timedelta(hours=1)
        rows = [a_completion(unit="eager", created_at=began + timedelta(seconds=n)) for n in range(50)]
        rows += [asked(number) for number in range(10)]
        await insert_many(connection, rows)
        found = await window(
            connection,
            PROJECT,
            "support",
            after=began - timedelta(seconds=1),
            rows=100,
            rows_per_unit=5,
        )
    assert [row.unit for row in found].count("eager") == 5 and len(found) == 15


@pytest.mark.parametrize(
    ("request_body", "text"),
    [
        ({"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, "a"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "c"}]}]}, "c"),
        ({"prompt": "d"}, "d"),
        ({"input": "e"}, "e"),
        ({"prompt": [1, 2]}, ""),
        ({"messages": []}, ""),
    ],
)
def test_what_a_person_said_last_is_found_in_every_shape(request_body: dict[str, Any], text: str) -> None:
    assert last_message(request_body) == text
