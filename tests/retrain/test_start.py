"""What a run starts from, and what it repeats."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import pytest
from sqlalchemy import insert

from feedback import adapters, datasets, models, runs, uploads
from feedback.database import Database
from feedback.errors import Conflict, NotFound
from feedback.policy import ModelPolicy
from feedback.privacy_tables import erasures
from retrain.file_rows import FileRow
from retrain.plan import make_plan, queue
from retrain.replay import replayed
from retrain.start import choose_start
from tests.builders import PASSED, PROJECT, a_rated_completion, an_uploaded_file
from tests.retrain.record import MODEL, queued_run, teach


async def test_a_champion_is_continued_until_something_speaks_against_it(
    database: Database, tmp_path: Path
) -> None:
    async with database.begin() as connection:
        run = await queued_run(connection, "tiny")
        model = await models.get(connection, PROJECT, MODEL)
        assert "base model, on all" in (await choose_start(connection, model)).sentence
        model = await models.change_policy(
            connection, PROJECT, MODEL, {"training": {"start": "champion", "from_base_every": 2}}, by="ada"
        )
        assert "champion is the base model" in (await choose_start(connection, model)).sentence

        first = await _champion(connection, run, 1, tmp_path / "one")
        start = await choose_start(connection, model)
        assert (start.start_from, start.since) == (first.path, run.created_at)
        (tmp_path / "one").rename(tmp_path / "elsewhere")
        assert "not on this machine" in (await choose_start(connection, model)).sentence
        (tmp_path / "elsewhere").rename(tmp_path / "one")

        again = await _run(connection, run, start_from=first.path)
        await _champion(connection, again, 2, tmp_path / "two")
        assert "2 runs in a row" in (await choose_start(connection, model)).sentence

        model = await models.change_policy(
            connection, PROJECT, MODEL, {"training": {"from_base_every": 5}}, by="ada"
        )
        assert (await choose_start(connection, model)).start_from == str(tmp_path / "two")
        erased = {
            "erasure_id": "e",
            "project": PROJECT,
            "kind": "rater",
            "phase": "done",
            "subject_hash": b"x",
        }
        later = datetime.now(UTC) + timedelta(seconds=1)
        await connection.execute(insert(erasures).values(**erased, requested_by="ada", requested_at=later))
        assert "something was erased" in (await choose_start(connection, model)).sentence


async def _run(connection: Any, like: runs.Run, **recipe: Any) -> runs.Run:
    return await runs.create(
        connection,
        project=PROJECT,
        model=MODEL,
        method=like.method,
        recipe=like.recipe | recipe,
        recipe_hash="r",
        dataset_id=like.dataset_id,
        by="test",
    )


async def _champion(connection: Any, run: runs.Run, version: int, directory: Path) -> adapters.Adapter:
    directory.mkdir()  # noqa: ASYNC240 # a test waits for nobody
    assert run.adapter_id is not None
    adapter = await adapters.register(
        connection,
        adapter_id=run.adapter_id,
        project=PROJECT,
        model=MODEL,
        version=version,
        base_model="tiny",
        path=str(directory),
        files_hash="0" * 64,
        run_id=run.run_id,
        by="test",
    )
    await runs.finish(connection, run.run_id, status="succeeded")
    adapter = await adapters.decide(connection, adapter, report=PASSED, evidence_hash="e" * 64, by="test")
    adapter = await adapters.move(connection, adapter, "approve", by="ada")
    return await adapters.promote(connection, adapter, by="ada", reason="test")


def test_the_same_part_of_a_fixed_set_is_repeated_whatever_its_order() -> None:
    fixed = [FileRow(f"Question {n}?", f"Answer {n}.") for n in range(50)]
    rows = replayed(fixed, "kto", 80, 0.2)
    assert len(rows) == 20
    assert rows == replayed(fixed[::-1], "kto", 80, 0.2)
    assert all(row.columns["label"] and row.columns["replay"] for row in rows)
    assert len(replayed(fixed, "sft", 1000, 0.5)) == 50


async def test_a_run_that_continues_the_champion_learns_what_is_new_and_repeats_a_part_of_the_rest(
    database: Database, tmp_path: Path
) -> None:
    async with database.begin() as connection:
        await teach(connection, "tiny")
    async with database.begin() as connection:
        run = await queue(connection, await make_plan(connection, PROJECT, MODEL), by="ada")
        lines = [{"messages": [_said("user", f"{n}?"), _said("assistant", f"{n}!")]} for n in range(30)]
        content = b"\n".join(orjson.dumps(line) for line in lines)
        await an_uploaded_file(connection, tmp_path / "files", content)
        changes = {"start": "champion", "replay_share": 0.25, "replay_file": "file-1"}
        with pytest.raises(NotFound, match="has no file 'file-2'"):
            wrong = {"training": changes | {"replay_file": "file-2"}}
            await models.change_policy(connection, PROJECT, MODEL, wrong, by="ada")
        with pytest.raises(NotFound, match="has no file 'file-2'"):
            policy = ModelPolicy.model_validate({"training": wrong["training"]})
            await models.create(
                connection, project=PROJECT, model="other", base_model="tiny", policy=policy, by="ada"
            )
        await models.change_policy(connection, PROJECT, MODEL, {"training": changes}, by="ada")
        with pytest.raises(Conflict, match="every run of 'support' repeats"):
            await uploads.delete(connection, PROJECT, "file-1", by="ada")
        champion = await _champion(connection, run, 1, tmp_path / "one")
    async with database.begin() as connection:
        for n in range(12):
            request = {"model": MODEL, "messages": [_said("user", f"{n:b} or {n}, which of them is it?")]}
            await a_rated_completion(
                connection,
                kind="demonstration",
                value=f"It is {n}.",
                rater=f"rater-{n % 4}",
                request=orjson.dumps(request).decode(),
                created_at=datetime.now(UTC) + timedelta(seconds=1),
            )
        plan = await make_plan(connection, PROJECT, MODEL)
        assert plan.recipe is not None and plan.recipe.start_from == champion.path
        assert f"Continues {champion.name} on what is new." in plan.choice.sentences
        learned = plan.counts["excluded"]["the champion has learned it"]
        continued = await queue(connection, plan, by="ada")
        rows = [row.columns for row in await datasets.rows(connection, continued.dataset_id, split="train")]
    own = [columns for columns in rows if "replay" not in columns]
    assert learned > len(own) > 0
    assert len(rows) == plan.counts["train"] == len(own) + plan.counts["replayed"]
    assert plan.counts["replayed"] == round(len(own) / 3)


def _said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}
