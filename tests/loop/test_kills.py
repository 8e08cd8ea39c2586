"""`kill -9` of every part under load: what a client saw the end of is in the record once, and the service recovers."""

import asyncio
import time
from dataclasses import dataclass, field

import httpx
import openai
import pytest
from openai import AsyncOpenAI
from sqlalchemy import func, select
from sqlalchemy.exc import DBAPIError

from feedback.tables import completions, feedback
from tests.loop.service import Service

PARTS = ("worker", "gateway", "engine", "postgres")
CLIENTS = 6

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]


@dataclass
class Seen:
    """What clients were told."""

    finished: list[str] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    failures: int = 0


async def test_nothing_a_client_saw_is_lost_whatever_part_is_killed(tiny_service: Service) -> None:
    seen, stop = Seen(), asyncio.Event()
    async with (
        tiny_service.client(max_retries=0, timeout=60) as client,
        httpx.AsyncClient(timeout=20) as raters,
    ):
        clients = [
            asyncio.create_task(use(tiny_service, client, raters, seen, stop, streamed=number % 2 == 0))
            for number in range(CLIENTS)
        ]
        for part in PARTS:
            await progress(seen, 40)
            before = tiny_service.kill(part)
            await recover(tiny_service, part, before)
        await progress(seen, 40)
        stop.set()
        await asyncio.gather(*clients)
    await assert_recorded(tiny_service, seen)


async def use(
    service: Service,
    client: AsyncOpenAI,
    raters: httpx.AsyncClient,
    seen: Seen,
    stop: asyncio.Event,
    *,
    streamed: bool,
) -> None:
    while not stop.is_set():
        try:
            completion_id = await (ask_streamed(client) if streamed else ask(client))
            seen.finished.append(completion_id)
            answer = await raters.post(
                f"{service.base_url}/v1/feedback",
                # Many people: one alone may only vote so often a minute.
                json={"completion_id": completion_id, "value": True, "rater_id": completion_id[-12:]},
                headers=service.headers,
            )
            if answer.status_code in (200, 202):
                seen.acknowledged.append(answer.json()["feedback_id"])
        except (openai.APIError, httpx.HTTPError):
            seen.failures += 1
            await asyncio.sleep(0.2)


async def ask(client: AsyncOpenAI) -> str:
    answer = await client.chat.completions.create(
        model="support", messages=[{"role": "user", "content": "hello"}], max_tokens=8
    )
    return answer.id


async def ask_streamed(client: AsyncOpenAI) -> str:
    stream = await client.chat.completions.create(
        model="support", messages=[{"role": "user", "content": "hello"}], max_tokens=8, stream=True
    )
    completion_id, finished = "", False
    async for chunk in stream:
        completion_id = chunk.id
        finished = finished or any(choice.finish_reason for choice in chunk.choices)
    if not finished:
        raise openai.APIError("the stream ended before its end", stream.response.request, body=None)
    return completion_id


async def progress(seen: Seen, more: int, seconds: float = 120) -> None:
    """Wait until clients have seen the end of `more` further answers."""
    goal, deadline = len(seen.finished) + more, time.monotonic() + seconds
    while len(seen.finished) < goal:
        assert time.monotonic() < deadline, (
            f"only {len(seen.finished)} of {goal} answers, {seen.failures} failures"
        )
        await asyncio.sleep(0.05)


async def recover(service: Service, part: str, before: int) -> None:
    """Wait until the part runs again under another pid and a chat request is answered."""
    deadline = time.monotonic() + 120
    while service.pid(part) == before:
        assert time.monotonic() < deadline, f"{part} was not started again\n{service.log()}"
        await asyncio.sleep(0.1)
    await asyncio.to_thread(service.wait_until_answering)


async def assert_recorded(service: Service, seen: Seen) -> None:
    deadline = time.monotonic() + 60
    rows, kept = await read_record(service, deadline)
    while set(seen.finished) - set(rows) or set(seen.acknowledged) - kept:
        lost, unkept = set(seen.finished) - set(rows), set(seen.acknowledged) - kept
        assert time.monotonic() < deadline, (
            f"lost {len(lost)} completions and {len(unkept)} votes: {sorted(lost)[:3]}"
        )
        await asyncio.sleep(0.5)
        rows, kept = await read_record(service, deadline)
    assert set(rows.values()) == {1}
    assert len(seen.finished) > 40 * len(PARTS)
    assert len(seen.acknowledged) > len(seen.finished) // 2


async def read_record(service: Service, deadline: float) -> tuple[dict[str, int], set[str]]:
    """How often each completion is recorded, and which votes are; waits while the database recovers."""
    while True:
        try:
            async with service.database() as database, database.begin() as connection:
                query = select(completions.c.completion_id, func.count()).group_by(
                    completions.c.completion_id
                )
                rows = {row[0]: row[1] for row in await connection.execute(query)}
                kept = set((await connection.execute(select(feedback.c.feedback_id))).scalars())
            return rows, kept
        except (OSError, DBAPIError):
            assert time.monotonic() < deadline, "the database did not come back"
            await asyncio.sleep(0.5)
