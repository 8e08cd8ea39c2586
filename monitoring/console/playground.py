"""Playground: talk with any version, or with two side by side, and give their answers a thumb.

What is asked goes through the gateway like an application's request and is in the record like it, under the console's
own key and the operator's name: in no experiment, and trained on only if the operator says so. The conversation is
what the record holds of its session; the page keeps nothing.
"""

import asyncio
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy import func, select

from feedback import console_keys
from feedback.adapters import Adapter
from feedback.completions import with_text
from feedback.console_keys import CONSOLE_KEYS
from feedback.database import Database
from feedback.errors import HoneError
from feedback.tables import completions as rows
from feedback.tables import feedback, keys
from monitoring.console import standing, told
from monitoring.console.asking import NoAnswer, held, version_named
from monitoring.console.page import Changed, Console, Page, Seen, console_of
from monitoring.console.told import Event

router = APIRouter(prefix="/playground")

TURNS_MAX = 30
QUESTION_CHARACTERS_MAX = 20_000
RECORDED_SECONDS = 5.0
SESSIONS = "console-"
NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Asked:
    """One question to one or two versions, each with what was said before."""

    console: Console
    key: str
    session: str
    operator: str
    consent: bool
    sides: tuple[tuple[str, list[dict[str, Any]]], ...]


@router.get("")
async def show(page: Seen, left: str = "", right: str = "", session: str = "") -> Response:
    """The conversation so far, and the box to go on with."""
    model = page.model
    if model is None:
        return page.show("start.html")
    versions = [one for one in await standing.versions_of(page.connection, model) if one.state != "trained"]
    ready = await held(page.connection, versions)
    champion = next(one.name for one in versions if one.state == "champion")
    left = left or champion
    right = right or next((one.name for one in versions if one.name in ready and one.name != left), NOBODY)
    chosen = [one for one in (left, right) if one != NOBODY]
    return page.show(
        "playground.html",
        versions=versions,
        ready=ready,
        left=left,
        right=right,
        sides=chosen,
        session=session if session.startswith(SESSIONS) else f"{SESSIONS}{secrets.token_hex(8)}",
        turns=await _turns(page, session, chosen),
        off=await _is_off(page),
    )


@router.post("")
async def ask(page: Changed) -> Response:
    """Ask, and answer with the words as they come, or with the page once they are all there."""
    asked = await _read(page)
    if told.listens(page.request):
        return told.tell(_events(asked))
    if failures := [data["message"] async for name, data in _events(asked) if name == "failed"]:
        raise NoAnswer(" ".join(failures))
    return _back(page, asked.session)


@router.post("/rate")
async def rate(page: Changed) -> Response:
    """Give one answer a thumb."""
    console, operator = console_of(page.request), page.visitor.key.key_id
    value = page.form.get("value")
    if value not in ("up", "down"):
        raise HoneError(f"The thumb is '{value}'; expected 'up' or 'down'.")
    key = await _key(page)
    await console.asker.rate(key, page.form.get("completion_id", ""), value == "up", operator=operator)
    return _back(page, page.form.get("session", ""))


@router.post("/key")
async def make_key(page: Changed) -> Response:
    """Make the console's key again, after somebody revoked it."""
    page.visitor.require_admin()
    await console_keys.make(page.connection, page.project, by=page.visitor.actor)
    return page.go("/playground")


async def _read(page: Page) -> Asked:
    question = page.form.get("question", "").strip()
    if not 0 < len(question) <= QUESTION_CHARACTERS_MAX:
        raise HoneError(
            f"The question has {len(question)} characters; expected 1 to {QUESTION_CHARACTERS_MAX}."
        )
    session = page.form.get("session", "")
    if not session.startswith(SESSIONS) or len(session) > 64:
        raise HoneError("This conversation is not one of the playground's. Begin a new one.")
    model = page.required_model().model
    names = [page.form.get(side, "") for side in ("left", "right")]
    chosen = [
        await version_named(page.connection, page.project, model, one) for one in names if one != NOBODY
    ]
    if not chosen or len({one.name for one in chosen}) < len(chosen):
        raise HoneError("Choose one version, or two different ones.")
    said = await _turns(page, session, [one.name for one in chosen])
    if len(said) >= TURNS_MAX:
        raise HoneError(f"This conversation has {TURNS_MAX} questions already. Begin a new one.")
    return Asked(
        console_of(page.request),
        await _key(page),
        session,
        page.visitor.key.key_id,
        page.form.get("consent") == "yes",
        tuple((one.name, [*_before(said, one), {"role": "user", "content": question}]) for one in chosen),
    )


async def _key(page: Page) -> str:
    """The console's key, in a transaction of its own: the gateway must see it before it is used."""
    async with console_of(page.request).database.begin() as connection:
        return await console_keys.of_project(connection, page.project, by=page.visitor.actor)


async def _is_off(page: Page) -> bool:
    query = (
        select(keys.c.revoked_at)
        .where(keys.c.project == page.project, keys.c.key_id.startswith(CONSOLE_KEYS, autoescape=True))
        .order_by(keys.c.created_at.desc(), keys.c.key_id.desc())
    )
    return (await page.connection.execute(query.limit(1))).scalar() is not None


async def _events(asked: Asked) -> AsyncIterator[Event]:
    """The words of both sides as they come, `failed` where one breaks off, and `done` once the record has them."""
    queue: asyncio.Queue[Event | None] = asyncio.Queue()
    ids: list[str] = []
    tasks = [asyncio.create_task(_one_side(asked, number, queue, ids)) for number in range(len(asked.sides))]
    try:
        for _ in tasks:
            while (piece := await queue.get()) is not None:
                yield piece
    finally:
        for task in tasks:
            task.cancel()
    await _recorded(asked.console.database, ids)
    yield "done", {}


async def _one_side(asked: Asked, side: int, queue: "asyncio.Queue[Event | None]", ids: list[str]) -> None:
    version, messages = asked.sides[side]
    pieces = asked.console.asker.stream(
        asked.key, version, messages, session=asked.session, operator=asked.operator, consent=asked.consent
    )
    try:
        async with aclosing(pieces):
            async for piece in pieces:
                if piece.completion_id:
                    ids.append(piece.completion_id)
                if piece.text:
                    queue.put_nowait(("text", {"side": side, "text": piece.text}))
    except NoAnswer as error:
        queue.put_nowait(("failed", {"side": side, "message": f"{version}: {error}"}))
    finally:
        queue.put_nowait(None)


async def _recorded(database: Database, ids: Sequence[str]) -> None:
    """Wait until the record has these completions, for a while: a page that is loaded now shows them."""
    loop = asyncio.get_running_loop()
    end = loop.time() + RECORDED_SECONDS
    while ids and loop.time() < end:
        async with database.begin() as connection:
            query = select(func.count()).select_from(rows).where(rows.c.completion_id.in_(ids))
            if int(await connection.scalar(query) or 0) >= len(ids):
                return
        await asyncio.sleep(0.05)


async def _turns(page: Page, session: str, versions: Sequence[str]) -> list[list[dict[str, Any] | None]]:
    """What was asked in this session, a list of answers a question, in the order of `versions`."""
    if not session.startswith(SESSIONS):
        return []
    query = (
        with_text()
        .where(
            rows.c.project == page.project,
            rows.c.session == session,
            rows.c.key_id.startswith(CONSOLE_KEYS, autoescape=True),
        )
        .order_by(rows.c.created_at)
        .limit(2 * TURNS_MAX)
    )
    found = [dict(row._mapping) for row in await page.connection.execute(query)]
    votes = await _votes(page, [one["completion_id"] for one in found])
    sides: list[list[dict[str, Any]]] = [[] for _ in versions]
    for one in found:
        name = f"{one['model']}@{one['version']}"
        if name in versions:
            sides[versions.index(name)].append(one | {"vote": votes.get(one["completion_id"])})
    return [list(turn) for turn in zip_longest(*sides)]


async def _votes(page: Page, ids: Sequence[str]) -> dict[str, Any]:
    query = select(feedback.c.completion_id, feedback.c.value).where(
        feedback.c.project == page.project,
        feedback.c.completion_id.in_(ids),
        feedback.c.effective,
        feedback.c.kind == "rating",
        feedback.c.name == "thumbs",
        feedback.c.key_id.startswith(CONSOLE_KEYS, autoescape=True),
    )
    return {row.completion_id: row.value for row in await page.connection.execute(query)}


def _before(turns: list[list[dict[str, Any] | None]], version: Adapter) -> list[dict[str, Any]]:
    """What was said with this version so far: its newest answer, and the request that led to it."""
    said = [
        one
        for turn in turns
        for one in turn
        if one is not None and one["version"] == version.version and one["status"] == "ok" and one["request"]
    ]
    if not said:
        return []
    newest = said[-1]
    return [*newest["request"].get("messages", []), {"role": "assistant", "content": newest["output_text"]}]


def _back(page: Page, session: str) -> Response:
    chosen = {side: page.form.get(side, "") for side in ("left", "right")}
    return page.go("/playground", session=session, **chosen)
