from typing import Any

import pytest

from feedback.errors import HoneError
from retrain.graders import compile_expression, grade, models_needed, read_grader, similarity

ITEM = {"question": "When?", "expected": "within 14 days"}
CONTAINS = {
    "type": "string_check", "input": "{{sample.output_text}}", "reference": "{{item.expected}}", "operation": "ilike",
}  # fmt: skip

SCORES = {"type": "score_model", "input": [{"role": "user", "content": "?"}]}


class Says:
    """A judging model with one answer."""

    def __init__(self, answer: str) -> None:
        self.answer = answer
        self.asked: list[list[dict[str, str]]] = []

    async def ask(self, messages: list[dict[str, str]], *, model: str | None) -> str:
        self.asked.append(messages)
        return self.answer


@pytest.mark.parametrize(
    ("operation", "answer", "score"),
    [
        ("eq", "within 14 days", 1.0),
        ("eq", "Within 14 days", 0.0),
        ("ne", "Within 14 days", 1.0),
        ("like", "You may, within 14 days.", 1.0),
        ("like", "You may, Within 14 Days.", 0.0),
        ("ilike", "You may, Within 14 Days.", 1.0),
        ("ilike", "within 30 days", 0.0),
    ],
)
async def test_a_string_check_relates_the_answer_to_the_item(
    operation: str, answer: str, score: float
) -> None:
    assert await grade(read_grader(CONTAINS | {"operation": operation}), ITEM, answer) == score


def test_similarity_is_one_for_equal_and_lower_for_different_texts() -> None:
    for metric in ("fuzzy_match", "bleu", "chrf", "token_f1", "rouge_1", "rouge_2", "rouge_l"):
        assert similarity(metric, "one two three four five", "One two  three four five") == pytest.approx(1.0)
        assert similarity(metric, "one two three four six", "one two three four five") < 1.0
        assert similarity(metric, "quite", "one two three four five") < 0.3


def test_rouge_agrees_with_hand_counted_values() -> None:
    given, wanted = "the cat was under the bed", "the cat was found under the bed"
    assert similarity("rouge_1", given, wanted) == pytest.approx(12 / 13)
    assert similarity("rouge_2", given, wanted) == pytest.approx(8 / 11)
    assert similarity("rouge_l", given, wanted) == pytest.approx(12 / 13)


async def test_a_scoring_model_gets_the_filled_template_and_its_number_is_scaled() -> None:
    judge = Says("I would say 4")
    grader = read_grader(
        {
            "type": "score_model",
            "range": [1, 5],
            "input": [{"role": "user", "content": "{{item.question}} -> {{sample.output_text}}"}],
        }
    )
    assert models_needed(grader)
    assert await grade(grader, ITEM, "soon", judge) == pytest.approx(0.75)
    assert judge.asked == [[{"role": "user", "content": "When? -> soon"}]]


@pytest.mark.parametrize(("answer", "score"), [("Not helpful", 0.0), ("helpful!", 1.0)])
async def test_a_longer_label_is_not_taken_for_the_shorter_one_inside_it(answer: str, score: float) -> None:
    grader = read_grader(
        {
            "type": "label_model",
            "labels": ["helpful", "not helpful"],
            "passing_labels": ["helpful"],
            "input": [{"role": "user", "content": "{{sample.output_text}}"}],
        }
    )
    assert await grade(grader, ITEM, "x", Says(answer)) == score


@pytest.mark.parametrize("said", ["", "no idea"])
async def test_a_judging_model_that_says_nothing_usable_is_an_error(said: str) -> None:
    grader = read_grader(SCORES)
    with pytest.raises(HoneError, match="a number was expected"):
        await grade(grader, ITEM, "x", Says(said))


async def test_several_graders_are_joined_by_their_expression() -> None:
    grader = read_grader(
        {
            "type": "multi",
            "graders": {"has": CONTAINS, "like": CONTAINS | {"operation": "eq"}},
            "calculate_output": "0.75 * has + 0.25 * max(like, 0)",
        }
    )
    assert await grade(grader, ITEM, "It is within 14 days.") == pytest.approx(0.75)
    assert await grade(grader, ITEM, "within 14 days") == pytest.approx(1.0)


@pytest.mark.parametrize(
    "expression",
    ["__import__('os')", "a.b", "a if b else c", "lambda: 1", "'text'", "a[0]", "print(a)", "a +", "9**9**9"],
)
def test_an_expression_that_is_not_arithmetic_is_refused(expression: str) -> None:
    with pytest.raises(ValueError, match=r"not allowed|not an arithmetic"):
        compile_expression(expression)


def test_an_expression_without_a_value_is_an_error_that_shows_the_scores() -> None:
    with pytest.raises(HoneError, match=r"'a / b' has no value for \{'a': 1.0, 'b': 0.0\}"):
        compile_expression("a / b")({"a": 1.0, "b": 0.0})


@pytest.mark.parametrize(
    ("grader", "complaint"),
    [
        ({"type": "python", "source": "def grade(): ..."}, "python"),
        (CONTAINS | {"operation": "matches"}, "operation"),
        (
            {"type": "text_similarity", "input": "a", "reference": "b", "evaluation_metric": "cosine"},
            "has to be downloaded",
        ),
        ({"type": "multi", "graders": {"a": CONTAINS}, "calculate_output": "open('x')"}, "not allowed"),
        (SCORES | {"range": [1, 1]}, "range' is .*no room for a score"),
        (SCORES | {"range": [1, 0]}, "range' is .*no room for a score"),
        ({}, "type"),
    ],
)
def test_a_grader_that_cannot_run_here_is_refused_with_its_field(
    grader: dict[str, Any], complaint: str
) -> None:
    with pytest.raises(HoneError, match=complaint):
        read_grader(grader)


async def test_a_template_that_names_a_missing_field_is_an_error_and_no_empty_text() -> None:
    with pytest.raises(HoneError, match=r"'item\.expcted', and there is item\.question, item\.expected"):
        await grade(read_grader(CONTAINS | {"reference": "{{item.expcted}}"}), ITEM, "anything")


async def test_a_model_grader_without_a_model_says_how_to_configure_one() -> None:
    grader = read_grader(SCORES)
    with pytest.raises(HoneError, match="HONE_JUDGE_URL"):
        await grade(grader, ITEM, "x")
