"""Ask a teacher, any OpenAI-compatible model, for better answers where people voted down and nobody wrote one.

What it answers is a proposal: it waits in the review queue, and is trained on once a person has approved it. Asked
about are answers that may be trained on and have neither a correction nor a proposal yet, newest first. The teacher
sees the conversation as training would, redacted where the record is; no vote, comment or name is sent.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import httpx
from sqlalchemy import exists, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import review
from feedback.completions import for_training
from feedback.database import Database
from feedback.errors import HoneError
from feedback.review_tables import reviews
from feedback.tables import completions, feedback
from retrain.prompts import Prompt, Unusable, normalised, prompt_of
from retrain.settings import RetrainSettings

CONCURRENCY = 4
VOTE = """CASE WHEN feedback.value IN ('true', '1') THEN 1 WHEN feedback.value IN ('false', '0', '-1') THEN -1
    ELSE 0 END"""


@dataclass(frozen=True, slots=True)
class Disliked:
    """An answer that people voted down, and what was asked."""

    completion_id: str
    prompt: Prompt
    answer: str


@dataclass(frozen=True, slots=True)
class Lesson:
    """What came of asking the teacher."""

    asked: int
    proposed: int
    same: int
    """Answers that the teacher gave alike: nothing to propose."""
    failures: tuple[str, ...]


async def teach(
    database: Database, project: str, model: str, *, limit: int, settings: RetrainSettings
) -> Lesson:
    """Ask the teacher about at most `limit` answers and propose what it says.

    Raises:
        HoneError: no teacher is configured.
    """
    if settings.teacher_url is None or settings.teacher_model is None:
        raise HoneError(
            "There is no teacher. Set [retrain] teacher_url and teacher_model to an OpenAI-compatible endpoint and the "
            "name of a model there."
        )
    async with database.begin() as connection:
        found = await disliked(connection, project, model, limit=limit)
    answers = await _ask_all(found, settings)
    failures = tuple(
        f"{one.completion_id}: {said}"
        for one, said in zip(found, answers, strict=True)
        if isinstance(said, HoneError)
    )
    proposed = same = 0
    async with database.begin() as connection:
        for one, said in zip(found, answers, strict=True):
            if isinstance(said, HoneError):
                continue
            if normalised(said) == normalised(one.answer):
                same += 1
                continue
            await review.propose(
                connection,
                project=project,
                completion_id=one.completion_id,
                answer=said,
                reason="people voted the answer down",
                by=f"teacher:{settings.teacher_model}",
            )
            proposed += 1
    return Lesson(len(found), proposed, same, failures)


async def disliked(connection: AsyncConnection, project: str, model: str, *, limit: int) -> list[Disliked]:
    """Answers with more votes down than up that nobody has corrected or proposed better ones for, newest first."""
    about = for_training().subquery("about")
    voted_down = (
        select(feedback.c.completion_id)
        .where(
            feedback.c.project == project,
            feedback.c.effective,
            feedback.c.kind == "rating",
            feedback.c.name == "thumbs",
        )
        .group_by(feedback.c.completion_id)
        .having(text(f"sum({VOTE}) < 0"))
    )
    corrected = exists().where(
        feedback.c.completion_id == completions.c.completion_id,
        feedback.c.project == project,
        feedback.c.effective,
        feedback.c.kind == "demonstration",
    )
    proposed = exists().where(reviews.c.completion_id == completions.c.completion_id)
    chosen = (
        select(completions.c.completion_id)
        .where(
            completions.c.completion_id.in_(voted_down),
            completions.c.project == project,
            completions.c.model == model,
            completions.c.consent,
            completions.c.status == "ok",
            ~corrected,
            ~proposed,
        )
        .order_by(completions.c.created_at.desc())
        .limit(limit)
    )
    rows = await connection.execute(
        select(about.c.completion_id, about.c.endpoint, about.c.request, about.c.output_text).where(
            about.c.completion_id.in_(chosen)
        )
    )
    return [one for row in rows if (one := _usable(row)) is not None]


def _usable(row: Any) -> Disliked | None:
    try:
        return Disliked(row.completion_id, prompt_of(row.endpoint, row.request or {}), row.output_text or "")
    except Unusable:
        return None


async def _ask_all(found: Sequence[Disliked], settings: RetrainSettings) -> list[str | HoneError]:
    key = settings.teacher_api_key
    headers = {"authorization": f"Bearer {key.get_secret_value()}"} if key else {}
    room = asyncio.Semaphore(CONCURRENCY)
    timeout = settings.evaluation_timeout_seconds
    async with httpx.AsyncClient(
        base_url=settings.teacher_url or "", headers=headers, timeout=timeout
    ) as client:

        async def ask(one: Disliked) -> str | HoneError:
            async with room:
                return await _ask(client, one, settings)

        return list(await asyncio.gather(*(ask(one) for one in found)))


async def _ask(client: httpx.AsyncClient, one: Disliked, settings: RetrainSettings) -> str | HoneError:
    messages = [{"role": "user", "content": one.prompt}] if isinstance(one.prompt, str) else one.prompt
    body = {
        "model": settings.teacher_model,
        "messages": messages,
        "temperature": 0,
        "max_tokens": settings.evaluation_answer_tokens_max,
    }
    try:
        reply = await client.post("/chat/completions", json=body)
    except httpx.HTTPError as error:
        return HoneError(f"the teacher cannot be reached: {str(error) or type(error).__name__}")
    if not reply.is_success:
        return HoneError(f"the teacher answered {reply.status_code}: {reply.text[:200]}")
    try:
        choice = reply.json()["choices"][0]
        answer = choice["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError):
        return HoneError(f"the teacher's answer is not a chat completion: {reply.text[:200]}")
    if not isinstance(answer, str) or not answer.strip() or choice.get("finish_reason") not in (None, "stop"):
        return HoneError("the teacher's answer is empty, cut off, or not text")
    return answer
