"""Select what may be trained on: submissions become ballots, rules decide between them, what is left is counted.

Writes nothing that outlives the transaction.
Two passes over the record with server-side cursors; texts are looked at in batches and forgotten. What stays in memory
is a sketch of each question (retrain.similar), the topics, and a table of word counts.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import golden
from feedback.models import Model
from retrain import rules
from retrain.ballots import COLUMNS, Ballot, Cast, cast
from retrain.defences import Predictor, distrusted, key_of
from retrain.opinions import Opinion, opinions, questions_asked
from retrain.prompts import Prompt, normalised, prompt_text, spoken_text
from retrain.replay import fixed_set
from retrain.similar import Sketches
from retrain.topics import SAMPLE_MAX, Topics, find_topics

VOTES_JUDGED_MIN = 4
"""Fewer votes than this never make a rater distrusted."""


@dataclass(frozen=True, slots=True)
class Available:
    """What a method could be trained on: numbers of statements."""

    demonstrations: int = 0
    approved: int = 0
    disliked: int = 0
    pairs: int = 0
    raters: int = 0
    largest_share: float = 0.0
    """Of all rows, those of the rater who has most."""
    largest: int = 0
    waiting: int = 0
    """Corrections that wait for a reviewer."""
    newest: datetime | None = None
    excluded: dict[str, int] | None = None
    preferences: int = 0
    """Pairs that people chose between: no demonstration says the same."""

    @property
    def ratings(self) -> int:
        """Rows that KTO would have."""
        return self.demonstrations + self.approved + self.disliked


@dataclass(frozen=True, slots=True)
class Selected:
    """The outcome; the statements themselves are in the temporary table `ballots` until the transaction ends."""

    available: Available
    topics: tuple[str, ...]
    repeated: tuple[int, ...] = ()
    """Questions of the fixed set that runs repeat: what is nearly the same is no evidence."""
    golden_like: frozenset[int] = frozenset()
    """Keys of prompts of the fixed set that are nearly golden questions: no run may repeat them."""


async def select_statements(connection: AsyncConnection, model: Model) -> Selected:
    """Fill the temporary table and apply every rule."""
    # A server-side cursor that was read to its end stays open until it is closed, and holds its table.
    await connection.execute(text("CLOSE ALL"))
    await connection.execute(text("DROP TABLE IF EXISTS ballots"))
    await connection.execute(text(rules.CREATE))
    topics = await _topics(connection, model)
    kept = await golden.of_model(connection, model.project, model.model)
    sketches, predictor = Sketches(), Predictor()
    golden_keys = _sketched(sketches, [item.prompt for item in kept])
    repeated = _sketched(sketches, [row.prompt for row in await fixed_set(connection, model)])
    await _load(connection, model, topics, sketches, predictor)
    groups = await asyncio.to_thread(sketches.groups)
    await _name_questions(connection, groups)
    policy = model.policy.training
    suspects: list[str] = []
    if policy.defences.enabled and not policy.defences.trust_raters:
        suspects = await _distrusted(connection, predictor)
    golden_questions = sorted({groups.get(key, key) for key in golden_keys})
    await connection.execute(text("ANALYZE ballots"))
    await rules.apply_rules(connection, policy, distrusted=suspects, golden=golden_questions)
    return Selected(
        await _available(connection),
        topics.names,
        repeated=tuple(sorted({groups.get(key, key) for key in repeated})),
        golden_like=frozenset(key for key in repeated if groups.get(key, key) in golden_questions),
    )


def _sketched(sketches: Sketches, prompts: Sequence[Prompt]) -> list[int]:
    """The keys of prompts that are sketched beside what people asked."""
    keys = [key_of(prompt_text(prompt)) for prompt in prompts]
    for key, prompt in zip(keys, prompts, strict=True):
        sketches.add(key, spoken_text(prompt))
    return keys


async def _topics(connection: AsyncConnection, model: Model) -> Topics:
    sample = []
    async for asked, rater in questions_asked(connection, model.project, model.model, SAMPLE_MAX):
        sample.append((normalised(asked), rater))
    return await asyncio.to_thread(find_topics, sample)


async def _load(
    connection: AsyncConnection, model: Model, topics: Topics, sketches: Sketches, predictor: Predictor
) -> None:
    number = 0
    async for batch in opinions(connection, model.project, model.model, model.policy.feedback.votes):
        ballots = await asyncio.to_thread(_read, batch, model, topics, sketches, predictor)
        rows = [(*_values(ballot), number + place) for place, ballot in enumerate(ballots)]
        number += len(rows)
        await copy_rows(connection, "ballots", (*COLUMNS, "number"), rows)


def _read(
    batch: Sequence[Opinion], model: Model, topics: Topics, sketches: Sketches, predictor: Predictor
) -> list[Ballot]:
    """The ballots of a batch; what is sketched and counted of their texts is."""
    guarded = model.policy.training.defences.enabled
    given: list[Cast] = [cast(one, guarded=guarded, votes=model.policy.feedback) for one in batch]
    usable = [one for one in given if one.question is not None]
    assigned = topics.assign([normalised(one.question[2]) for one in usable if one.question])
    topic_of = {id(one): topic for one, topic in zip(usable, assigned, strict=True)}
    found = []
    for one in given:
        for ballot in one.ballots:
            if one.question is None or ballot.prompt_key is None:
                found.append(ballot)
                continue
            sketches.add(ballot.prompt_key, spoken_text(one.question[0]))
            found.append(replace(ballot, topic=topic_of[id(one)], features=_learn(ballot, one, predictor)))
    return found


def _learn(ballot: Ballot, one: Cast, predictor: Predictor) -> bytes | None:
    if ballot.implied or ballot.source not in ("approved", "disliked"):
        return None
    features = predictor.features(one.answer)
    predictor.learn(ballot.rater, features, ballot.source == "approved")
    return features.tobytes()


def _values(ballot: Ballot) -> tuple[Any, ...]:
    return tuple(getattr(ballot, name) for name in COLUMNS)


async def copy_rows(
    connection: AsyncConnection, table: str, columns: Sequence[str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """COPY rows into a table of this transaction."""
    raw = await connection.get_raw_connection()
    assert raw.driver_connection is not None
    await raw.driver_connection.copy_records_to_table(table, records=rows, columns=list(columns))


async def _name_questions(connection: AsyncConnection, groups: dict[int, int]) -> None:
    await connection.execute(text("UPDATE ballots SET question = prompt_key WHERE prompt_key IS NOT NULL"))
    if not groups:
        return
    await connection.execute(
        text("CREATE TEMPORARY TABLE alike (prompt_key bigint PRIMARY KEY, question bigint) ON COMMIT DROP")
    )
    pairs = sorted(groups.items())
    await copy_rows(connection, "alike", ("prompt_key", "question"), pairs)
    await connection.execute(
        text(
            "UPDATE ballots SET question = alike.question FROM alike WHERE alike.prompt_key = ballots.prompt_key"
        )
    )
    await connection.execute(text("DROP TABLE alike"))


async def _distrusted(connection: AsyncConnection, predictor: Predictor) -> list[str]:
    """Raters whose votes disagree with what the others' votes predict."""
    query = text("""
        SELECT rater, source = 'approved' AS up, features FROM ballots
        JOIN (SELECT rater FROM ballots WHERE features IS NOT NULL GROUP BY 1 HAVING count(*) >= :votes) AS voters
        USING (rater) WHERE features IS NOT NULL""")
    agreed: dict[str, list[int]] = {}
    async with connection.stream(
        query, {"votes": VOTES_JUDGED_MIN}, execution_options={"yield_per": 1000}
    ) as votes:
        async for rater, up, features in votes:
            expected = predictor.predict(rater, features)
            if expected is not None:
                agreed.setdefault(rater, [0, 0])[int(expected != up)] += 1
    return sorted(rater for rater, (yes, no) in agreed.items() if distrusted(yes, no))


async def _available(connection: AsyncConnection) -> Available:
    counted = (
        await connection.execute(
            text("""
        SELECT count(*) FILTER (WHERE source = 'demonstration') AS demonstrations,
            count(*) FILTER (WHERE source = 'approved') AS approved,
            count(*) FILTER (WHERE source = 'disliked') AS disliked,
            count(*) FILTER (WHERE pair) AS pairs, count(*) FILTER (WHERE source = 'preferred') AS preferences,
            count(DISTINCT rater) AS raters, max(at) AS newest
        FROM ballots WHERE reason IS NULL""")
        )
    ).one()
    largest = await connection.scalar(
        text(
            "SELECT count(*) FROM ballots WHERE reason IS NULL AND NOT implied AND NOT reviewed "
            "GROUP BY rater ORDER BY 1 DESC LIMIT 1"
        )
    )
    rows = await connection.scalar(text("SELECT count(*) FROM ballots WHERE reason IS NULL AND NOT implied"))
    excluded = await left_out(connection)
    return Available(
        **counted._mapping,
        largest=largest or 0,
        largest_share=(largest or 0) / rows if rows else 0.0,
        waiting=excluded.get(rules.UNSUPPORTED, 0),
        excluded=excluded,
    )


async def left_out(connection: AsyncConnection) -> dict[str, int]:
    """How much of what was said does not count, by reason."""
    found = await connection.execute(
        text(
            "SELECT reason, count(*) FROM ballots WHERE reason IS NOT NULL AND NOT implied GROUP BY 1 ORDER BY 1"
        )
    )
    return {reason: number for reason, number in found}


def selection_of(model: Model) -> dict[str, Any]:
    """The query and thresholds, as stored with the dataset."""
    policy = model.policy.training.model_dump(mode="json", exclude={"recipe"})
    return {
        "project": model.project,
        "model": model.model,
        "votes": list(model.policy.feedback.votes),
        "policy": orjson.loads(orjson.dumps(policy)),
    }
