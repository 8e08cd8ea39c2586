"""Builders of what the record says, without a record."""

from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any

from retrain.rated import Opinion, Rated

START = datetime(2026, 1, 1, tzinfo=UTC)
_numbers = count()


def an_opinion(
    kind: str = "rating", value: Any = True, *, rater: str = "ann", name: str | None = None, minute: int = 0
) -> Opinion:
    """One submission; rating up unless told otherwise."""
    names = {"rating": "thumbs"}
    return Opinion(
        feedback_id=f"fb-{next(_numbers)}",
        rater=rater,
        kind=kind,
        name=name or names.get(kind, kind),
        value=value,
        created_at=START + timedelta(minutes=minute),
    )


def a_rated(
    *opinions: Opinion,
    question: str = "How long may I return a lamp?",
    answer: str = "You may return it within 30 days.",
    **changes: Any,
) -> Rated:
    """A completion with what was said of it."""
    values: dict[str, Any] = {
        "completion_id": f"chatcmpl-{next(_numbers)}",
        "endpoint": "/v1/chat/completions",
        "request": {"model": "support", "messages": [{"role": "user", "content": question}]},
        "answer": answer,
        "has_tool_calls": False,
        "finish_reason": "stop",
        "status": "ok",
        "consent": True,
        "withdrawn": False,
        "opinions": opinions,
    }
    return Rated(**(values | changes))


def taught(
    question: str, right: str, *, rater: str = "ann", wrong: str = "Thirty days.", minute: int = 0
) -> Rated:
    """A completion that somebody corrected."""
    return a_rated(
        an_opinion("demonstration", right, rater=rater, minute=minute), question=question, answer=wrong
    )


def voted(question: str, answer: str, up: bool, *, rater: str = "ann", minute: int = 0) -> Rated:
    """A completion that somebody voted on."""
    return a_rated(an_opinion(value=up, rater=rater, minute=minute), question=question, answer=answer)
