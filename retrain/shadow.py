"""Ask a candidate without traffic what people have just asked, and keep in numbers how it did.

This happens after the fact, in the worker, from the record: no request waits for it, no gateway knows of it, and an
engine that is busy sees a bounded number of questions more. What it answers is thrown away. An engine that is away, and
a request that it will not take, say nothing of the candidate, and are counted apart.
"""

import time
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import adapters, engines, models, shadow_answers
from feedback.adapters import Adapter
from feedback.database import Database
from feedback.models import Model
from feedback.shadow_answers import Question
from monitoring.failures import ErrorClass, of_engine
from retrain.alone import alone
from retrain.settings import RetrainSettings

LOOK_BACK = timedelta(minutes=10)
STATES = ("candidate", "approved")
OURS = ("stream", "stream_options", "safety_identifier", "user", "store", "metadata")
"""Fields of a request that were for the service, not for the engine."""
OURS_TO_GET_RIGHT = (401, 403, 404)
"""The engine does not take the key, or does not hold the version any more."""


async def tick(database: Database, settings: RetrainSettings) -> list[str]:
    """Look at every model once; returns what was asked, one sentence each."""
    async with database.begin() as connection:
        every_model = await models.every(connection)
    done: list[str] = []
    for model in every_model:
        if model.policy.rollout.shadow_share > 0:
            with alone(project=model.project, model=model.model):
                done += await _shadow(database, model, settings)
    return done


async def _shadow(database: Database, model: Model, settings: RetrainSettings) -> list[str]:
    policy = model.policy.rollout
    async with database.begin() as connection:
        candidate, engine = await _candidate(connection, model)
        if candidate is None or engine is None:
            return []
        questions = await shadow_answers.unasked(
            connection,
            model.project,
            model.model,
            candidate.adapter_id,
            since=datetime.now(UTC) - LOOK_BACK,
            share=policy.shadow_share,
            limit=policy.shadow_questions_max,
        )
    asked = 0
    async with _client(engine, settings) as client:
        for question in questions:
            answer = await _ask(client, candidate, question)
            async with database.begin() as connection:
                await shadow_answers.keep(connection, candidate.adapter_id, question.completion_id, **answer)
            asked += 1
            if answer.get("error_class") == "infrastructure":
                # An engine that is away would use up every question; the next look finds what is left of them.
                break
    return [f"{candidate.name} was asked {asked} questions in the shadow."] if asked else []


async def _candidate(connection: AsyncConnection, model: Model) -> tuple[Adapter | None, str | None]:
    for version in await adapters.of_model(connection, model.project, model.model):
        if version.state in STATES and version.aborted_at is None:
            holders = await engines.holders(connection, version.adapter_id)
            return version, holders[0] if holders else None
    return None, None


def _client(engine: str, settings: RetrainSettings) -> httpx.AsyncClient:
    key = settings.evaluation_engine_api_key
    return httpx.AsyncClient(
        base_url=engine,
        timeout=settings.evaluation_timeout_seconds,
        headers={"authorization": f"Bearer {key.get_secret_value()}"} if key else {},
        # Proxies of the environment are for the outside world, and engines are not there.
        trust_env=False,
    )


async def _ask(client: httpx.AsyncClient, candidate: Adapter, question: Question) -> dict[str, Any]:
    asked = {name: value for name, value in question.request.items() if name not in OURS}
    began = time.perf_counter()
    try:
        answer = await client.post(
            shadow_answers.CHAT,
            json=asked | {"model": candidate.engine_name},
            headers={"x-request-id": f"shadow-{question.completion_id}"},
        )
        if not answer.is_success:
            return _failed(began, _class_of(answer), f"{answer.status_code}: {answer.text}")
        found = answer.json()
        choice = found["choices"][0]
        said = choice["message"].get("content") or ""
    except httpx.HTTPError as error:
        return _failed(began, "infrastructure", repr(error))
    except (KeyError, IndexError, ValueError) as error:
        return _failed(began, "unknown", repr(error))
    return {
        "status": "ok",
        "output_text": said,
        "finish_reason": choice.get("finish_reason"),
        "same_text": said == question.output_text,
        "output_tokens": found.get("usage", {}).get("completion_tokens"),
        "duration_seconds": time.perf_counter() - began,
    }


def _failed(began: float, whose: ErrorClass, error: str) -> dict[str, Any]:
    return {
        "status": "error",
        "error": error[:500],
        "error_class": whose,
        "output_text": "",
        "duration_seconds": time.perf_counter() - began,
    }


def _class_of(answer: httpx.Response) -> ErrorClass:
    """Whose failure it is. The question alone is a caller's: the key and the version's name are ours."""
    if answer.status_code in OURS_TO_GET_RIGHT:
        return "infrastructure"
    try:
        message = str(answer.json()["error"]["message"])
    except (KeyError, TypeError, ValueError):
        message = ""
    return of_engine(answer.status_code, message)
