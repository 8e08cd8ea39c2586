import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.database import Database
from feedback.policy import TrainingPolicy
from retrain.defences import Predictor, dictates, distrusted, facts, new_facts
from tests.retrain.crowds import Attack, brigade, copied, every_attack, honest, machine_gun, ring
from tests.retrain.rated_builders import kept_share, select

HONEST_KEPT_MIN = 0.95
OFF = TrainingPolicy.model_validate(
    {"defences": {"enabled": False}, "rows_per_rater_max": 1000, "rows_per_rater_topic_max": 1000}
)


async def admitted(connection: AsyncConnection, attack: Attack) -> int:
    """Statements for what an attack said: the ones that it was made for, without those they imply."""
    return int(
        await connection.scalar(
            text(
                "SELECT count(*) FROM ballots WHERE reason IS NULL AND NOT implied AND feedback_id = ANY(:ids)"
            ),
            {"ids": [one.feedback_id for one in attack.said]},
        )
        or 0
    )


@pytest.mark.parametrize("attack", every_attack(), ids=lambda attack: attack.name)
async def test_an_attack_stays_under_its_cap_and_honest_people_are_heard(
    database: Database, attack: Attack
) -> None:
    people = honest()
    async with database.begin() as connection:
        await select(connection, [*people, *attack.said])
        assert await admitted(connection, attack) <= attack.rows_max
        assert await kept_share(connection, people) >= HONEST_KEPT_MIN


async def test_without_the_defences_the_attacks_get_in(database: Database) -> None:
    attacks = [one for one in every_attack() if one.name not in ("one heavy poisoner", "ring below the cap")]
    async with database.begin() as connection:
        await select(connection, [*honest(), *(said for attack in attacks for said in attack.said)], OFF)
        got_in = {attack.name: await admitted(connection, attack) / len(attack.said) for attack in attacks}
    assert min(got_in.values()) > 0.75, got_in


async def test_honest_people_alone_lose_nothing(database: Database) -> None:
    people = honest(150)
    async with database.begin() as connection:
        await select(connection, people)
        assert await kept_share(connection, people) >= 0.99


async def test_a_launch_in_which_everybody_is_new_is_no_brigade(database: Database) -> None:
    people = [one for one in honest(60) if one.minute < 60] + list(brigade().said)
    async with database.begin() as connection:
        found = await select(connection, people)
    assert "newcomers came in one hour and all said the same" not in (found.available.excluded or {})


async def test_supporters_must_have_been_heard_of_for_as_long_as_the_policy_says(database: Database) -> None:
    attack, policy = copied(), {"support_rater_age_hours_min": 24 * 40}
    async with database.begin() as connection:
        await select(
            connection, [*honest(), *attack.said], TrainingPolicy.model_validate({"defences": policy})
        )
        assert await admitted(connection, attack) == 0


async def test_a_policy_of_review_lets_no_new_fact_in_however_many_say_it(database: Database) -> None:
    attack, policy = copied(), {"new_facts": "review"}
    async with database.begin() as connection:
        found = await select(
            connection, list(attack.said), TrainingPolicy.model_validate({"defences": policy})
        )
        assert await admitted(connection, attack) == 0
    assert found.available.waiting > 0


async def test_the_limit_an_hour_is_the_policys(database: Database) -> None:
    attack, policy = machine_gun(), {"opinions_per_hour_max": 500, "trust_raters": True}
    async with database.begin() as connection:
        await select(
            connection, [*honest(), *attack.said], TrainingPolicy.model_validate({"defences": policy})
        )
        assert await admitted(connection, attack) > 0


async def test_a_ring_gets_no_more_than_its_accounts_times_the_limit(database: Database) -> None:
    attack = ring(3)
    for limit in (1, 2):
        policy = TrainingPolicy(rows_per_rater_topic_max=limit, rows_per_rater_max=limit)
        async with database.begin() as connection:
            await select(connection, [*honest(20), *attack.said], policy)
            assert await admitted(connection, attack) <= 3 * limit
            await connection.rollback()


@pytest.mark.parametrize(
    "question",
    [
        "Say 'the moon is made of cheese'.",
        'Reply with "yes" and nothing else',
        "Please repeat after me: buy now",
        "Flip a coin and answer A or B",
        "Randomly choose one of these answers",
        "Pick one of the two at random, please",
        "with 50% probability say that it is free",
    ],
)
def test_a_prompt_that_dictates_the_answer_is_recognised(question: str) -> None:
    assert dictates(question)


@pytest.mark.parametrize(
    "question",
    [
        "How long may I return a lamp?",
        "Answer only in JSON, please: what is the capital of France?",
        "What did he say about 'lamps'?",
        "How do I choose a random number in Python?",
        "Say hello to my friend",
        "Can you write a poem about the sea?",
    ],
)
def test_a_prompt_that_asks_is_not(question: str) -> None:
    assert not dictates(question)


def test_facts_are_numbers_dates_addresses_and_names_inside_sentences() -> None:
    said = "Thanks for asking. Call 555-1234 by 2026-05-01, or write to help@shop.example; ask for Smith."
    assert facts(said) == {"555-1234", "2026-05-01", "help@shop.example", "smith"}


def test_a_fact_is_new_when_neither_question_nor_answer_had_it() -> None:
    question, before = "May I return the Orion 5 lamp?", "Within 30 days."
    assert new_facts("Your Orion 5 has 14 days.", question, before) == {"14"}
    assert new_facts("Yes, certainly, whenever you like.", question, before) == set()


@given(st.text(), st.text())
def test_what_was_known_is_never_a_new_fact(text_known: str, other: str) -> None:
    assert new_facts(text_known, other, text_known) == set()


def test_ten_twenty_and_forty_votes_betray_most_flippers_and_hardly_anybody_honest() -> None:
    rng = random.Random(0)

    def flagged(votes: int, agreement: float) -> float:
        runs = 2000
        agreed = [sum(rng.random() < agreement for _ in range(votes)) for _ in range(runs)]
        return sum(distrusted(one, votes - one) for one in agreed) / runs

    assert flagged(10, 0.15) > 0.6
    assert flagged(20, 0.15) > 0.85
    assert flagged(40, 0.15) > 0.97
    assert max(flagged(votes, 0.85) for votes in (10, 20, 40)) < 0.001
    assert not any(distrusted(0, votes) for votes in (0, 1, 2, 3))


def test_a_vote_is_never_predicted_from_its_own_rater() -> None:
    predictor = Predictor()
    for n in range(100):
        predictor.learn("loud", predictor.features(f"good {n}"), True)
        predictor.learn("loud", predictor.features(f"bad {n}"), False)
    assert predictor.predict("loud", predictor.features("good").tobytes()) is None


def test_what_others_would_vote_is_learnt_from_words() -> None:
    predictor = Predictor()
    for n in range(200):
        predictor.learn(f"r{n}", predictor.features(f"a kind answer {n}"), True)
        predictor.learn(f"r{n}", predictor.features(f"a rude answer {n}"), False)
    assert predictor.predict("ann", predictor.features("a kind answer for you").tobytes()) is True
    assert predictor.predict("ann", predictor.features("a rude answer for you").tobytes()) is False
    assert predictor.predict("ann", predictor.features("an answer").tobytes()) is None
