"""The page on which a version is decided, after a whole evaluation through a (fake) engine."""

from pathlib import Path
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import adapters, evaluations, evidence_page, runs
from feedback.database import Database
from feedback.evaluation_tables import evaluation_answers
from feedback.runs import Run
from feedback.tables import dataset_rows
from retrain.worker import Worker
from tests.builders import PROJECT, an_adapter
from tests.fakes import answer_evaluations, fake_engine
from tests.retrain.record import NEW, OLD, evaluating_run
from tests.retrain.test_worker import SETTINGS, has_ended, learned, make_ready, tick_until


async def evaluated(database: Database, state_dir: Path) -> Run:
    async with database.begin() as connection:
        run, adapter = await evaluating_run(connection)
    async with fake_engine(answer_evaluations(learned)) as engine:
        await make_ready(database, engine.url, adapter.adapter_id)
        worker = Worker(database, state_dir, SETTINGS.model_copy(update={"training_watts": 60.0}))
        async with database.begin() as connection:
            await runs.change(connection, run.run_id, progress={"seconds": 120.0, "loss": 0.5})
        ended = await tick_until(worker, has_ended, run.run_id)
        await worker.close()
    assert ended.status == "succeeded"
    return ended


async def test_the_page_says_what_changed_what_it_was_made_of_and_what_it_cost(
    database: Database, state_dir: Path
) -> None:
    run = await evaluated(database, state_dir)
    async with database.begin() as connection:
        assert run.adapter_id is not None
        page = await evidence_page.of_version(connection, await adapters.by_id(connection, run.adapter_id))
    assert page["decision"] == "candidate"
    assert page["flips"]["fixed"] > 0 and page["flips"]["broken"] == 0
    first = page["answers"][0]
    assert (first["champion_answer"], first["candidate_answer"], first["flip"]) == (OLD, NEW, "fixed")
    assert page["costs"]["energy_watt_hours"] == 60.0 * 120 / 3600
    assert page["run"]["recipe_hash"] == run.recipe_hash
    assert any("held-out rows were compared" in one for one in page["known_weaknesses"])
    assert any("Nobody keeps a golden set" in one for one in page["known_weaknesses"])
    assert any("repeated no fixed set" in one for one in page["known_weaknesses"])
    text = evidence_page.to_markdown(page)
    assert "# support@1: candidate" in text
    assert "are no longer given, 0 are given now" in text
    assert "energy about 2.0 Wh" in text
    assert all(check["sentence"] in text for check in page["checks"])


async def test_the_page_tells_what_the_newest_reward_model_makes_of_the_version(
    database: Database, state_dir: Path
) -> None:
    run = await evaluated(database, state_dir)

    async def told(connection: AsyncConnection) -> tuple[Any, str]:
        assert run.adapter_id is not None
        page = await evidence_page.of_version(connection, await adapters.by_id(connection, run.adapter_id))
        return page["reward_model"], evidence_page.to_markdown(page)

    async with database.begin() as connection:
        report, text = await told(connection)
        assert report is None and "reward model" not in text
        for sentence in ("It prefers the champion.", "It prefers the candidate."):
            report = {"sentence": sentence, "dataset_id": "ds-1", "weights_hash": "0" * 64}
            await runs.add_event(connection, run.run_id, sentence, data={"reward_model": report})
        newest, text = await told(connection)
        assert newest == report
        assert "It prefers the candidate. The gate does not read this." in text
        assert "It prefers the champion." not in text


async def test_a_version_that_nobody_trained_here_has_a_page_that_says_what_is_unknown(
    database: Database,
) -> None:
    async with database.begin() as connection:
        adapter = await an_adapter(connection, state="trained")
        page = await evidence_page.of_version(connection, adapter)
    assert page["run"] is None and page["data"] is None and page["decision"] is None
    assert "not judged yet" in evidence_page.to_markdown(page)
    assert "licence not stated by its files" in evidence_page.to_markdown(page)


def test_the_licence_is_what_the_base_models_own_card_says(tmp_path: Path) -> None:
    assert evidence_page.licence_of(str(tmp_path)) is None
    (tmp_path / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# A model\n")
    assert evidence_page.licence_of(str(tmp_path)) == "apache-2.0"
    (tmp_path / "README.md").write_text("license: none of ours\n")
    assert evidence_page.licence_of(str(tmp_path)) is None


async def test_the_answers_go_with_the_row_they_belong_to(database: Database, state_dir: Path) -> None:
    run = await evaluated(database, state_dir)
    async with database.begin() as connection:
        before = await evaluations.of_run(connection, run.run_id)
        gone = before[0].row_number
        await connection.execute(
            delete(dataset_rows).where(
                dataset_rows.c.dataset_id == run.dataset_id, dataset_rows.c.row_number == gone
            )
        )
        left = (await connection.execute(select(evaluation_answers.c.row_number))).scalars().all()
        assert set(left) == {one.row_number for one in before} - {gone}


async def test_a_candidate_counts_as_tried_where_it_was_judged_on_the_same_rows(
    database: Database, state_dir: Path
) -> None:
    run = await evaluated(database, state_dir)
    async with database.begin() as connection:
        assert await evaluations.candidates_tried(connection, run.dataset_id) == 1
        assert await evaluations.candidates_tried(connection, "ds-another") == 0
        assert run.adapter_id is not None
        judged = await adapters.by_id(connection, run.adapter_id)
        assert judged.gate is not None and judged.gate["evidence"]["candidates_tried"] == 1
        assert judged.project == PROJECT
