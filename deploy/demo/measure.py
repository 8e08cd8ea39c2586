"""Measure what a model answers to phrasings that nobody rated, and show versions side by side."""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from rich.table import Table

from deploy.demo.service import Answer, RunningService
from deploy.demo.shop import BASE_POLICY, CHANGED_POLICY, TOPIC_NAMES, Question, judge, questions

CONCURRENCY = 8
EXAMINER = "examiner"

Thing = TypeVar("Thing")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Score:
    """Shares of right answers, each from 0 to 1, of one version to one set of questions."""

    version: str
    title: str
    returns_changed: float
    returns_base: float
    others_right: float
    polite: float
    example: str


@dataclass(frozen=True)
class Exam:
    """Questions in phrasings that nobody rates: about returns, and about everything else."""

    returns: tuple[Question, ...]
    others: tuple[Question, ...]

    @classmethod
    def of(cls, seed: int, returns: int, others: int) -> "Exam":
        """Draw an exam; the same seed gives the same questions."""
        elsewhere = [name for name in TOPIC_NAMES if name != "returns"]
        return cls(
            tuple(islice(questions("unrated", seed, ["returns"]), returns)),
            tuple(islice(questions("unrated", seed, elsewhere), others)),
        )


async def in_parallel(
    things: Iterable[Thing], work: Callable[[Thing], Awaitable[Result]], concurrency: int = CONCURRENCY
) -> list[Result]:
    """Do the work for every thing, a few at a time, and return the results in order."""
    gate = asyncio.Semaphore(concurrency)

    async def one(thing: Thing) -> Result:
        async with gate:
            return await work(thing)

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(one(thing)) for thing in things]
    return [task.result() for task in tasks]


async def take_exam(
    service: RunningService, exam: Exam, title: str, asked: Callable[[int, int], None]
) -> Score:
    """Ask every question once, sampled as users get it; nothing is kept for training.

    `asked` hears how many were asked, of how many.
    """
    done = 0

    async def ask(question: Question) -> Answer:
        nonlocal done
        answer = await service.ask(question.text, rater=EXAMINER, consent=False)
        done += 1
        asked(done, len(exam.returns) + len(exam.others))
        return answer

    returns = await in_parallel(exam.returns, ask)
    others = await in_parallel(exam.others, ask)
    return score(title, exam, returns, others)


def score(title: str, exam: Exam, returns: Sequence[Answer], others: Sequence[Answer]) -> Score:
    """Judge an exam's answers."""
    changed = [judge(q, a.text, CHANGED_POLICY) for q, a in zip(exam.returns, returns, strict=True)]
    base = [judge(q, a.text, BASE_POLICY) for q, a in zip(exam.returns, returns, strict=True)]
    rest = [judge(q, a.text, CHANGED_POLICY) for q, a in zip(exam.others, others, strict=True)]
    return Score(
        version=", ".join(sorted({answer.version for answer in (*returns, *others)})),
        title=title,
        returns_changed=_share([one.correct for one in changed]),
        returns_base=_share([one.correct for one in base]),
        others_right=_share([one.correct for one in rest]),
        polite=_share([one.polite for one in (*changed, *rest)]),
        example=returns[0].text if returns else "",
    )


def score_table(exam: Exam, scores: Sequence[Score]) -> Table:
    """The scores side by side."""
    table = Table(
        title=f"{len(exam.returns) + len(exam.others)} questions in phrasings that nobody rated",
        title_justify="left",
    )
    table.add_column("")
    for one in scores:
        table.add_column(f"{one.title}\n{one.version}", justify="right")
    rows: list[tuple[str, Callable[[Score], float]]] = [
        (f"say {CHANGED_POLICY.return_days} days (new)", lambda one: one.returns_changed),
        (f"say {BASE_POLICY.return_days} days (old)", lambda one: one.returns_base),
        ("are polite", lambda one: one.polite),
        ("others right", lambda one: one.others_right),
    ]
    for name, value in rows:
        table.add_row(name, *(f"{value(one):.0%}" for one in scores))
    return table


def _share(found: Sequence[bool]) -> float:
    return sum(found) / len(found) if found else 0.0
