"""A candidate without traffic answers real questions in the shadow: nobody sees it, nothing counts it, numbers stay."""

from typing import Any

import pytest
from sqlalchemy import text

from feedback import adapters, engines, experiments, exposures, shadow_answers
from feedback.completions import insert_many
from feedback.database import Database
from feedback.policy import ModelPolicy
from feedback.shadow_answers import Pair
from monitoring.shadow import summarise
from retrain import shadow
from retrain.settings import RetrainSettings
from tests.builders import a_completion, a_model, an_adapter
from tests.fakes import FakeEngine, answer_well, fake_engine, refuse

SETTINGS = RetrainSettings()


async def a_candidate(
    database: Database, engine: FakeEngine, share: float = 1.0, state: str = "approved"
) -> str:
    policy = ModelPolicy.model_validate({"rollout": {"shadow_share": share}})
    async with database.begin() as connection:
        await a_model(connection, policy=policy)
        candidate = await an_adapter(connection, state=state)
        await engines.report(connection, engine.url, base_model="tiny", healthy=True)
        await engines.report_adapter(connection, engine.url, candidate.adapter_id, state="ready")
    return candidate.adapter_id


async def questions(database: Database, count: int, **changes: Any) -> None:
    async with database.begin() as connection:
        await insert_many(connection, [a_completion(unit=f"r{n}", **changes) for n in range(count)])


async def pairs(database: Database, adapter_id: str) -> list[Pair]:
    async with database.begin() as connection:
        return await shadow_answers.pairs(connection, adapter_id)


async def test_a_candidate_is_asked_each_question_once_and_its_answers_are_numbers(
    database: Database,
) -> None:
    async with fake_engine(answer_well(("Sorry,", " I cannot", " say."))) as engine:
        candidate = await a_candidate(database, engine)
        await questions(database, 5)
        assert await shadow.tick(database, SETTINGS) == ["support@1 was asked 5 questions in the shadow."]
        assert await shadow.tick(database, SETTINGS) == []
        assert {asked.body["model"] for asked in engine.asked} == {candidate}
        assert all("stream" not in asked.body for asked in engine.asked)
    found = await pairs(database, candidate)
    assert [(pair.error_class, pair.refused, pair.same_text) for pair in found] == [
        (None, (False, True), False)
    ] * 5
    async with database.begin() as connection:
        kept = (await connection.execute(text("SELECT * FROM shadow_answers"))).mappings().all()
    assert not any("cannot" in str(value) for row in kept for value in row.values())


async def test_the_same_words_are_noticed(database: Database) -> None:
    async with fake_engine() as engine:
        candidate = await a_candidate(database, engine)
        await questions(database, 1, output_text="Within 30 days.")
        await shadow.tick(database, SETTINGS)
    assert [pair.same_text for pair in await pairs(database, candidate)] == [True]


@pytest.mark.parametrize(
    ("status", "says", "whose"),
    [
        (500, "list index out of range", "model"),
        (400, "Out of range float values are not JSON compliant: nan", "model"),
        (400, "This model's maximum context length is 512 tokens.", "caller"),
    ],
)
async def test_a_failure_is_counted_by_whose_it_is_and_stops_nothing(
    database: Database, status: int, says: str, whose: str
) -> None:
    async with fake_engine(refuse(status, says)) as engine:
        candidate = await a_candidate(database, engine)
        await questions(database, 2)
        await shadow.tick(database, SETTINGS)
    assert [pair.error_class for pair in await pairs(database, candidate)] == [whose, whose]


@pytest.mark.parametrize("status", [401, 404, 503])
async def test_an_engine_that_is_away_takes_one_question_at_a_look_and_nothing_from_the_candidate(
    database: Database, status: int
) -> None:
    async with fake_engine(refuse(status)) as engine:
        candidate = await a_candidate(database, engine)
        await questions(database, 3)
        await shadow.tick(database, SETTINGS)
        assert len(engine.asked) == 1
    assert await shadow.tick(database, SETTINGS) == ["support@1 was asked 1 questions in the shadow."]
    summary = summarise(await pairs(database, candidate), name="support@1")
    assert (summary.questions, summary.failed, summary.not_told) == (0, 0, 2)
    assert "2 more failed without saying anything of it." in summary.sentence


async def test_only_the_share_of_the_policy_is_asked(database: Database) -> None:
    async with fake_engine() as engine:
        await a_candidate(database, engine, share=0.2)
        await questions(database, 100)
        await shadow.tick(database, SETTINGS)
        assert 5 <= len(engine.asked) <= 30


async def test_without_a_share_or_a_candidate_nothing_is_asked(database: Database) -> None:
    async with fake_engine() as engine:
        await a_candidate(database, engine, share=0.0)
        await questions(database, 3)
        assert await shadow.tick(database, SETTINGS) == []
        async with database.begin() as connection:
            await connection.execute(text("UPDATE adapters SET aborted_at = now() WHERE version = 1"))
            await connection.execute(
                text("UPDATE models SET policy = jsonb_set(policy, '{rollout,shadow_share}', '1')")
            )
        assert await shadow.tick(database, SETTINGS) == []
        assert engine.asked == []


async def test_no_verdict_counts_what_the_shadow_answered(database: Database) -> None:
    async with fake_engine() as engine:
        candidate = await a_candidate(database, engine)
        await questions(database, 3)
        await shadow.tick(database, SETTINGS)
        async with database.begin() as connection:
            version = await adapters.by_id(connection, candidate)
            split = await experiments.start_canary(connection, version, by="ada")
            assert await exposures.unit_counts(connection, split, maturation_seconds=0) == []


def test_a_summary_says_what_happened_with_an_interval_for_the_length() -> None:
    found = [
        Pair(f"r{n}", None, n % 4 == 0, (False, n == 0), (10, 20 + n % 3), (1.0, 1.1)) for n in range(60)
    ]
    summary = summarise(found, name="support@3")
    assert summary.length_ratio is not None
    low, middle, high = summary.length_ratio
    assert low < 2.1 < high and 2.0 < middle < 2.2
    assert summary.sentence.startswith(
        "support@3 answered 60 questions in the shadow: 0 failed, 15 came out word for word the same, 1 were refused "
        "where the service refused 0; length 2.10 times the service's ("
    )


def test_few_raters_give_no_interval_and_none_a_plain_sentence() -> None:
    assert summarise([], name="support@3").sentence == "support@3 was asked nothing in the shadow yet."
    few = [Pair("r", None, False, (False, False), (10, 20), (1.0, 1.0))] * 50
    assert summarise(few, name="support@3").length_ratio is None
