"""Tells open pages when something of theirs changed, by server-sent events.

One cheap look at the record per open page and interval; a page that hears "changed" asks for itself again. Nothing of
the record travels here, so a session that ended learns nothing more than that. A lost connection is taken up again by
the browser itself.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request, Response
from fastapi.responses import StreamingResponse
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from feedback.database import Database
from monitoring.console.page import Console, console_of
from monitoring.console.sessions import SignInNeeded

router = APIRouter()

STOP_CHECK_SECONDS = 0.2
BEAT_SECONDS = 15.0
"""A sign of life this often keeps proxies from closing a quiet stream."""

_STATE = text("""
SELECT (SELECT max(sequence) FROM audit),
       (SELECT max(event_id) FROM run_events),
       (SELECT string_agg(run_id || status || phase || progress::text, ',' ORDER BY run_id) FROM runs
        WHERE project = :project AND status IN ('queued', 'running')),
       (SELECT string_agg(experiment_id || step || coalesce(md5(verdict::text), ''), ',' ORDER BY experiment_id)
        FROM experiments WHERE project = :project AND status = 'running'),
       (SELECT string_agg(request_id || status, ',' ORDER BY request_id) FROM run_requests
        WHERE project = :project AND created_at > now() - interval '1 hour'),
       (SELECT string_agg(engine || healthy, ',' ORDER BY engine) FROM engines),
       (SELECT max(created_at) FROM feedback WHERE project = :project)
""")


@router.get("/live")
async def listen(request: Request) -> Response:
    """A stream of "changed", for as long as the session lasts."""
    console = console_of(request)
    async with console.database.begin() as connection:
        visitor = await console.sessions.read(request, connection)
    events = _events(request, console, visitor.project)
    return StreamingResponse(events, media_type="text/event-stream", headers={"x-accel-buffering": "no"})


async def _events(request: Request, console: Console, project: str) -> AsyncIterator[bytes]:
    known = await state(console.database, project)
    quiet = 0.0
    yield b"retry: 3000\n\n"
    while await _wait(request, console.settings.console_live_seconds):
        quiet += console.settings.console_live_seconds
        try:
            async with console.database.begin() as connection:
                await console.sessions.read(request, connection)
            found = await state(console.database, project)
        except (OSError, SQLAlchemyError):
            continue
        except SignInNeeded:
            yield b"event: ended\ndata: -\n\n"
            return
        if found != known:
            known, quiet = found, 0.0
            yield f"event: changed\ndata: {found}\n\n".encode()
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


async def state(database: Database, project: str) -> str:
    """A short text that differs when a page may have to."""
    async with database.begin() as connection:
        row = (await connection.execute(_STATE, {"project": project})).one()
    return hashlib.sha256(repr(tuple(row)).encode()).hexdigest()[:16]
