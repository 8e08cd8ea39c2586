"""Answers that are kept for a moment: many people look at one model, and open pages ask again at every change.

An answer is kept for `SECONDS_MIN`, or `TIMES` as long as it took: however large the record grows, looking at it costs
the database a small share of its time.
"""

import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from feedback.models import Model

SECONDS_MIN = 3.0
TIMES = 20.0

Value = TypeVar("Value")


class Kept:
    """The answers of one console."""

    def __init__(self) -> None:
        self._answers: dict[tuple[str, str, str], tuple[float, Any]] = {}

    async def get(self, what: str, model: Model, ask: Callable[[], Awaitable[Value]]) -> Value:
        """What `ask` answers, or answered a moment ago."""
        key, began = (what, model.project, model.model), time.monotonic()
        until, value = self._answers.get(key, (0.0, None))
        if began < until:
            kept: Value = value
            return kept
        answer = await ask()
        now = time.monotonic()
        self._answers[key] = (now + max(SECONDS_MIN, TIMES * (now - began)), answer)
        return answer
