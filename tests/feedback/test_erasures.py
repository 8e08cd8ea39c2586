"""A person who asks to be forgotten is forgotten: rows, copies, files, and what comes late; what learned is listed."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import adapters, audit, completions, datasets, erasures, exports, keys, runs, submissions, taint
from feedback.adapters import Adapter
from feedback.completions import Completion
from feedback.database import Database
from feedback.datasets import Row
from feedback.errors import HoneError, NotFound, Refused
from feedback.ids import pseudonym
from feedback.tombstones import FOR_EVER
from tests.builders import PASSED, PROJECT, a_completion, a_model, a_rated_completion

NAME = "rater-" + "a" * 24
OTHER = "rater-" + "b" * 24


async def erase(database: Database, state_dir: Path, **what: Any) -> erasures.Erasure:
    """Ask, and carry out as far as it goes."""
    async with database.begin() as connection:
        asked = await erasures.request(connection, PROJECT, by="test", **what)
    return await erasures.advance(database, asked.erasure_id, state_dir)


async def count(connection: AsyncConnection, table: str) -> int:
    return int(await connection.scalar(text(f"SELECT count(*) FROM {table}")) or 0)


async def a_version(
    connection: AsyncConnection, *sources: Completion, start_from: str | None = None, state: str = "champion"
) -> Adapter:
    """A version that was trained on these completions, and on one of somebody else."""
    await a_model(connection)
    theirs = await a_rated_completion(connection, rater=OTHER, output_text=f"It is {len(sources)}.")
    rows = [
        Row("train", {"prompt": one.completion_id, "completion": "x"}, one.rater, (one.completion_id,), ())
        for one in (*sources, theirs)
    ]
    dataset = await datasets.freeze(
        connection,
        project=PROJECT,
        model="support",
        method="sft",
        rows=rows,
        selection={},
        counts={"train": 2},
    )
    run = await runs.create(
        connection,
        project=PROJECT,
        model="support",
        method="sft",
        recipe={"start_from": start_from},
        recipe_hash="r",
        dataset_id=dataset.dataset_id,
        by="test",
    )
    assert run.adapter_id is not None
    _, _, version = run.adapter_id.partition("--v")
    adapter = await adapters.register(
        connection,
        adapter_id=run.adapter_id,
        project=PROJECT,
        model="support",
        version=int(version.partition("-")[0]),
        base_model="tiny",
        path=f"/adapters/{run.adapter_id}",
        files_hash="0" * 64,
        run_id=run.run_id,
        by="test",
    )
    await runs.start(connection, run.run_id)
    await runs.finish(connection, run.run_id, status="succeeded")
    adapter = await adapters.decide(connection, adapter, report=PASSED, evidence_hash="e" * 64, by="test")
    adapter = await adapters.move(connection, adapter, "approve", by="ada")
    return (
        await adapters.promote(connection, adapter, by="ada", reason="test")
        if state == "champion"
        else adapter
    )


async def test_everything_of_a_person_goes_and_nothing_of_others(database: Database, state_dir: Path) -> None:
    async with database.begin() as connection:
        mine = await a_rated_completion(connection, rater=NAME, session="chat-1")
        nameless = a_completion(rater=None, unit="chat-1", session="chat-1")
        theirs = await a_rated_completion(connection, rater=OTHER)
        await completions.insert_many(connection, [nameless])
        for completion_id, rater in ((theirs.completion_id, NAME), (mine.completion_id, OTHER)):
            said = submissions.submission(
                project=PROJECT, completion_id=completion_id, rater=rater, kind="comment", value="Jane says"
            )
            await submissions.store(connection, said)
    done = await erase(database, state_dir, rater=NAME)
    async with database.begin() as connection:
        left = (await connection.execute(text("SELECT completion_id FROM completion_texts"))).scalars().all()
        feedback = (await connection.execute(text("SELECT completion_id, rater FROM feedback"))).all()
        assert await audit.verify(connection) is None
    assert done.phase == "done" and done.pending is None
    assert done.counts["completions"] == 2 and done.counts["feedback"] == 3
    assert left == [theirs.completion_id]
    assert [tuple(row) for row in feedback] == [(theirs.completion_id, OTHER)]


async def test_a_rater_is_named_as_the_application_names_them(database: Database, state_dir: Path) -> None:
    async with database.begin() as connection:
        secret = await keys.service_secret(connection, "pseudonym")
        await a_rated_completion(connection, rater=pseudonym(secret, PROJECT, "jane@example.org"))
    done = await erase(database, state_dir, rater="jane@example.org")
    assert done.counts["completions"] == 1


async def test_what_arrives_after_an_erasure_is_refused(database: Database, state_dir: Path) -> None:
    late = a_completion(rater=NAME, unit=NAME, session="chat-1")
    async with database.begin() as connection:
        old = await a_rated_completion(connection, rater=NAME, session="chat-1")
    said = {
        "about it": submissions.submission(
            project=PROJECT, completion_id=old.completion_id, rater=OTHER, kind="rating", value=True
        ),
        "by them": submissions.submission(
            project=PROJECT, completion_id="chatcmpl-9", rater=NAME, kind="rating", value=True
        ),
    }
    await erase(database, state_dir, rater=NAME)
    async with database.begin() as connection:
        assert await completions.insert_many(connection, [late, old]) == 0
        for given in said.values():
            await submissions.store(connection, given)
        with pytest.raises(Refused, match="erased"):
            await submissions.store_all(connection, list(said.values()), acknowledged=False)
        assert await count(connection, "feedback") == await count(connection, "completion_texts") == 0


async def test_who_comes_back_is_recorded_again_unless_the_future_is_refused_too(
    database: Database, state_dir: Path
) -> None:
    await erase(database, state_dir, rater=NAME)
    async with database.begin() as connection:
        assert await completions.insert_many(connection, [a_completion(rater=NAME, unit=NAME)]) == 1
    await erase(database, state_dir, rater=NAME, and_future=True)
    async with database.begin() as connection:
        assert await completions.insert_many(connection, [a_completion(rater=NAME, unit=NAME)]) == 0
        until = await connection.scalar(text("SELECT max(until) FROM tombstones"))
    assert until == FOR_EVER


@pytest.mark.parametrize("and_future", [False, True])
async def test_others_in_a_conversation_of_the_erased_go_on_being_recorded(
    database: Database, state_dir: Path, and_future: bool
) -> None:
    raters = {"theirs": NAME, "nameless": None, "others'": OTHER}

    def in_room() -> dict[str, Completion]:
        return {
            name: a_completion(rater=rater, unit=rater or "room-1", session="room-1")
            for name, rater in raters.items()
        }

    async def let_in(connection: AsyncConnection, rows: dict[str, Completion]) -> set[str]:
        return {name for name, row in rows.items() if await completions.insert_many(connection, [row])}

    def about_room() -> submissions.Submission:
        return submissions.submission(
            project=PROJECT, session="room-1", rater=OTHER, kind="comment", value="It went well."
        )

    async with database.begin() as connection:
        for rater in (NAME, OTHER):
            await a_rated_completion(connection, rater=rater, session="room-1")
    late, said_late = in_room(), about_room()
    await erase(database, state_dir, rater=NAME, and_future=and_future)
    async with database.begin() as connection:
        assert await let_in(connection, late) == {"others'"}
        assert await let_in(connection, in_room()) == ({"others'"} if and_future else set(raters))
        said = [said_late, about_room()]
        for one in said:
            await submissions.store(connection, one)
        kept = await submissions.of_session(connection, PROJECT, "room-1")
    assert [one["feedback_id"] for one in kept] == ([] if and_future else [said[1].feedback_id])


async def test_asking_twice_is_one_erasure_and_nobody_is_named_afterwards(
    database: Database, state_dir: Path
) -> None:
    async with database.begin() as connection:
        mine = await a_rated_completion(connection, rater=NAME)
        first = await erasures.request(connection, PROJECT, rater=NAME, by="test")
        second = await erasures.request(connection, PROJECT, rater=NAME, by="test")
    assert first == second
    await erasures.advance(database, first.erasure_id, state_dir)
    done = await erasures.advance(database, first.erasure_id, state_dir)
    assert done.phase == "done"
    async with database.begin() as connection:
        kept = "SELECT e::text, t::text, a::text FROM erasures e, tombstones t, audit a"
        dump = str((await connection.execute(text(kept))).all())
    assert NAME not in dump and mine.completion_id not in dump
    assert done.erasure_id in dump


async def test_asking_again_adds_to_an_open_erasure_and_takes_nothing_away(
    database: Database, state_dir: Path
) -> None:
    async with database.begin() as connection:
        await a_rated_completion(connection, rater=NAME, session="chat-1")
    strange = state_dir / "notes.txt"
    strange.write_text(NAME)
    waiting = await erase(database, state_dir, rater=NAME)
    async with database.begin() as connection:
        between = a_completion(rater=NAME, unit="u", session="chat-2")
        assert await completions.insert_many(connection, [between]) == 1
    week = await erase(database, state_dir, rater=NAME, retire_within_days=7)
    for no_more in ({}, {"retire_within_days": 30}):
        assert await erase(database, state_dir, rater=NAME, **no_more) == week
    strange.unlink()
    day = await erase(database, state_dir, rater=NAME, retire_within_days=1, and_future=True)
    async with database.begin() as connection:
        later = [a_completion(rater=rater, unit="u", session="chat-1") for rater in (NAME, None)]
        assert await completions.insert_many(connection, later) == 0
        assert await connection.scalar(text("SELECT count(*) FROM completions")) == 0
        entries = await audit.entries(connection, PROJECT, subject=waiting.erasure_id)
    assert [entry.action.partition(".")[2] for entry in entries[::-1]] == [
        "request",
        "widen",
        "widen",
        "done",
    ]
    assert day.phase == "done" and day.counts["completions"] == 2
    assert waiting.retire_by is None and week.retire_by and day.retire_by
    assert week.erasure_id == day.erasure_id and (week.retire_by - day.retire_by).days == 5


async def test_a_crash_between_two_phases_is_gone_on_from(
    database: Database, state_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(*_: object) -> None:
        raise OSError("killed")

    async with database.begin() as connection:
        await a_rated_completion(connection, rater=NAME)
        asked = await erasures.request(connection, PROJECT, rater=NAME, by="test")
    for part in ("_erase_record", "_clean_files", "_finish"):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="killed"):
            patch.setattr(erasures, part, crash)
            await erasures.advance(database, asked.erasure_id, state_dir)
    async with database.begin() as connection:
        [unfinished] = await erasures.unfinished(connection)
    done = await erasures.advance(database, unfinished.erasure_id, state_dir)
    assert done.phase == "done" and done.counts["completions"] == 1


async def test_a_dataset_loses_its_rows_and_keeps_its_hash_and_says_so(
    database: Database, state_dir: Path
) -> None:
    async with database.begin() as connection:
        mine = await a_rated_completion(connection, rater=NAME)
        adapter = await a_version(connection, mine)
        [dataset] = await datasets.in_project(connection, PROJECT)
    done = await erase(database, state_dir, completion_id=mine.completion_id)
    async with database.begin() as connection:
        after = await datasets.get(connection, dataset.dataset_id)
        rows = await datasets.rows(connection, dataset.dataset_id)
        report = await erasures.report(connection, done)
    assert (after.content_hash, after.counts["erased"], len(rows)) == (dataset.content_hash, 1, 1)
    [tainted] = report["tainted"]
    assert tainted["name"] == adapter.name and "hone retrain now --model support" in tainted["to_do"]


async def test_a_version_that_continues_a_tainted_one_is_tainted_and_others_are_not(
    database: Database, state_dir: Path
) -> None:
    async with database.begin() as connection:
        clean = await a_version(connection)
        mine = await a_rated_completion(connection, rater=NAME)
        first = await a_version(connection, mine)
        second = await a_version(connection, start_from=first.path)
        third = await a_version(connection, start_from=second.path, state="approved")
    done = await erase(database, state_dir, rater=NAME, retire_within_days=30)
    async with database.begin() as connection:
        found = {one["name"]: one["through"] for one in await taint.plan(connection, done.erasure_id)}
        assert await taint.retire_overdue(connection) == []
    assert found == {first.name: None, second.name: first.adapter_id, third.name: second.adapter_id}
    assert clean.name not in found


async def test_a_version_that_continues_a_tainted_one_after_the_erasure_is_tainted_too(
    database: Database, state_dir: Path
) -> None:
    async with database.begin() as connection:
        first = await a_version(connection, await a_rated_completion(connection, rater=NAME))
    done = await erase(database, state_dir, rater=NAME)
    async with database.begin() as connection:
        later = await a_version(connection, start_from=first.path)
        await taint.spread(connection)
        found = {one["name"]: one["through"] for one in await taint.plan(connection, done.erasure_id)}
    assert found == {first.name: None, later.name: first.adapter_id}


async def test_past_the_deadline_an_untainted_version_answers_again_and_the_trail_says_why(
    database: Database, state_dir: Path
) -> None:
    async with database.begin() as connection:
        clean = await a_version(connection)
        mine = await a_rated_completion(connection, rater=NAME)
        first = await a_version(connection, mine)
        second = await a_version(connection, start_from=first.path)
        waiting = await a_version(connection, start_from=second.path, state="approved")
    done = await erase(database, state_dir, rater=NAME, retire_within_days=0)
    async with database.begin() as connection:
        said = await taint.retire_overdue(connection)
        again = await taint.retire_overdue(connection)
        champion = await adapters.champion(connection, PROJECT, "support")
        wanted = {one.adapter_id for one in await adapters.wanted_on_engines(connection)}
        states = {one["name"]: one["state"] for one in await taint.plan(connection, done.erasure_id)}
        actions = {entry.action for entry in await audit.entries(connection, PROJECT, subject=second.name)}
        assert await audit.verify(connection) is None
    assert champion.adapter_id == clean.adapter_id and len(said) == 3 and again == []
    assert wanted.isdisjoint({first.adapter_id, second.adapter_id, waiting.adapter_id})
    assert states == {first.name: "retired", second.name: "retired", waiting.name: "rejected"}
    assert {"adapter.retire_tainted", "adapter.remove_files", "adapter.replace"} <= actions


async def test_without_an_untainted_version_the_base_model_answers(
    database: Database, state_dir: Path
) -> None:
    async with database.begin() as connection:
        await a_version(connection, await a_rated_completion(connection, rater=NAME))
    await erase(database, state_dir, rater=NAME, retire_within_days=0)
    async with database.begin() as connection:
        await taint.retire_overdue(connection)
        assert (await adapters.champion(connection, PROJECT, "support")).version == 0


async def test_files_that_name_it_are_cleaned_and_an_unknown_one_is_waited_for(
    database: Database, state_dir: Path, tmp_path: Path
) -> None:
    async with database.begin() as connection:
        mine = await a_rated_completion(connection, rater=NAME)
        adapter = await a_version(connection, mine)
        export, other = tmp_path / "export.jsonl", tmp_path / "other.jsonl"
        for path in (export, other):
            await exports.note(connection, PROJECT, path, by="test")
    export.write_text(f'{{"completion_id":"{mine.completion_id}"}}\n')
    other.write_text("{}\n")
    run_directory = state_dir / "runs" / str(adapter.run_id)
    (run_directory / "checkpoints").mkdir(parents=True)
    (run_directory / "checkpoints" / "rows.arrow").write_text("How long may I return a lamp?")
    (state_dir / "spool" / "refused").mkdir(parents=True)
    (state_dir / "spool" / "refused" / "1.bin").write_text(NAME)
    (state_dir / "logs").mkdir()
    # A supervisor moves a long log's text aside.
    logs = [state_dir / "logs" / name for name in ("gateway.log", "gateway.log.1")]
    for log in logs:
        log.write_text(f"before\nlost {mine.completion_id}\nafter\n")
    strange = state_dir / "notes.txt"
    strange.write_text(NAME)
    waiting = await erase(database, state_dir, rater=NAME)
    assert waiting.phase == "record" and str(strange) in str(waiting.waits_for)
    strange.unlink()
    done = await erasures.advance(database, waiting.erasure_id, state_dir)
    assert done.phase == "done"
    assert not export.exists() and other.exists() and not run_directory.exists()
    blanked = f"before\n{'x' * (5 + len(mine.completion_id))}\nafter\n"
    assert [log.read_text() for log in logs] == [blanked, blanked]
    assert done.counts["export_files"] == done.counts["set_aside_records"] == 1
    assert done.counts["log_lines"] == 2


async def test_a_run_that_trains_on_erased_rows_is_cancelled_and_waited_for(
    database: Database, state_dir: Path
) -> None:
    async with database.begin() as connection:
        mine = await a_rated_completion(connection, rater=NAME)
        adapter = await a_version(connection, mine)
        [dataset] = await datasets.in_project(connection, PROJECT)
        values = {"project": PROJECT, "model": "support", "method": "sft", "dataset_id": dataset.dataset_id}
        run = await runs.create(connection, **values, recipe={}, recipe_hash="r", by="test")
    waiting = await erase(database, state_dir, rater=NAME)
    assert waiting.phase == "record" and run.run_id in str(waiting.waits_for)
    async with database.begin() as connection:
        assert (await runs.by_id(connection, run.run_id)).cancel_requested
        await runs.finish(connection, run.run_id, status="cancelled")
    assert (await erasures.advance(database, waiting.erasure_id, state_dir)).phase == "done"
    assert adapter.run_id != run.run_id


async def test_a_request_that_names_nobody_or_two_things_is_refused(database: Database) -> None:
    async with database.begin() as connection:
        with pytest.raises(HoneError, match="either a rater or a completion"):
            await erasures.request(connection, PROJECT, rater=NAME, completion_id="x", by="test")
        with pytest.raises(HoneError, match="1 to 256"):
            await erasures.request(connection, PROJECT, rater="x" * 257, by="test")
        theirs = a_completion(project="other")
        await completions.insert_many(connection, [theirs])
        for _ in ("while it is there", "while it is being erased"):
            with pytest.raises(NotFound, match="has no completion"):
                await erasures.request(connection, PROJECT, completion_id=theirs.completion_id, by="test")
            await erasures.request(connection, "other", completion_id=theirs.completion_id, by="test")
            await connection.execute(text("DELETE FROM completions"))
