from collections.abc import Sequence

from feedback.datasets import Row, content_hash
from feedback.policy import TrainingPolicy
from retrain.data import build_rows
from retrain.prompts import prompt_text
from retrain.rated import Rated
from retrain.recipe import Method
from retrain.statements import gather
from tests.retrain.rated_builders import taught, voted

POLICY = TrainingPolicy(rows_per_rater_max=100)


def people(number: int = 20, questions: int = 5) -> list[Rated]:
    """Everybody asks questions of their own; some teach, some vote."""
    said = []
    for rater in range(number):
        for n in range(questions):
            question, who = f"{rater} wonders, {n} times over, about item {rater * 97 + n}?", f"rater-{rater}"
            if n == 0:
                said.append(
                    taught(question, f"The new answer {rater}.", wrong=f"The old answer {rater}.", rater=who)
                )
            else:
                said.append(voted(question, f"Answer {n} for {rater}.", n % 2 == 0, rater=who))
    return said


def rows_of(said: Sequence[Rated], method: Method = "sft", policy: TrainingPolicy = POLICY) -> list[Row]:
    return build_rows(gather(said, policy), method, policy)[0]


def test_no_rater_is_on_both_sides_of_the_split() -> None:
    rows = rows_of(people())
    train = {row.rater for row in rows if row.split == "train"}
    held_out = {row.rater for row in rows if row.split == "held_out"}
    assert len(held_out) == 4
    assert not train & held_out


def test_no_question_is_both_trained_on_and_evaluated_even_when_everybody_asks_it() -> None:
    said = [
        voted(
            f"Question {n} about things that everybody asks{'!' * (rater % 2)}",
            f"Answer {n}.",
            True,
            rater=f"r{rater}",
        )
        for rater in range(20)
        for n in range(30)
    ]
    said += [
        taught(f"Only {rater} asks this one?", f"Say {rater}.", rater=f"r{rater}") for rater in range(20)
    ]
    rows, counts = build_rows(gather(said, POLICY), "sft", POLICY)
    train = {prompt_text(row.columns["prompt"]).rstrip("!") for row in rows if row.split == "train"}
    held_out = {prompt_text(row.columns["prompt"]).rstrip("!") for row in rows if row.split == "held_out"}
    assert train and held_out
    assert not train & held_out
    assert counts["held_out"] == sum(row.split == "held_out" for row in rows)


def test_equal_content_gives_an_equal_hash_in_any_order_and_a_changed_word_another() -> None:
    said = people()
    assert content_hash("sft", rows_of(said)) == content_hash("sft", rows_of(said[::-1]))
    changed = [*said[:-1], voted("a new question?", "a new answer.", True, rater="rater-19")]
    assert content_hash("sft", rows_of(said)) != content_hash("sft", rows_of(changed))


def test_each_method_gets_the_columns_that_trl_wants() -> None:
    columns = {
        method: next(row.columns for row in rows_of(people(), method) if row.split == "train")
        for method in ("sft", "dpo", "kto")
    }
    assert set(columns["sft"]) == {"prompt", "completion"}
    assert set(columns["dpo"]) == {"prompt", "chosen", "rejected"}
    assert set(columns["kto"]) == {"prompt", "completion", "label"}
    assert columns["sft"]["completion"][0]["role"] == "assistant"
    assert isinstance(columns["kto"]["label"], bool)


def test_every_row_names_the_completions_and_feedback_it_came_from() -> None:
    assert all(row.completion_ids and row.feedback_ids for row in rows_of(people()))


def test_demonstrations_are_repeated_until_they_are_a_third_but_at_most_four_times() -> None:
    few = [taught("What is new?", "This is new.", rater="r0")]
    many = [
        voted(f"Old question {n} of {n * n}?", f"Old answer {n}.", True, rater=f"r{n % 12}")
        for n in range(60)
    ]
    rows, counts = build_rows(
        gather(few + many, POLICY), "sft", TrainingPolicy(held_out_share=0.1, rows_per_rater_max=99)
    )
    taught_rows = [
        row for row in rows if row.split == "train" and "new" in row.columns["completion"][0]["content"]
    ]
    assert counts["demonstration_repeats"] == (4 if taught_rows else 1)
    assert len(taught_rows) in (0, 4)
    alone = build_rows(gather(people(questions=1), POLICY), "sft", POLICY)[1]
    assert alone["demonstration_repeats"] == 1


def test_held_out_rows_say_which_answers_are_right_and_wrong() -> None:
    items = [row.columns for row in rows_of(people(), "kto") if row.split == "held_out"]
    taught_items = [item for item in items if item["source"] == "demonstration"]
    disliked = [item for item in items if item["source"] == "disliked"]
    assert taught_items and all(item["completion"] and item["rejected"] for item in taught_items)
    assert disliked and all(item["completion"] is None and item["rejected"] for item in disliked)
    assert all(item["rejected"][0]["content"].startswith("Answer") for item in disliked)


def test_a_corrected_answer_is_not_evaluated_twice() -> None:
    held_out = [row.columns for row in rows_of(people()) if row.split == "held_out"]
    corrected = [
        item for item in held_out if item["rejected"] and item["rejected"][0]["content"].startswith("The old")
    ]
    assert {item["source"] for item in corrected} == {"demonstration"}
