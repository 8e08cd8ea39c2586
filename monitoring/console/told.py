"""Answers that are told piece by piece: server-sent events to a page that waits for something long.

A page that can listen says so with `accept: text/event-stream`; every other one waits for the whole page.
"""

from collections.abc import AsyncIterator
from typing import Any

import orjson
from fastapi import Request, Response
from fastapi.responses import StreamingResponse

from feedback.errors import HoneError

EVENTS = "text/event-stream"

Event = tuple[str, dict[str, Any]]
"""A name and what it carries."""


def listens(request: Request) -> bool:
    """Whether whoever asks takes events."""
    return EVENTS in request.headers.get("accept", "")


def encode(event: Event) -> bytes:
    """One event. JSON leaves no line break in it, so a text cannot begin an event of its own."""
    name, data = event
    return b"event: %b\ndata: %b\n\n" % (name.encode(), orjson.dumps(data))


def tell(events: AsyncIterator[Event]) -> Response:
    """The answer that carries them; what goes wrong on the way is its last event."""

    async def told() -> AsyncIterator[bytes]:
        try:
            async for one in events:
                yield encode(one)
        except HoneError as error:
            yield encode(("failed", {"message": str(error)}))

    return StreamingResponse(told(), media_type=EVENTS, headers={"x-accel-buffering": "no"})
