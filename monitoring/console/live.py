"""Tells open pages when something of theirs changed, by server-sent events.

One cheap look at the record per open page and interval; a page that hears "changed" asks for itself again. Nothing of
the record travels here, so a session that ended learns nothing more than that. A lost connection is taken up again by
the browser itself.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Header, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy.exc import SQLAlchemyError

from monitoring.console.page import Console, console_of
from monitoring.console.sessions import SignInNeeded

router = APIRouter()

STOP_CHECK_SECONDS = 0.2
BEAT_SECONDS = 15.0
"""A sign of life this often keeps proxies from closing a quiet stream."""


@router.get("/live")
async def listen(request: Request, known: str = "", last_event_id: Annotated[str, Header()] = "") -> Response:
    """A stream of "changed", for as long as the session lasts; `known` is the state that the page shows."""
    console = console_of(request)
    async with console.database.begin() as connection:
        visitor = await console.sessions.read(request, connection)
    events = _events(request, console, visitor.project, last_event_id or known)
    return StreamingResponse(events, media_type="text/event-stream", headers={"x-accel-buffering": "no"})


async def _events(request: Request, console: Console, project: str, known: str) -> AsyncIterator[bytes]:
    quiet = 0.0
    yield b"retry: 3000\n\n"
    while await _wait(request, console.settings.console_live_seconds):
        quiet += console.settings.console_live_seconds
        try:
            async with console.database.begin() as connection:
                await console.sessions.read(request, connection)
                found = await console.state(connection, project)
        except (OSError, SQLAlchemyError):
            continue
        except SignInNeeded:
            yield b"event: ended\ndata: -\n\n"
            return
        if found != known:
            known, quiet = found, 0.0
            yield f"event: changed\nid: {found}\ndata: {found}\n\n".encode()
        elif quiet >= BEAT_SECONDS:
            quiet = 0.0
            yield b": still here\n\n"


async def _wait(request: Request, seconds: float) -> bool:
    """Let `seconds` pass; False as soon as nobody listens, or the server stops."""
    loop = asyncio.get_running_loop()
    end = loop.time() + seconds
    while not (request.app.state.is_stopping() or await request.is_disconnected()):
        if (left := end - loop.time()) <= 0:
            return True
        await asyncio.sleep(min(left, STOP_CHECK_SECONDS))
    return False
