"""Two versions, the same questions: their answers side by side, with what differs marked.

Asked at the engines at temperature 0, and nothing is recorded: the held-out questions are words of people who may ask
to be forgotten, and must not be copied under somebody else's name.
"""

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Response
from sqlalchemy import func, select

from feedback import datasets, runs
from feedback.adapters import Adapter
from feedback.errors import HoneError, IllegalMove
from feedback.tables import dataset_rows
from monitoring.console import standing, told, view
from monitoring.console.asking import Asker, NoAnswer, engine_for, held, version_named
from monitoring.console.differences import Marked, marked
from monitoring.console.page import Changed, Page, Seen, console_of, render
from monitoring.console.told import Event

router = APIRouter(prefix="/model/compare")

QUESTIONS = (4, 8, 16)
QUESTION_CHARACTERS_MAX = 20_000


@dataclass(frozen=True, slots=True)
class Question:
    """What both are asked, and what people hold to be right where that is known."""

    messages: tuple[dict[str, Any], ...]
    right: str = ""

    @property
    def text(self) -> str:
        """What it asks, for people."""
        return view.content(self.messages[-1].get("content"))


@dataclass(frozen=True, slots=True)
class Pair:
    """One question with both answers, in pieces: whether the other side lacks it, and the piece."""

    number: int
    question: Question
    left: Marked
    right: Marked
    seconds: tuple[float, float]
    trouble: str = ""

    @property
    def same(self) -> bool:
        """Whether they said the same, word for word."""
        return not self.trouble and self.left == self.right


@router.get("")
async def show(page: Seen, left: str = "", right: str = "") -> Response:
    """Choose two versions and what to ask."""
    return await _show(page, left, right, [])


@router.post("")
async def compare(page: Changed) -> Response:
    """Ask both, telling each pair as it is there, or all of them on the page."""
    left, right = [
        await version_named(
            page.connection, page.project, page.required_model().model, page.form.get(side, "")
        )
        for side in ("left", "right")
    ]
    if left.name == right.name:
        raise HoneError(f"Both sides are {left.name}. Choose two different versions.")
    questions = await _questions(page, left, right)
    where = [await _engine(page, one) for one in (left, right)]
    pairs = _ask(console_of(page.request).asker, (left, right), where, questions)
    if told.listens(page.request):
        return told.tell(_events(pairs, (left, right), len(questions)))
    return await _show(page, left.name, right.name, [one async for one in pairs])


async def _show(page: Page, left: str, right: str, pairs: list[Pair]) -> Response:
    model = page.model
    if model is None:
        return page.show("start.html")
    versions = [one for one in await standing.versions_of(page.connection, model) if one.state != "trained"]
    ready = await held(page.connection, versions)
    champion = next(one for one in versions if one.state == "champion")
    newest = next((one for one in versions if one.name in ready and one.name != champion.name), None)
    left, right = left or champion.name, right or (newest.name if newest else "")
    return page.show(
        "compare.html",
        versions=versions,
        ready=ready,
        left=left,
        right=right,
        pairs=pairs,
        asked=page.form.get("question", ""),
        held_out=await _held_out_count(page, versions),
        numbers=QUESTIONS,
    )


async def _engine(page: Page, version: Adapter) -> str:
    found = await engine_for(page.connection, version)
    if found is None:
        raise IllegalMove(
            f"No engine holds {version.name} with its probe passed, so it cannot answer. Its page says where it is "
            "loaded; retired and rejected versions are not."
        )
    return found


async def _questions(page: Page, left: Adapter, right: Adapter) -> list[Question]:
    if page.form.get("ask") != "held_out":
        own = page.form.get("question", "").strip()
        if not 0 < len(own) <= QUESTION_CHARACTERS_MAX:
            raise HoneError(
                f"The question has {len(own)} characters; expected 1 to {QUESTION_CHARACTERS_MAX}."
            )
        return [Question(({"role": "user", "content": own},))]
    many = page.form.get("many", "")
    if many not in map(str, QUESTIONS):
        raise HoneError(
            f"'{many}' questions were asked for; expected one of {', '.join(map(str, QUESTIONS))}."
        )
    dataset_id = await _dataset(page, [right, left])
    query = (
        select(dataset_rows.c.columns)
        .where(dataset_rows.c.dataset_id == dataset_id, dataset_rows.c.split == "held_out")
        .order_by(dataset_rows.c.row_number)
        .limit(int(many))
    )
    found = [question_of(one) for one in (await page.connection.execute(query)).scalars()]
    if not found:
        raise HoneError("No dataset of this model has held-out questions yet. Ask one of your own.")
    return found


async def _dataset(page: Page, versions: Sequence[Adapter]) -> str | None:
    """The dataset that the first of these with a run was made from, else the model's newest."""
    for one in versions:
        run = await runs.by_id(page.connection, one.run_id) if one.run_id else None
        if run is not None:
            return run.dataset_id
    every = await datasets.in_project(page.connection, page.project)
    return next((one.dataset_id for one in every if one.model == page.required_model().model), None)


async def _held_out_count(page: Page, versions: Sequence[Adapter]) -> int:
    dataset_id = await _dataset(page, versions)
    query = select(func.count()).where(
        dataset_rows.c.dataset_id == dataset_id, dataset_rows.c.split == "held_out"
    )
    return int(await page.connection.scalar(query.select_from(dataset_rows)) or 0)


def question_of(columns: dict[str, Any]) -> Question:
    """What a row of a dataset asks, whatever method it is for."""
    prompt, right = columns.get("prompt"), columns.get("chosen")
    if prompt is None:
        prompt, right = columns["messages"][:-1], columns["messages"][-1]
    elif right is None and columns.get("label", True):
        right = columns.get("completion")
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    if isinstance(right, list):
        right = right[-1] if right else None
    if isinstance(right, dict):
        right = right.get("content")
    return Question(tuple(prompt), view.content(right))


async def _ask(
    asker: Asker, versions: Sequence[Adapter], where: Sequence[str], questions: Sequence[Question]
) -> AsyncGenerator[Pair, None]:
    for number, question in enumerate(questions, 1):
        try:
            (left, first), (right, second) = await asyncio.gather(
                *(_timed(asker, url, one, question) for one, url in zip(versions, where, strict=True))
            )
        except NoAnswer as error:
            yield Pair(number, question, [], [], (0.0, 0.0), str(error))
        else:
            yield Pair(number, question, *marked(left, right), (first, second))


async def _timed(asker: Asker, url: str, version: Adapter, question: Question) -> tuple[str, float]:
    began = time.perf_counter()
    answer = await asker.at_engine(url, version, question.messages)
    return answer, time.perf_counter() - began


async def _events(
    pairs: AsyncGenerator[Pair, None], versions: Sequence[Adapter], of: int
) -> AsyncIterator[Event]:
    """Each pair as a piece of the page, rendered and escaped here, with how far it got."""
    names = [one.name for one in versions]
    yield "progress", {"done": 0, "of": of}
    async with aclosing(pairs):
        async for pair in pairs:
            yield "row", {"html": render("pair.html", pair=pair, names=names)}
            yield "progress", {"done": pair.number, "of": of}
    yield "done", {}
