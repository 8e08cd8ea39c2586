"""The console as a web application: its pages, its assets, and what every answer carries.

Every page is rendered here and works without scripts; scripts only keep it fresh. Nothing is loaded from elsewhere and
nothing inline runs, so that prompts, answers and names, which are hostile input, stay text even where an escape were
missing. It reads the record and acts through the functions that `hone` and `/admin/v1` use; it knows no gateway.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from feedback import keys
from feedback.database import Database, unstorable
from feedback.errors import Conflict, HoneError, IllegalMove, NotFound
from feedback.mistakes import explain
from feedback.settings import FeedbackSettings
from monitoring.console import (
    decide,
    feedback_pages,
    home,
    live,
    model_pages,
    playground,
    policy_pages,
    privacy_pages,
    review_pages,
    settings_pages,
    side_by_side,
    sign_in,
    training,
    watch_pages,
)
from monitoring.console.asking import Asker
from monitoring.console.assets import assets_router
from monitoring.console.kept import Kept
from monitoring.console.page import Console, render
from monitoring.console.sessions import Refused, Sessions, SignInNeeded, lifetime
from monitoring.settings import MonitoringSettings

HEADERS = {
    "cache-control": "no-store",
    "content-security-policy": "; ".join(
        (
            "default-src 'none'",
            "script-src 'self'",
            "style-src 'self'",
            "img-src 'self' data:",
            "connect-src 'self'",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        )
    ),
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
PARTS = (
    sign_in,
    home,
    decide,
    side_by_side,
    model_pages,
    playground,
    feedback_pages,
    review_pages,
    training,
    watch_pages,
    policy_pages,
    settings_pages,
    privacy_pages,
    live,
)
STATUS: tuple[tuple[type[HoneError], int, str], ...] = (
    (Refused, 403, "Not allowed"),
    (NotFound, 404, "Not found"),
    (IllegalMove, 409, "Not possible any more"),
    (Conflict, 409, "In conflict with something newer"),
    (HoneError, 400, "That did not work"),
)


def create_app(settings: MonitoringSettings, record: FeedbackSettings) -> FastAPI:
    """The application; its lifespan connects to the record."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async with Database(record.resolve_database_url()) as database:
            async with database.begin() as connection:
                secret = await keys.service_secret(connection, "console_session")
            sessions = Sessions(secret, lifetime(settings.console_session_hours), settings.console_behind_tls)
            asker = Asker(settings.console_gateway_url, settings.console_engine_api_key)
            kept = Kept(database)
            app.state.console = Console(database, sessions, settings, record, asker, kept)
            warming = asyncio.create_task(_warm(database, kept))
            try:
                yield
            finally:
                warming.cancel()
                await asyncio.gather(warming, return_exceptions=True)
                await kept.close()
                await asker.close()

    app = FastAPI(title="Hone console", lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(assets_router(Path(__file__).parent / "static"))
    for part in PARTS:
        app.include_router(part.router)
    app.add_middleware(AddHeaders)
    app.add_exception_handler(Exception, _unexpected)
    _add_error_pages(app)
    return app


async def _warm(database: Database, kept: Kept) -> None:
    # A database that is away, or has other tables, is told to whoever opens a page.
    with suppress(OSError, SQLAlchemyError):
        await home.warm(database, kept)


class AddHeaders:
    """Puts `HEADERS` on every answer that does not say otherwise, without touching its body."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self.app(scope, receive, send_with_headers)


def _add_error_pages(app: FastAPI) -> None:
    @app.exception_handler(SignInNeeded)
    async def sign_in_needed(request: Request, error: SignInNeeded) -> Response:
        target = "/sign-in"
        if request.method == "GET" and request.url.path != "/":
            target += f"?next={request.url.path}"
        return RedirectResponse(target, 303)

    @app.exception_handler(HoneError)
    async def hone_error(request: Request, error: HoneError) -> Response:
        status, title = next((status, title) for kind, status, title in STATUS if isinstance(error, kind))
        return _error_page(status, title, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return _error_page(400, "That did not work", str(explain(error.errors(), skip=1)))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        title = "There is no such page" if error.status_code == 404 else str(error.detail)
        return _error_page(error.status_code, title, f"{request.method} {request.url.path}: {error.detail}.")

    @app.exception_handler(DBAPIError)
    async def from_database(request: Request, error: DBAPIError) -> Response:
        if (mistake := unstorable(error)) is None:
            raise error
        return _error_page(400, "That did not work", str(mistake))

    @app.exception_handler(OSError)
    async def unreachable(request: Request, error: OSError) -> Response:
        sentence = (
            f"The database does not answer: {error}. `hone doctor` says what to do; then load the page again."
        )
        return _error_page(503, "The record is away", sentence)


async def _unexpected(request: Request, error: Exception) -> Response:
    """A mistake of ours: the log has it; the person gets a page."""
    return _error_page(500, "The console failed", "This page could not be made; the console's log says why.")


def _error_page(status: int, title: str, sentence: str) -> Response:
    return Response(
        render("error.html", title=title, sentence=sentence, status=status),
        status,
        media_type="text/html; charset=utf-8",
    )
