from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import audit, datasets, models, review
from feedback.database import Database
from feedback.errors import HoneError, IllegalMove, NotFound
from retrain.plan import file_for_review, freeze, make_plan
from retrain.selection import select_statements
from tests.builders import PROJECT
from tests.interleaved import meanwhile
from tests.retrain.rated_builders import MODEL, Said, record, select, statements, taught, voted
from tests.retrain.test_data import freeze_now, people, policy
from tests.serving.running import running_gateway

LAMP, OLD = "How long may I return a lamp?", "You may return it within 30 days."
NEW = "You may return it within 90 days, says Mr Smith."
SUPPORTING = policy(defences={"new_facts": "support"})


async def plan_of(connection: AsyncConnection, said: list[Said]) -> None:
    await record(connection, said, SUPPORTING)
    await file_for_review(connection, await make_plan(connection, PROJECT, MODEL))


async def test_a_correction_with_new_facts_waits_and_enters_once_approved(database: Database) -> None:
    waiting = taught(LAMP, NEW, wrong=OLD, rater="ann")
    async with database.begin() as connection:
        await plan_of(connection, [waiting, *people()])
        (found,) = [
            one
            for one in await review.in_project(connection, PROJECT)
            if one.completion_id == waiting.completion_id
        ]
        assert (found.kind, found.feedback_id, found.status) == ("correction", waiting.feedback_id, "waiting")
        assert waiting.feedback_id not in {
            row.feedback_id for row in await statements(connection, "demonstration")
        }
        await review.approve(connection, PROJECT, found.review_id, by="ada")
        await make_plan(connection, PROJECT, MODEL)
        assert waiting.feedback_id in {
            row.feedback_id for row in await statements(connection, "demonstration")
        }


async def test_what_two_people_state_on_one_topic_needs_no_reviewer(database: Database) -> None:
    said = [
        taught(f"{LAMP} {n}", NEW + f" {word}", wrong=OLD, rater=word)
        for n, word in enumerate(("red", "blue"))
    ]
    async with database.begin() as connection:
        await select(connection, said, SUPPORTING.training)
        assert len(await statements(connection, "demonstration")) == 2
        await record(connection, [taught("Else?", "It is 77.", wrong=OLD, rater="white")])
        found = await select_statements(connection, await models.get(connection, PROJECT, MODEL))
    assert found.available.waiting == 1


async def test_what_waits_is_put_before_a_reviewer_once(database: Database) -> None:
    async with database.begin() as connection:
        await plan_of(connection, [taught(LAMP, NEW, wrong=OLD), *people()])
        first = await review.in_project(connection, PROJECT)
        assert await file_for_review(connection, await make_plan(connection, PROJECT, MODEL)) == 0
        assert await review.in_project(connection, PROJECT) == first


async def test_a_freeze_puts_what_waits_before_a_reviewer(database: Database) -> None:
    async with database.begin() as connection:
        await record(connection, [taught(LAMP, NEW, wrong=OLD), *people()], SUPPORTING)
        await freeze(connection, await make_plan(connection, PROJECT, MODEL))
        (shown,) = [one for one in await review.with_texts(connection, PROJECT) if one["question"] == LAMP]
    assert (shown["before"], shown["after"]) == (OLD, NEW)


async def test_an_excluded_row_stays_out_until_it_is_included_again(database: Database) -> None:
    doubtful = voted("What is best?", "The lamp is best.", True, rater="r1")
    async with database.begin() as connection:
        await record(connection, [doubtful, *people()], policy())
        for decide, inside in ((review.exclude, False), (review.include, True)):
            await decide(connection, PROJECT, doubtful.completion_id, by="ada")
            _, rows = await freeze_now(connection)
            assert (doubtful.completion_id in {c for row in rows for c in row.completion_ids}) is inside
        await review.exclude(connection, PROJECT, doubtful.completion_id, by="ada")
        dataset, _ = await freeze_now(connection)
        left_out = await datasets.exclusions(connection, dataset.dataset_id, reason="a reviewer left it out")
    assert [one.feedback_id for one in left_out] == [doubtful.feedback_id]


async def test_a_corrected_answer_is_trained_on_in_place_of_what_was_said(database: Database) -> None:
    wrong = taught("What is best?", "Our rival is best.", wrong="Nothing is.", rater="rater-3")
    async with database.begin() as connection:
        await record(connection, [wrong, *people()], policy())
        await review.correct(connection, PROJECT, wrong.completion_id, answer="The lamp is best.", by="ada")
        await make_plan(connection, PROJECT, MODEL)
        (kept,) = [
            s for s in await statements(connection, "demonstration") if s.completion_id == wrong.completion_id
        ]
        _, rows = await freeze_now(connection)
    answers = [row.columns["completion"][0]["content"] for row in rows if row.columns["completion"]]
    assert kept.feedback_id is None and kept.rater == "rater-3"
    assert "The lamp is best." in answers and "Our rival is best." not in answers


async def test_a_proposal_is_trained_on_only_once_it_is_approved(database: Database) -> None:
    disliked = voted("What is best?", "Nothing is.", False, rater="rater-3")
    async with database.begin() as connection:
        await record(connection, [disliked, *people()], policy())
        first, second = [
            await review.propose(
                connection,
                project=PROJECT,
                completion_id=disliked.completion_id,
                answer=text,
                reason="distilled",
                by="t",
            )
            for text in ("The tent is best.", "The lamp is best.")
        ]
        await make_plan(connection, PROJECT, MODEL)
        before = await statements(connection, "demonstration")
        await review.approve(connection, PROJECT, second.review_id, by="ada")
        await make_plan(connection, PROJECT, MODEL)
        after = await statements(connection, "demonstration")
        late = await review.propose(
            connection,
            project=PROJECT,
            completion_id=disliked.completion_id,
            answer="No.",
            reason="again",
            by="t",
        )
    assert first.review_id == second.review_id
    assert disliked.completion_id not in {row.completion_id for row in before}
    assert disliked.completion_id in {row.completion_id for row in after}
    assert (late.status, late.answer) == ("included", "The lamp is best.")


async def test_every_decision_is_audited_without_text_and_the_chain_holds(database: Database) -> None:
    one = voted(LAMP, OLD, True)
    async with database.begin() as connection:
        await record(connection, [one])
        await review.exclude(connection, PROJECT, one.completion_id, by="ada")
        await review.correct(connection, PROJECT, one.completion_id, answer="Ninety days.", by="bob")
        entries = await audit.entries(connection, PROJECT, subject=one.completion_id)
        assert await audit.verify(connection) is None
    assert [(entry.actor, entry.action) for entry in entries] == [
        ("bob", "review_corrected"),
        ("ada", "review_excluded"),
    ]
    assert "Ninety" not in str(entries) and OLD not in str(entries)


async def test_what_is_excluded_at_the_same_moment_is_not_approved(database: Database) -> None:
    async with database.begin() as connection:
        await plan_of(connection, [taught(LAMP, NEW, wrong=OLD, rater="ann"), *people()])
        found = (await review.in_project(connection, PROJECT))[0].review_id
    async with database.begin() as connection:
        await review.exclude(connection, PROJECT, found, by="ada")
        bob = await meanwhile(database, lambda other: review.approve(other, PROJECT, found, by="bob"))
    with pytest.raises(IllegalMove, match="is 'excluded' since ada decided"):
        await bob


async def test_mistakes_of_a_reviewer_are_told(database: Database) -> None:
    one = voted(LAMP, OLD, True)
    async with database.begin() as connection:
        await record(connection, [one])
        with pytest.raises(NotFound, match="no completion 'chatcmpl-none'"):
            await review.include(connection, PROJECT, "chatcmpl-none", by="ada")
        with pytest.raises(NotFound, match="no review 'rev-none'"):
            await review.approve(connection, PROJECT, "rev-none", by="ada")
        with pytest.raises(HoneError, match="expected 1 to"):
            await review.correct(connection, PROJECT, one.completion_id, answer="  ", by="ada")
        done = await review.exclude(connection, PROJECT, one.completion_id, by="ada")
        with pytest.raises(IllegalMove, match="is 'excluded' since ada decided"):
            await review.approve(connection, PROJECT, done.review_id, by="ada")
        with pytest.raises(HoneError, match="Status is 'nonsense'"):
            review.checked_status("nonsense")


async def test_reviews_of_an_erased_person_are_forgotten(database: Database) -> None:
    one = voted(LAMP, OLD, True)
    async with database.begin() as connection:
        await record(connection, [one])
        await review.correct(connection, PROJECT, one.completion_id, answer="Ninety days.", by="ada")
        assert await review.forget(connection, [one.completion_id]) == 1
        assert await review.in_project(connection, PROJECT, status=None) == []


async def test_operators_review_over_http_and_applications_do_not(
    database: Database, database_url: str, state_dir: Path
) -> None:
    from feedback import keys

    waiting, other = taught(LAMP, NEW, wrong=OLD), voted("What else?", "No.", True, rater="b")
    async with database.begin() as connection:
        await record(connection, [waiting, other, *people()], SUPPORTING)
        dataset = await freeze(connection, await make_plan(connection, PROJECT, MODEL))
        _, app_key = await keys.create(connection, role="app", name="app", by="test", project=PROJECT)
    async with running_gateway(database, database_url, state_dir) as gateway:
        client = gateway.client
        listed = (await client.get("/admin/v1/review", params={"model": MODEL})).json()["data"]
        mine = next(one for one in listed if one["completion_id"] == waiting.completion_id)
        assert mine["question"] == LAMP
        approved = await client.post(
            f"/admin/v1/review/{mine['review_id']}/approve", json={"reason": "checked"}
        )
        assert (approved.status_code, approved.json()["status"]) == (200, "included")
        excluded = await client.post(f"/admin/v1/review/{other.completion_id}/exclude", json={})
        assert excluded.json()["status"] == "excluded"
        proposed = await client.post(
            "/admin/v1/review", json={"completion_id": other.completion_id, "answer": "Yes, much else."}
        )
        assert (proposed.status_code, proposed.json()["kind"]) == (201, "proposal")
        shown = (await client.get(f"/admin/v1/datasets/{dataset.dataset_id}")).json()
        assert shown["balance"]["splits"]["train"]["up"] > 0
        left_out = (await client.get(f"/admin/v1/datasets/{dataset.dataset_id}/exclusions")).json()["data"]
        assert len(left_out) == sum(shown["counts"]["excluded"].values())
        golden = await client.post(
            f"/admin/v1/models/{MODEL}/golden", json={"prompt": "Who?", "answer": "Me."}
        )
        assert golden.status_code == 201
        removed = await client.delete(f"/admin/v1/golden/{golden.json()['golden_id']}")
        assert removed.json()["deleted"] is True
        refused = await client.get("/admin/v1/review", headers={"authorization": f"Bearer {app_key}"})
        assert refused.status_code == 403
