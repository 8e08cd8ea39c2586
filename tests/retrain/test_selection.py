from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.database import Database
from feedback.metrics import FeedbackPolicy, Metric
from feedback.policy import TrainingPolicy
from retrain.prompts import group_similar, prompt_key, spoken_text
from tests.retrain.rated_builders import Said, also, select, statements, taught, voted

LAMP = "How long may I return a lamp?"
OLD, NEW = "You may return it within 30 days.", "You may return it within 14 days."
OPEN = TrainingPolicy.model_validate({"defences": {"new_facts": "allow"}})


async def sources(connection: AsyncConnection) -> list[str]:
    return sorted(row.source for row in await statements(connection))


async def test_votes_on_the_same_answer_are_counted_by_rater_and_the_majority_decides(
    database: Database,
) -> None:
    said = [voted(LAMP, OLD, up, rater=rater) for rater, up in [("a", True), ("b", True), ("c", False)]]
    async with database.begin() as connection:
        found = (await select(connection, said)).available
        assert await sources(connection) == ["approved"]
    assert found.excluded == {
        "same answer to the same question, counted once": 1,
        "outvoted on the same answer": 1,
    }


async def test_a_tie_of_raters_is_left_out(database: Database) -> None:
    async with database.begin() as connection:
        found = await select(
            connection, [voted(LAMP, OLD, True, rater="a"), voted(LAMP, OLD, False, rater="b")]
        )
        assert await sources(connection) == []
    assert found.available.excluded == {"raters disagree": 2}


async def test_the_newest_word_of_a_rater_counts(database: Database) -> None:
    said = [voted(LAMP, OLD, True, rater="a"), voted(LAMP, OLD, False, rater="a", minute=5)]
    async with database.begin() as connection:
        await select(connection, said)
        assert await sources(connection) == ["disliked"]


async def test_a_correction_is_for_its_answer_and_against_the_one_it_replaces(database: Database) -> None:
    async with database.begin() as connection:
        found = await select(connection, [taught(LAMP, NEW, wrong=OLD)], OPEN)
        assert await sources(connection) == ["demonstration", "disliked"]
    assert (found.available.demonstrations, found.available.disliked, found.available.pairs) == (1, 1, 1)


async def test_a_correction_that_repeats_the_answer_approves_it(database: Database) -> None:
    async with database.begin() as connection:
        await select(connection, [taught(LAMP, OLD.upper(), wrong=OLD)])
        assert await sources(connection) == ["approved"]


async def test_a_rewritten_answer_is_taught_but_makes_no_pair(database: Database) -> None:
    async with database.begin() as connection:
        found = await select(connection, [taught(LAMP, "Something else altogether.", wrong=OLD)], OPEN)
    assert (found.available.demonstrations, found.available.pairs) == (1, 0)


async def test_a_demonstration_supersedes_older_ones_and_answers_approved_before(database: Database) -> None:
    said = [
        taught(LAMP, "Twenty days, if unused.", wrong=OLD, minute=1),
        voted(LAMP, "Yes you may, of course.", True, rater="bob", minute=2),
        taught(LAMP, "Two weeks, if unused.", wrong=OLD, rater="cid", minute=3),
        voted(LAMP, "Two weeks it is, thank you.", True, rater="dan", minute=4),
    ]
    async with database.begin() as connection:
        found = await select(connection, said, OPEN)
        kept = await statements(connection, "demonstration", "approved")
    assert sorted(row.rater for row in kept) == ["cid", "dan"]
    assert found.available.excluded is not None
    assert found.available.excluded["superseded by a demonstration"] == 2


async def test_an_answer_corrected_somewhere_is_not_approved_for_the_times_before(database: Database) -> None:
    said = [
        voted("Another question?", OLD, True, rater="bob", minute=1),
        taught(LAMP, NEW, wrong=OLD, minute=2),
        voted("A third question?", OLD, True, rater="cid", minute=3),
    ]
    async with database.begin() as connection:
        await select(connection, said, OPEN)
        assert [row.rater for row in await statements(connection, "approved")] == ["cid"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"consent": False}, "completion has no consent to training"),
        ({"status": "aborted"}, "completion did not end well"),
        ({"endpoint": "/v1/embeddings"}, "completion came through /v1/embeddings"),
        ({"finish_reason": "length"}, "approved answer was cut off"),
        (
            {"request": {"messages": [{"role": "user", "content": "q"}], "tools": [{}]}},
            "completion uses tools",
        ),
        (
            {"request": {"messages": [{"role": "user", "content": [{"type": "image"}]}]}},
            "completion is not only text",
        ),
    ],
)
async def test_what_cannot_be_trained_on_is_left_out_with_its_reason(
    database: Database, changes: dict[str, Any], reason: str
) -> None:
    async with database.begin() as connection:
        found = await select(connection, [voted(LAMP, OLD, True, **changes)])
        assert await statements(connection) == []
    assert found.available.excluded == {reason: 1}


async def test_nothing_without_consent_is_selected_even_when_a_reviewer_let_it_in(database: Database) -> None:
    from feedback import review
    from tests.builders import PROJECT
    from tests.retrain.rated_builders import record

    unwilling = voted(LAMP, OLD, True, consent=False)
    async with database.begin() as connection:
        await record(connection, [unwilling])
        await review.include(connection, PROJECT, unwilling.completion_id, by="ada")
        await review.correct(connection, PROJECT, unwilling.completion_id, answer=NEW, by="ada")
        await select(connection, [voted("Else?", OLD, True)])
        assert [row.rater for row in await statements(connection) if row.prompt_key is None] == []
        assert len(await statements(connection)) == 1


async def test_only_metrics_that_the_policy_counts_are_votes(database: Database) -> None:
    stars = FeedbackPolicy(metrics={"stars": Metric(type="number", minimum=1, maximum=5)}, votes=("stars",))
    said = [
        voted("Question one?", "Answer.", 5, rater="a"),
        voted("Question two?", "Answer two.", 1, rater="b"),
        voted("Question three?", "Answer three.", 3, rater="c"),
    ]
    said = [Said(**{**vars(one), "name": "stars"}) for one in said] + [voted(LAMP, OLD, True, rater="d")]
    async with database.begin() as connection:
        found = await select(connection, said, feedback=stars)
        assert await sources(connection) == ["approved", "disliked"]
    assert found.available.excluded == {
        "rating is neither up nor down": 1,
        "rating is of a metric that does not count as a vote": 1,
    }


async def test_nobody_contributes_more_than_the_limits(database: Database) -> None:
    words = [
        "lamp",
        "tent",
        "kettle",
        "scooter",
        "blender",
        "camera",
        "backpack",
        "toaster",
        "chair",
        "table",
    ]
    loud = [
        voted(
            f"Is the {word} of {n} any good at all?",
            f"The {word} is fine for {n}.",
            True,
            rater="loud",
            minute=n,
        )
        for n, word in enumerate(words * 3)
    ]
    quiet = [voted("When do you open?", "At nine.", True, rater="ann")]
    per_rater = TrainingPolicy(rows_per_rater_max=7, rows_per_rater_topic_max=99)
    async with database.begin() as connection:
        found = await select(connection, loud + quiet, per_rater)
        kept = await statements(connection)
    assert found.available.excluded == {"over the limit of rows of one rater": 23}
    newest = {one.feedback_id for one in loud[-7:]}
    assert {row.feedback_id for row in kept if row.rater == "loud"} == newest
    assert found.available.largest == 7


async def test_a_rater_has_fewer_rows_on_one_topic_than_in_all(database: Database) -> None:
    said = [
        voted(f"{subject} {n}?", f"Answer {subject} {n}.", True, rater="loud" if n < 12 else f"r{n}")
        for n in range(60)
        for subject in ("May I return the lamp with number", "Do you ship a parcel to the moon or island")
    ]
    async with database.begin() as connection:
        await select(connection, said, TrainingPolicy(rows_per_rater_topic_max=3))
        loud = [row.topic for row in await statements(connection) if row.rater == "loud"]
    assert len(set(loud)) > 1
    assert max(loud.count(topic) for topic in loud) <= 3


async def test_a_preference_makes_a_pair_of_two_answers_to_one_question(database: Database) -> None:
    better = voted(LAMP, "Yes, within 14 days.", True, rater="bob")
    worse = Said(LAMP, "No.", "preference", better.completion_id)
    async with database.begin() as connection:
        await select(connection, [better, worse])
        (pair,) = await statements(connection, "preferred")
    assert (pair.completion_id, pair.other_id) == (worse.completion_id, better.completion_id)


async def test_a_preference_between_answers_to_different_questions_is_no_pair(database: Database) -> None:
    other = voted("Something else?", "No.", True)
    async with database.begin() as connection:
        found = await select(connection, [other, Said(kind="preference", value=other.completion_id)])
        assert await statements(connection, "preferred") == []
    assert found.available.excluded == {"preference between answers to different questions": 1}


async def test_a_preference_for_a_completion_that_is_not_there_is_no_pair(database: Database) -> None:
    async with database.begin() as connection:
        found = await select(connection, [Said(kind="preference", value="chatcmpl-nowhere")])
    assert found.available.excluded == {"preference for a completion that is not there or not usable": 1}


async def test_a_dataset_keeps_conversations_or_texts_whichever_are_more(database: Database) -> None:
    told = voted(LAMP, OLD, True, endpoint="/v1/completions", request={"prompt": "Once upon a time"})
    async with database.begin() as connection:
        found = await select(
            connection, [told, voted("Who?", "Me.", True, rater="b"), voted("Why?", "So.", True)]
        )
        assert len(await statements(connection)) == 2
    assert found.available.excluded == {"other kind of prompt than most": 1}


async def test_a_nearly_equal_question_with_the_same_answer_is_kept_once(database: Database) -> None:
    long = "could you please tell me how long i may still return the reading lamp that i bought here"
    said = [voted(long, OLD, True, rater="a"), voted(long + "?", OLD, True, rater="b", minute=1)]
    said += [voted(long + "!", "No longer than a week.", True, rater="c")]
    async with database.begin() as connection:
        found = await select(connection, said)
        assert sorted(row.rater for row in await statements(connection)) == ["b", "c"]
    assert found.available.excluded == {"near-duplicate of a question with the same answer": 1}


async def test_two_people_on_one_completion_are_two_voices(database: Database) -> None:
    first = voted(LAMP, OLD, False, rater="a")
    async with database.begin() as connection:
        await select(connection, [first, also(first, False, rater="b"), also(first, True, rater="c")])
        assert await sources(connection) == ["disliked"]
        merged = await connection.scalar(
            text("SELECT count(*) FROM ballots WHERE statement IS NOT NULL"),
        )
    assert merged == 2


def test_questions_that_differ_only_in_case_and_spaces_are_one() -> None:
    one = [{"role": "user", "content": "How  long?"}]
    other = [{"role": "user", "content": "how long? "}]
    assert prompt_key(one) == prompt_key(other)


def test_near_duplicates_form_one_group_in_any_order() -> None:
    long = "could you please tell me how long i may still return the reading lamp that i bought here"
    texts = [long, long + "?", "what does shipping cost"]
    groups = group_similar(texts)
    assert groups == group_similar(texts[::-1])
    assert groups[long] == groups[long + "?"] != groups["what does shipping cost"]


def test_a_long_instruction_before_every_question_makes_no_two_alike() -> None:
    instruction = {"role": "system", "content": "You are a helpful assistant of a shop. " * 30}
    prompts = [
        [instruction, {"role": "user", "content": question}] for question in ("Who are you?", "When is noon?")
    ]
    texts = [spoken_text(prompt) for prompt in prompts]
    assert len(set(group_similar(texts).values())) == 2
    assert all("shop" not in one for one in texts)


async def test_selecting_twice_in_one_transaction_starts_over(database: Database) -> None:
    async with database.begin() as connection:
        first = await select(connection, [voted(LAMP, OLD, True)])
        again = await select(
            connection, [voted("Else?", OLD, True, minute=timedelta(days=1) / timedelta(minutes=1))]
        )
    assert (first.available.approved, again.available.approved) == (1, 2)
