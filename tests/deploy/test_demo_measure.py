"""The demonstration's measuring, its traffic and its policy, without a service."""

import asyncio
import io
import random

import pytest
from rich.console import Console

from deploy.demo.measure import Exam, in_parallel, score, score_table
from deploy.demo.people import crowd, visits
from deploy.demo.service import Answer
from deploy.demo.shop import BASE_POLICY, CHANGED_POLICY, Policy, Question, Tone, answer
from deploy.demo.story import Plan, rejection
from feedback.policy import read_policy
from retrain.recipe import METHODS, default_recipe


def test_an_exam_has_no_question_that_people_ask() -> None:
    exam = Exam.of(0, 40, 80)
    asked = {question.text for _, question in visits(crowd(0, 2000), 0)}
    assert not asked & {question.text for question in (*exam.returns, *exam.others)}
    assert {question.topic for question in exam.returns} == {"returns"}
    assert "returns" not in {question.topic for question in exam.others}


@pytest.mark.parametrize(
    ("policy", "tone", "expected"),
    [(BASE_POLICY, "blunt", (0.0, 1.0, 1.0, 0.0)), (CHANGED_POLICY, "polite", (1.0, 0.0, 1.0, 1.0))],
)
def test_a_score_says_which_policy_and_which_tone_answered(
    policy: Policy, tone: Tone, expected: tuple[float, ...]
) -> None:
    exam = Exam.of(0, 10, 20)
    found = score("now", exam, _answers(exam.returns, policy, tone), _answers(exam.others, policy, tone))
    assert (found.returns_changed, found.returns_base, found.others_right, found.polite) == expected
    assert found.version == "support@3"


def test_the_table_shows_every_version_side_by_side() -> None:
    exam = Exam.of(0, 4, 4)
    scores = [
        score(title, exam, _answers(exam.returns, policy, "polite"), _answers(exam.others, policy, "polite"))
        for title, policy in (("before", BASE_POLICY), ("after", CHANGED_POLICY))
    ]
    console = Console(file=io.StringIO(), width=100)
    console.print(score_table(exam, scores))
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert "before" in shown and "after" in shown and "support@3" in shown
    assert next(line for line in shown.splitlines() if "14 days" in line).split("│")[2:4] == [
        "        0% ",
        "      100% ",
    ]


async def test_work_in_parallel_keeps_the_order_and_the_limit() -> None:
    running = most = 0

    async def work(number: int) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.001)
        running -= 1
        return number * 2

    assert await in_parallel(range(20), work, concurrency=3) == [number * 2 for number in range(20)]
    assert most == 3


def test_the_demonstrations_policy_and_recipes_are_valid() -> None:
    policy = read_policy(Plan().policy())
    for method in METHODS:
        recipe = default_recipe(method, "fernway-shop", policy.training.recipe)
        assert recipe.rank == 16 and recipe.learning_rate > 1e-4


def test_a_rejected_candidate_is_told_with_every_check_that_failed() -> None:
    lost = {"name": "win_rate", "passed": False, "sentence": "It won 3 and lost 9, needed above 0.50."}
    kept = {"name": "errors", "passed": True, "sentence": "0 requests failed."}
    said = rejection({"name": "support@4", "gate": {"checks": [lost, kept]}}, "support@0")
    assert "rejected support@4" in said and "champion stays support@0" in said
    assert "win_rate: It won 3 and lost 9" in said and "0 requests" not in said
    assert "hone adapter show support@4" in said
    unserved = {"name": "support@4", "gate": {"checks": [], "reasons": ["No engine was ready to serve it."]}}
    assert "No engine was ready" in rejection(unserved, "support@0")


def _answers(asked: tuple[Question, ...], policy: Policy, tone: Tone) -> list[Answer]:
    rng = random.Random(0)
    return [Answer("chatcmpl-0", "support@3", answer(question, policy, tone, rng)) for question in asked]
