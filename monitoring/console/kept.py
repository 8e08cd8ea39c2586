"""Answers that are kept for a moment: many people look at one model, and open pages ask again at every change.

An answer is kept for `SECONDS_MIN`, or `TIMES` as long as it took: however large the record grows, looking at it costs
the database a small share of its time. One that took long is then shown once more while the next is counted behind it,
so that nobody waits for a count twice; when that one says something else, `changes` moves and open pages ask again.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.database import Database
from feedback.models import Model

SECONDS_MIN = 3.0
TIMES = 20.0
SLOW_SECONDS = 0.1
"""What is counted faster is counted while the page waits."""
ANSWERS_MAX = 500

Value = TypeVar("Value")
Ask = Callable[[AsyncConnection], Awaitable[Value]]


@dataclass(slots=True)
class Answer:
    """One answer, until when it is fresh, and what it took."""

    value: Any
    until: float
    seconds: float


class Kept:
    """The answers of one console."""

    def __init__(self, database: Database) -> None:
        self.changes = 0
        self._database = database
        self._answers: dict[tuple[str, str, str], Answer] = {}
        self._counting: dict[tuple[str, str, str], asyncio.Task[None]] = {}

    async def get(self, what: str, model: Model, ask: Ask[Value], connection: AsyncConnection) -> Value:
        """What `ask` answers, or answered a moment ago."""
        key = (what, model.project, model.model)
        kept = self._answers.get(key)
        if kept is None or (kept.seconds < SLOW_SECONDS and kept.until < time.monotonic()):
            return await self._ask(key, ask, connection)
        if kept.until < time.monotonic() and key not in self._counting:
            self._counting[key] = asyncio.create_task(self._again(key, ask))
        value: Value = kept.value
        return value

    async def close(self) -> None:
        """Stop counting."""
        for task in self._counting.values():
            task.cancel()
        await asyncio.gather(*self._counting.values(), return_exceptions=True)

    async def _ask(self, key: tuple[str, str, str], ask: Ask[Value], connection: AsyncConnection) -> Value:
        began = time.monotonic()
        value = await ask(connection)
        took = time.monotonic() - began
        if len(self._answers) >= ANSWERS_MAX:
            self._answers.pop(next(iter(self._answers)))
        self._answers[key] = Answer(value, began + took + max(SECONDS_MIN, TIMES * took), took)
        return value

    async def _again(self, key: tuple[str, str, str], ask: Ask[Any]) -> None:
        before = self._answers[key].value
        try:
            async with self._database.begin() as connection:
                if await self._ask(key, ask, connection) != before:
                    self.changes += 1
        finally:
            del self._counting[key]
