from typing import Any

import orjson
import pytest

from feedback import review
from feedback.database import Database
from feedback.errors import HoneError
from retrain.settings import RetrainSettings
from retrain.teacher import teach
from tests.builders import PROJECT, a_model, a_rated_completion
from tests.fakes import Asked, fake_engine, send_json
from tests.retrain.record import MODEL


async def ask_teacher(database: Database, answers: dict[str, str]) -> tuple[Any, list[Asked]]:
    """What a teacher that knows these answers leads to, and what it was asked."""

    async def behave(asked: Asked) -> None:
        question = asked.body["messages"][-1]["content"]
        if question not in answers:
            send_json(asked, 500, {"error": "no idea"})
            return
        choice = {"message": {"role": "assistant", "content": answers[question]}, "finish_reason": "stop"}
        send_json(asked, 200, {"choices": [choice]})

    async with fake_engine(behave) as engine:
        settings = RetrainSettings(teacher_url=f"{engine.url}/v1", teacher_model="wise")
        return await teach(database, PROJECT, MODEL, limit=10, settings=settings), engine.asked


async def test_a_teacher_proposes_for_what_was_voted_down_and_a_person_decides(database: Database) -> None:
    async with database.begin() as connection:
        await a_model(connection, MODEL)
        for question, value, consent in (
            ("bad?", False, True),
            ("liked?", True, True),
            ("private?", False, False),
            ("alike?", False, True),
            ("unknown?", False, True),
        ):
            request = {"model": MODEL, "messages": [{"role": "user", "content": question}]}
            await a_rated_completion(
                connection, value=value, consent=consent, request=orjson.dumps(request).decode()
            )
    known = {"bad?": "Within 14 days.", "alike?": "within 30  days."}
    lesson, asked = await ask_teacher(database, known)
    assert sorted(one.body["messages"][-1]["content"] for one in asked) == ["alike?", "bad?", "unknown?"]
    assert (lesson.asked, lesson.proposed, lesson.same) == (3, 1, 1)
    assert "the teacher answered 500" in lesson.failures[0]
    async with database.begin() as connection:
        (waiting,) = await review.in_project(connection, PROJECT)
    assert (waiting.answer, waiting.proposed_by, waiting.status) == (
        "Within 14 days.",
        "teacher:wise",
        "waiting",
    )
    _, again = await ask_teacher(database, known)
    assert "bad?" not in [one.body["messages"][-1]["content"] for one in again]


async def test_without_a_teacher_nothing_is_asked(database: Database) -> None:
    with pytest.raises(HoneError, match="There is no teacher"):
        await teach(database, PROJECT, MODEL, limit=1, settings=RetrainSettings())
