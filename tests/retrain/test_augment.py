"""Augmentation by a package that is really installed: found by its entry point, called in a process of its own."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from feedback import adapters, datasets, models, runs
from feedback.database import Database
from feedback.datasets import Dataset, Row
from feedback.runs import Run
from retrain.plan import make_plan, queue
from tests.builders import PROJECT
from tests.retrain.record import MODEL, small_policy, teach

SHOUTING = """
def hook(rows, *, method, model, seed):
    print("this is not a row")
    for position, row in enumerate(rows):
        answer = [{"role": "assistant", "content": row["completion"][0]["content"].upper()}]
        yield {"prompt": row["prompt"], "completion": answer, "from": position}
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    def install(code: str) -> None:
        (tmp_path / "acme_augment.py").write_text(code)
        about = tmp_path / "acme_augment-1.2.dist-info"
        about.mkdir()
        (about / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-augment\nVersion: 1.2\n")
        (about / "entry_points.txt").write_text("[hone.augment]\nacme = acme_augment:hook\n")
        monkeypatch.syspath_prepend(str(tmp_path))
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    return install


async def queued(database: Database, **training: Any) -> tuple[Run, Dataset, list[Row]]:
    async with database.begin() as connection:
        await teach(connection, "tiny", policy=small_policy(augment="acme", **training))
        run = await queue(connection, await make_plan(connection, PROJECT, MODEL), by="test")
        dataset = await datasets.get(connection, run.dataset_id)
        return run, dataset, await datasets.rows(connection, run.dataset_id)


def made(rows: list[Row]) -> list[Row]:
    return [row for row in rows if "origin" in row.columns]


async def test_made_rows_are_marked_traced_and_never_evaluated_with(database: Database, package: Any) -> None:
    package(SHOUTING)
    run, dataset, rows = await queued(database)
    assert run.status == "queued"
    found = made(rows)
    assert found and {row.split for row in found} == {"train"}
    assert {row.columns["origin"] for row in found} == {"augment:acme (acme-augment 1.2)"}
    given = {row.columns["prompt"][0]["content"]: row for row in rows if "origin" not in row.columns}
    for row in found:
        source = given[row.columns["prompt"][0]["content"]]
        assert (row.rater, row.completion_ids, row.feedback_ids) == (
            source.rater,
            source.completion_ids,
            source.feedback_ids,
        )
        assert row.columns["completion"][0]["content"].isupper()
    assert dataset.counts["augmented"]["added"] == len(found)
    assert dataset.counts["train"] == sum(row.split == "train" for row in rows)


async def test_made_rows_count_under_the_limits_and_what_is_over_them_is_counted(
    database: Database, package: Any
) -> None:
    package(SHOUTING)
    _, dataset, rows = await queued(database, rows_per_rater_max=6)
    said = {row.row_hash for row in rows if row.split == "train" and "origin" not in row.columns}
    each = Counter(row.rater for row in {row.row_hash: row for row in rows if row.split == "train"}.values())
    assert max(each.values()) == 6
    assert dataset.counts["augmented"]["left_out"] == {
        "over the limit of rows of one rater": len(said) - len(made(rows))
    }


async def test_a_row_may_be_changed_and_one_near_an_evaluated_question_is_left_out(
    database: Database, package: Any
) -> None:
    async with database.begin() as connection:
        await teach(connection, "tiny")
        plan = await make_plan(connection, PROJECT, MODEL)
        run = await queue(connection, plan, by="test")
        held_out = await datasets.rows(connection, run.dataset_id, split="held_out")
        await runs.finish(connection, run.run_id, status="cancelled")
    stolen = held_out[0].columns["prompt"]
    package(f"""
def hook(rows, **about):
    answer = [{{"role": "assistant", "content": "Changed."}}]
    return [{{**rows[0], "completion": answer, "from": 0, "replace": True}},
            {{**rows[1], "prompt": {stolen!r}, "from": 1}}]
""")
    async with database.begin() as connection:
        await models.change_policy(connection, PROJECT, MODEL, {"training": {"augment": "acme"}}, by="test")
        run = await queue(connection, await make_plan(connection, PROJECT, MODEL), by="test")
        dataset = await datasets.get(connection, run.dataset_id)
        rows = await datasets.rows(connection, run.dataset_id, split="train")
    told = dataset.counts["augmented"]
    assert (told["added"], told["replaced"]) == (0, 1)
    assert told["left_out"] == {"asks nearly what is evaluated with": 1}
    assert {row.columns["completion"][0]["content"] for row in made(rows)} == {"Changed."}


@pytest.mark.parametrize(
    ("code", "training", "says"),
    [
        ("def hook(rows, **about):\n    raise RuntimeError('no GPU here')", {}, "no GPU here"),
        ("import os\ndef hook(rows, **about):\n    os._exit(3)", {}, "failed"),
        (
            "import time\ndef hook(rows, **about):\n    time.sleep(60)",
            {"augment_seconds_max": 1},
            "took longer",
        ),
        ("def hook(rows, **about):\n    return [{**rows[0]}]", {}, "whose 'from' is None"),
        (
            "def hook(rows, **about):\n    return [{**rows[0], 'completion': '', 'from': 0}]",
            {},
            "whose 'completion' is not",
        ),
        ("def hook(rows, **about):\n    return [{**rows[0], 'label': True, 'from': 0}]", {}, "whose 'label'"),
        (None, {}, "no package installed beside the worker"),
    ],
)
async def test_a_hook_that_fails_fails_the_run_in_words_and_touches_no_champion(
    code: str | None, training: dict[str, Any], says: str, database: Database, package: Any
) -> None:
    if code is not None:
        package(code)
    run, dataset, rows = await queued(database, **training)
    assert (run.status, run.phase) == ("failed", "done")
    assert run.error is not None and says in run.error and "take" in run.error
    assert not made(rows) and "augmented" not in dataset.counts
    async with database.begin() as connection:
        assert (await adapters.champion(connection, PROJECT, MODEL)).version == 0
        assert await runs.unfinished(connection) == []
