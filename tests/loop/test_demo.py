"""`hone demo` on the real model: the loop closes, the new answers are better, and rollback brings the old ones back."""

import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest
from rich.console import Console

from deploy.demo.measure import in_parallel
from deploy.demo.service import RunningService
from deploy.demo.shop import BASE_POLICY, Question, judge, questions
from deploy.demo.story import Plan, Story
from deploy.progress import Steps
from tests.loop.service import Service, running_service

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def shop(shop_model: Path) -> Iterator[Service]:
    """`hone up` on the demonstration model."""
    arguments = ("--model", str(shop_model))
    with running_service(shop_model.parent / "demo", *arguments, HONE_TRIGGER_CHECK_SECONDS="2") as service:
        yield service


async def test_the_model_answers_phrasings_it_never_saw(shop: Service) -> None:
    async with RunningService.connect(shop.base_url, shop.key, "support") as service:
        surest, _ = await _examine(service, 0.0)
        right, polite = await _examine(service, 1.0)
    assert surest >= 0.95 and right >= 0.90, (surest, right)
    assert 0.35 <= polite <= 0.65


async def test_the_loop_closes_and_rollback_restores_the_old_answers(shop: Service) -> None:
    said = io.StringIO()
    console = Console(file=said, width=200)
    async with RunningService.connect(shop.base_url, shop.key, "support") as service:
        with Steps(console) as steps:
            story = Story(service, Plan(seed=5), console, steps)
            await story.play()
        view = await service.model_view()
    before, after, rolled_back, restored = story.scores
    for old in (before, rolled_back):
        assert old.returns_base >= 0.9 and old.returns_changed <= 0.05, old
    for new in (after, restored):
        assert new.polite >= before.polite + 0.15 and new.others_right >= 0.8, new
    # Forty sampled answers err by five points, so the champion's two exams count as one.
    assert after.returns_changed + restored.returns_changed >= 2 * 0.75, (after, restored)
    assert after.returns_base + restored.returns_base <= 2 * 0.2, (after, restored)
    assert before.version == rolled_back.version == "support@0"
    assert after.version == restored.version == view["champion"] != "support@0"
    assert view["policy"]["training"]["fresh_feedback_min"] == 200, "the policy of before holds again"
    assert "Verdict: Candidate is better" in said.getvalue()


async def _examine(service: RunningService, temperature: float) -> tuple[float, float]:
    """Shares of right and of polite answers."""

    async def ask(question: Question) -> tuple[bool, bool]:
        answer = await service.ask(question.text, rater="examiner", consent=False, temperature=temperature)
        judged = judge(question, answer.text, BASE_POLICY)
        return judged.correct, judged.polite

    asked = [*islice(questions("rated", 11), 150), *islice(questions("unrated", 11), 150)]
    found = await in_parallel(asked, ask)
    right, polite = (sum(column) / len(found) for column in zip(*found, strict=True))
    return right, polite
