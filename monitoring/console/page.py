"""What a page has at hand: the record, who looks, which model, and how it is rendered.

`Seen` opens a page for reading, `Changed` for acting; an action commits before its answer leaves, so that the page a
browser is sent to shows it in force. Everything that goes into a page is escaped by the template engine, always.
"""

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlencode

from fastapi import Depends, Request, Response
from fastapi.responses import RedirectResponse
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import models
from feedback.database import Database
from feedback.errors import HoneError
from feedback.models import Model
from feedback.settings import FeedbackSettings
from monitoring.console import view
from monitoring.console.asking import Asker
from monitoring.console.assets import asset
from monitoring.console.kept import Kept
from monitoring.console.pulse import state
from monitoring.console.sessions import Sessions, Visitor, check_token
from monitoring.settings import MonitoringSettings

_NEWEST = text("""
SELECT model, (
    SELECT max(created_at) FROM completions WHERE project = :project AND completions.model = named.model
) AS at
FROM unnest(CAST(:models AS text[])) AS named (model)
""")
FORM_BYTES_MAX = 256 * 1024
PAGES = Path(__file__).parent / "pages"


@dataclass(frozen=True, slots=True)
class Console:
    """What one console process holds."""

    database: Database
    sessions: Sessions
    settings: MonitoringSettings
    record: FeedbackSettings
    asker: Asker
    kept: Kept

    async def state(self, connection: AsyncConnection, project: str) -> str:
        """A text that differs when a page may have to."""
        return f"{await state(connection, project)}-{self.kept.changes}"


@dataclass(frozen=True, slots=True)
class Page:
    """One request of somebody who is signed in, in a transaction of its own."""

    request: Request
    connection: AsyncConnection
    visitor: Visitor
    every_model: list[Model]
    form: Mapping[str, str]
    known: str = ""
    """The state of the record before anything was read for the page."""

    @property
    def project(self) -> str:
        """The project whose record is shown."""
        return self.visitor.project

    @property
    def model(self) -> Model | None:
        """The model that was chosen, else the first; None where the project has none."""
        asked = self.form.get("model") or self.request.query_params.get("model")
        named = next((one for one in self.every_model if one.model == asked), None)
        return named or (self.every_model[0] if self.every_model else None)

    def required_model(self) -> Model:
        """The chosen model.

        Raises:
            HoneError: there is none.
        """
        if self.model is None:
            raise HoneError(f"Project '{self.project}' has no model yet. `hone model create` makes one.")
        return self.model

    @property
    def kept(self) -> Kept:
        """Answers of a moment ago."""
        return console_of(self.request).kept

    def show(self, template: str, *, status: int = 200, **context: Any) -> Response:
        """Render a page."""
        shared = {
            "visitor": self.visitor,
            "every_model": self.every_model,
            "model": self.model,
            "path": self.request.url.path,
            "known": self.known,
            "done": view.DONE.get(self.request.query_params.get("done", "")),
        }
        page = render(template, **shared, **context)
        return Response(page, status, media_type="text/html; charset=utf-8")

    def go(self, path: str, *, done: str | None = None, **query: str) -> Response:
        """Send the browser to a page after an action; `done` names a sentence of `view.DONE`."""
        asked = {
            **query,
            **({"model": self.model.model} if self.model else {}),
            **({"done": done} if done else {}),
        }
        return RedirectResponse(f"{path}?{urlencode(asked)}" if asked else path, 303)


async def _seen(request: Request) -> AsyncIterator[Page]:
    console = console_of(request)
    async with console.database.begin() as connection:
        visitor = await console.sessions.read(request, connection)
        known = await console.state(connection, visitor.project)
        yield Page(request, connection, visitor, await _models(connection, visitor.project), {}, known)


async def _changed(request: Request) -> AsyncIterator[Page]:
    console = console_of(request)
    form = await read_form(request)
    async with console.database.begin() as connection:
        visitor = await console.sessions.read(request, connection)
        check_token(visitor, form.get("csrf"))
        yield Page(request, connection, visitor, await _models(connection, visitor.project), form)


async def _models(connection: AsyncConnection, project: str) -> list[Model]:
    """The models, the one that answered last first: a person who names none means that one."""
    every = await models.in_project(connection, project)
    newest = await connection.execute(_NEWEST, {"project": project, "models": [one.model for one in every]})
    last = {row.model: row.at.timestamp() for row in newest if row.at is not None}
    return sorted(every, key=lambda one: (-last.get(one.model, 0.0), one.model))


Seen = Annotated[Page, Depends(_seen, scope="function")]
Changed = Annotated[Page, Depends(_changed, scope="function")]


def console_of(request: Request) -> Console:
    """The console that serves this request."""
    console: Console = request.app.state.console
    return console


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a posted form.

    Raises:
        HoneError: it is too long to be one of ours.
    """
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > FORM_BYTES_MAX:
            raise HoneError(f"The form has more than {FORM_BYTES_MAX} bytes. Shorten what you wrote.")
    return dict(parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True))


@cache
def _templates() -> Environment:
    templates = Environment(
        loader=FileSystemLoader(PAGES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    templates.filters.update(view.FILTERS)
    templates.globals["asset"] = asset
    return templates


def render(template: str, **context: Any) -> str:
    """A page as text."""
    return _templates().get_template(template).render(**context)
