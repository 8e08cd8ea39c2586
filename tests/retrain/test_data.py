import random
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import datasets, golden, models
from feedback.database import Database
from feedback.datasets import Dataset, Row
from feedback.errors import HoneError
from feedback.policy import ModelPolicy, TrainingPolicy
from retrain.data import stream_rows
from retrain.exact import CHOSEN_IDS, OUTPUT_IDS, PROMPT_IDS, REJECTED_IDS
from retrain.plan import freeze, make_plan
from retrain.prompts import answer_text, prompt_text
from retrain.similar import groups_of
from tests.builders import PROJECT, an_uploaded_file
from tests.retrain.rated_builders import MODEL, Said, record, taught, voted

OPEN = {"rows_per_rater_max": 100, "rows_per_rater_topic_max": 100, "sft_rows_min": 1, "dpo_pairs_min": 1}
POLICY = ModelPolicy(training=TrainingPolicy.model_validate({**OPEN, "kto_ratings_min": 1, "raters_min": 1}))
MINUTES_A_DAY = 24 * 60


def policy(**training: object) -> ModelPolicy:
    return ModelPolicy(training=TrainingPolicy.model_validate({**POLICY.training.model_dump(), **training}))


def people(number: int = 20, questions: int = 5, *, minute: float = 0) -> list[Said]:
    """Everybody asks questions of their own; some teach, some vote."""
    said = []
    for rater in range(number):
        for n in range(questions):
            question, who = f"{rater} wonders, {n} times over, about item {rater * 97 + n}?", f"rater-{rater}"
            if n == 0:
                right, wrong = f"The new answer is {rater}.", f"The old answer is {rater}."
                said.append(taught(question, right, wrong=wrong, rater=who, minute=minute))
            else:
                said.append(voted(question, f"Answer {n} for {rater}.", n % 2 == 0, rater=who, minute=minute))
    return said


async def frozen(
    database: Database, said: Sequence[Said], method: str = "sft", training: ModelPolicy = POLICY
) -> tuple[Dataset, list[Row]]:
    async with database.begin() as connection:
        await record(connection, said, training)
        return await freeze_now(connection, method)


async def freeze_now(connection: AsyncConnection, method: str = "sft") -> tuple[Dataset, list[Row]]:
    dataset = await freeze(connection, await make_plan(connection, PROJECT, MODEL, method=method))
    return dataset, await datasets.rows(connection, dataset.dataset_id)


def of_split(rows: Sequence[Row], split: str) -> list[Row]:
    return [row for row in rows if row.split == split]


async def test_no_rater_is_on_both_sides_of_the_split(database: Database) -> None:
    _, rows = await frozen(database, people())
    train, held_out = ({row.rater for row in of_split(rows, split)} for split in ("train", "held_out"))
    assert len(held_out) == 4
    assert not train & held_out


async def test_who_is_held_out_of_a_large_crowd_stays_so_when_more_come(database: Database) -> None:
    _, few = await frozen(database, people(60, 2))
    held_out = {row.rater for row in of_split(few, "held_out")}
    async with database.begin() as connection:
        await record(
            connection,
            [voted(f"More of {n * 13}?", f"It is {n}.", True, rater=f"new-{n}") for n in range(60)],
        )
        _, many = await freeze_now(connection)
    assert held_out
    assert held_out <= {row.rater for row in of_split(many, "held_out")}


async def test_no_question_is_both_trained_on_and_evaluated_even_when_everybody_asks_it(
    database: Database,
) -> None:
    said = [
        voted(
            f"Question {n} about things that everybody asks{'!' * (r % 2)}",
            f"Answer {n}, {r}.",
            True,
            rater=f"r{r}",
        )
        for r in range(20)
        for n in range(10)
    ]
    said += [
        taught(f"Only {rater} asks this one?", f"Say {rater}.", rater=f"r{rater}") for rater in range(20)
    ]
    dataset, rows = await frozen(database, said)
    sides = {
        split: {prompt_text(row.columns["prompt"]).rstrip("!") for row in of_split(rows, split)}
        for split in ("train", "held_out")
    }
    assert sides["train"] and sides["held_out"]
    assert not sides["train"] & sides["held_out"]
    texts = list(enumerate(sorted(sides["train"] | sides["held_out"])))
    names = groups_of(texts)
    sided = {side: {names.get(key, key) for key, one in texts if one in sides[side]} for side in sides}
    assert not sided["train"] & sided["held_out"]
    assert dataset.counts["excluded"]["question asked on both sides of the split"] > 0


async def test_a_conversation_never_straddles_the_split(database: Database) -> None:
    said = [
        voted(
            f"Turn {n} of {room * 31}, item {n * 7919}?",
            f"It is {n} in {room}.",
            True,
            rater=f"r{n}",
            session=f"s{room}",
        )
        for room in range(12)
        for n in range(6)
    ]
    _, rows = await frozen(database, said)
    sessions = {one.completion_id: one.changes["session"] for one in said}
    train, held_out = (
        {sessions[c] for row in of_split(rows, split) for c in row.completion_ids}
        for split in ("train", "held_out")
    )
    assert train and held_out
    assert not train & held_out


async def test_equal_content_gives_an_equal_hash_in_any_order_and_a_changed_word_another(
    database: Database,
) -> None:
    said = people(8, 3)
    first, rows = await frozen(database, said)
    async with database.begin() as connection:
        # The same submissions, physically in another order: as after a restore.
        await connection.execute(text("CREATE TEMPORARY TABLE kept ON COMMIT DROP AS SELECT * FROM feedback"))
        await connection.execute(text("DELETE FROM feedback"))
        await connection.execute(text("INSERT INTO feedback SELECT * FROM kept ORDER BY md5(feedback_id)"))
        again, _ = await freeze_now(connection)
        await record(connection, [voted("a new question?", "a new answer.", True, rater="rater-7")])
        changed, _ = await freeze_now(connection)
    assert again.dataset_id == first.dataset_id
    assert changed.content_hash != first.content_hash
    assert first.content_hash == datasets.content_hash("sft", rows[::-1])


async def test_each_method_gets_the_columns_that_trl_wants(database: Database) -> None:
    columns = {}
    async with database.begin() as connection:
        await record(connection, people(), POLICY)
        for method in ("sft", "dpo", "kto"):
            _, rows = await freeze_now(connection, method)
            columns[method] = next(row.columns for row in rows if row.split == "train")
    # What was served carries its tokens.
    assert set(columns["sft"]) - {PROMPT_IDS, OUTPUT_IDS} == {"prompt", "completion"}
    assert set(columns["dpo"]) == {"prompt", "chosen", "rejected", PROMPT_IDS, REJECTED_IDS}
    assert set(columns["kto"]) - {PROMPT_IDS, OUTPUT_IDS} == {"prompt", "completion", "label"}
    assert columns["sft"]["completion"][0]["role"] == "assistant"
    assert isinstance(columns["kto"]["label"], bool)


async def test_every_row_names_the_completions_and_feedback_it_came_from(database: Database) -> None:
    first = voted("Which day is it today?", "It is Monday.", True, rater="r0")
    said = [first, voted("Which day is it today?", "It is Monday.", True, rater="r0b"), *people(6, 3)]
    _, rows = await frozen(database, said)
    assert all(row.completion_ids and row.feedback_ids for row in rows)
    merged = [row for row in rows if first.completion_id in row.completion_ids]
    assert [sorted(row.feedback_ids) for row in merged] == [sorted(one.feedback_id for one in said[:2])]


async def test_demonstrations_are_repeated_until_they_are_a_third_but_at_most_four_times(
    database: Database,
) -> None:
    few = [taught("What is new?", "This is new.", rater=f"r{n}", wrong="It is old.") for n in range(3)]
    many = [
        voted(f"Old question {n} of {n * n}?", f"Old answer {n}.", True, rater=f"r{n % 12}")
        for n in range(60)
    ]
    dataset, rows = await frozen(database, few + many, training=policy(held_out_share=0.1))
    taught_rows = [row for row in of_split(rows, "train") if "new" in row.columns["completion"][0]["content"]]
    assert dataset.counts["demonstration_repeats"] == (4 if taught_rows else 1)
    assert len(taught_rows) in (0, 4)
    assert dataset.counts["train"] == len(of_split(rows, "train"))


async def test_held_out_rows_say_which_answers_are_right_and_wrong(database: Database) -> None:
    _, rows = await frozen(database, people(), "kto")
    items = [row.columns for row in of_split(rows, "held_out")]
    taught_items = [item for item in items if item["source"] == "demonstration"]
    disliked = [item for item in items if item["source"] == "disliked"]
    assert taught_items and all(item["completion"] and item["rejected"] for item in taught_items)
    assert disliked and all(item["completion"] is None and item["rejected"] for item in disliked)
    corrected = [
        item for item in items if item["rejected"] and item["rejected"][0]["content"].startswith("The old")
    ]
    assert {item["source"] for item in corrected} == {"demonstration"}


async def test_the_last_days_are_kept_for_evaluation_once_the_record_is_long(database: Database) -> None:
    subjects = [random.Random(n).randbytes(12).hex() for n in range(110)]
    said = [
        voted(f"What is {one}?", f"It is {one}.", True, rater=f"r{n % 20}") for n, one in enumerate(subjects)
    ]
    early, late = said[:100], [replace(one, minute=30 * MINUTES_A_DAY) for one in said[100:]]
    dataset, rows = await frozen(database, early + late)
    last_days = {one.feedback_id for one in late}
    sliced = of_split(rows, "time_forward")
    assert sliced and {f for row in sliced for f in row.feedback_ids} <= last_days
    assert not {f for row in of_split(rows, "train") for f in row.feedback_ids} & last_days
    assert dataset.counts["time_forward"] == len(sliced)
    assert all(row.columns["source"] for row in sliced)


async def test_a_short_record_has_no_time_forward_slice(database: Database) -> None:
    _, rows = await frozen(database, people(10, 3) + people(10, 2, minute=2 * MINUTES_A_DAY))
    assert of_split(rows, "time_forward") == []


@pytest.mark.parametrize("form", ["text", "messages"])
async def test_golden_questions_are_in_every_dataset_and_nothing_like_them_is_trained_on(
    database: Database, form: str
) -> None:
    asked = "Return a reading lamp?"
    said = [voted(asked + "!" * n, f"Yes, for {n} days.", True, rater=f"rater-{n}") for n in range(10)]
    async with database.begin() as connection:
        await record(connection, said + people(), POLICY)
        prompt = asked if form == "text" else [{"role": "user", "content": asked}]
        kept = await golden.add(
            connection, project=PROJECT, model=MODEL, prompt=prompt, answer="Yes.", by="ada"
        )
        dataset, rows = await freeze_now(connection)
        assert await golden.of_model(connection, PROJECT, MODEL) == [kept]
        await golden.remove(connection, PROJECT, kept.golden_id, by="ada")
        _, without = await freeze_now(connection)
    (item,) = of_split(rows, "golden")
    assert (item.columns["source"], answer_text(item.columns["completion"])) == ("golden", "Yes.")
    assert not [
        row for row in of_split(rows, "train") if "reading lamp" in prompt_text(row.columns["prompt"])
    ]
    assert dataset.counts["excluded"]["near-duplicate of a golden question"] == 10
    assert of_split(without, "golden") == []
    assert [row for row in of_split(without, "train") if "reading lamp" in prompt_text(row.columns["prompt"])]


async def test_nothing_near_the_questions_that_runs_repeat_is_evaluated_with(
    database: Database, tmp_path: Path
) -> None:
    asked = "Would you be so kind as to tell me the name of the capital of France?"
    lines = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in ((asked, "Paris."), ("What are 2 and 2?", "Four."))
    ]
    async with database.begin() as connection:
        await record(connection, people(12, 4), policy(replay_share=0.2))
        await an_uploaded_file(connection, tmp_path, b"\n".join(map(orjson.dumps, lines)))
        changes = {"training": {"replay_file": "file-1"}}
        await models.change_policy(connection, PROJECT, MODEL, changes, by="ada")
        _, before = await freeze_now(connection)
        evaluated = next(row.rater for row in of_split(before, "held_out"))
        await record(connection, [voted(asked + "??", "It is Paris, I say.", True, rater=evaluated or "")])
        plan = await make_plan(connection, PROJECT, MODEL)
        again, rows = await freeze_now(connection)
        kept = [{"role": "user", "content": asked}]
        await golden.add(connection, project=PROJECT, model=MODEL, prompt=kept, answer="Paris.", by="ada")
        guarded, guarded_rows = await freeze_now(connection)
    held_out = [prompt_text(row.columns["prompt"]) for row in of_split(rows, "held_out")]
    assert held_out and not [one for one in held_out if "capital of france" in one]
    assert plan.counts["excluded"]["near-duplicate of a question that runs repeat"] == 1
    assert again.counts["replayed"] == 2
    assert guarded.counts["replayed"] == 1
    trained = [prompt_text(row.columns["prompt"]) for row in of_split(guarded_rows, "train")]
    assert not [one for one in trained if "capital of france" in one]


@pytest.mark.parametrize("prompt", ["", [], [{"role": "user"}], {"role": "user"}, 7])
async def test_a_golden_prompt_of_another_form_is_refused(database: Database, prompt: object) -> None:
    async with database.begin() as connection:
        await record(connection, people(1, 1))
        with pytest.raises(HoneError, match="cannot be used"):
            await golden.add(connection, project=PROJECT, model=MODEL, prompt=prompt, answer="Yes.", by="ada")


async def test_what_is_left_out_is_counted_by_reason_and_can_be_found(database: Database) -> None:
    unwilling = voted("May I?", "No.", True, rater="r", consent=False)
    dataset, rows = await frozen(database, [*people(), unwilling])
    async with database.begin() as connection:
        found = await datasets.exclusions(connection, dataset.dataset_id)
        of_one = await datasets.exclusions(connection, dataset.dataset_id, reason="completion has no consent")
    counted: dict[str, int] = {}
    for one in found:
        counted[one.reason] = counted.get(one.reason, 0) + 1
    assert counted == dataset.counts["excluded"]
    assert [(one.completion_id, one.feedback_id) for one in of_one] == [
        (unwilling.completion_id, unwilling.feedback_id)
    ]
    told = {f for row in rows for f in row.feedback_ids} | {one.feedback_id for one in found}
    assert len(told) == 101


async def test_the_balance_report_counts_every_row_and_names_no_rater(database: Database) -> None:
    said = [
        *people(),
        *(voted(f"Wie lange hat der Laden {n} auf?", f"Bis {n}.", False, rater=f"d{n}") for n in range(9)),
    ]
    dataset, _ = await frozen(database, said, "kto")
    balance = dataset.balance
    for part in ("splits", "topics", "versions", "languages"):
        total = sum(one["up"] + one["down"] for one in balance[part].values())
        assert total == dataset.counts["train"] + dataset.counts["held_out"], part
    assert set(balance["languages"]) >= {"en", "de"}
    assert balance["raters"]["count"] == dataset.counts["raters"]
    assert 0 < balance["raters"]["largest_share"] <= balance["raters"]["largest_ten_share"] <= 1
    assert balance["answer_characters"]["least"] <= balance["answer_characters"]["median"]
    assert "rater-" not in str(balance)


async def test_a_plan_of_another_transaction_is_refused(database: Database) -> None:
    async with database.begin() as connection:
        await record(connection, people(), POLICY)
        plan = await make_plan(connection, PROJECT, MODEL)
    async with database.begin() as connection:
        with pytest.raises(HoneError, match="another transaction"):
            await freeze(connection, plan)


async def test_rows_are_the_same_whether_frozen_from_a_list_or_a_stream(database: Database) -> None:
    async with database.begin() as connection:
        await record(connection, people(4, 3), POLICY)
        plan = await make_plan(connection, PROJECT, MODEL)
        streamed = [row async for batch in stream_rows(connection, "sft", plan.counts, []) for row in batch]
        dataset = await datasets.freeze(
            connection, project=PROJECT, model=MODEL, method="sft", rows=streamed, selection={}, counts={}
        )
        assert (await freeze(connection, plan)).content_hash == dataset.content_hash
        assert dataset.created_at < datetime.now(UTC)
        assert (await models.get(connection, PROJECT, MODEL)).policy == POLICY


async def test_a_run_in_stages_has_the_rows_of_each_stage_and_evaluates_on_none_of_them(
    database: Database,
) -> None:
    said = people()
    for rater in range(20):
        better = voted(
            f"Wrap item {rater * 31} as a present?", f"Gladly, {rater}.", True, rater=f"rater-{rater}"
        )
        worse = Said(better.question, f"No, {rater}.", "preference", better.completion_id, f"rater-{rater}")
        said += [better, worse]
    dataset, rows = await frozen(database, said, "sft+dpo")
    train = {name: [row for row in of_split(rows, "train") if row.method == name] for name in ("sft", "dpo")}
    assert dataset.method == "sft+dpo"
    assert dataset.counts["stages"] == {name: len(found) for name, found in train.items()}
    assert dataset.counts["train"] == sum(map(len, train.values()))
    assert all(set(row.columns) >= {"prompt", "completion"} for row in train["sft"])
    assert all(set(row.columns) >= {"prompt", "chosen", "rejected"} for row in train["dpo"])
    # Both answers of a preference were served, of a correction only the one that it replaced.
    assert {CHOSEN_IDS in row.columns for row in train["dpo"]} == {True, False}
    assert all(REJECTED_IDS in row.columns for row in train["dpo"])
    assert {row.columns["chosen"][0]["content"].split(",")[0] for row in train["dpo"]} >= {"Gladly"}
    trained_on = {prompt_text(row.columns["prompt"]) for row in of_split(rows, "train")}
    assert not trained_on & {prompt_text(row.columns["prompt"]) for row in of_split(rows, "held_out")}
    # Each stage alone would have had the same rows.
    async with database.begin() as connection:
        for name, found in train.items():
            _, alone = await freeze_now(connection, name)
            assert sorted(row.row_hash for row in of_split(alone, "train")) == sorted(
                r.row_hash for r in found
            )
