"""A shop on a real engine, what its people say of it, and the road of a run from there to the gate's verdict.

Answers are sampled from the engine that will serve the candidate. Selection, split and recipe are the worker's, in a
real PostgreSQL that is rolled back after each plan; training is TRL through retrain's trainers; publishing, the
examination with its suites and the gate are those that every run meets. What is left out is what moves a run along:
the queue, the worker, the adapter watcher.
"""

import asyncio
import random
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from itertools import count, islice
from pathlib import Path
from typing import Any, TypeVar

from deploy.demo.model import CONTEXT_TOKENS
from deploy.demo.people import Person, crowd, react, visits
from deploy.demo.shop import BASE_POLICY, TOPIC_NAMES, Policy, Question, conversations, judge, questions
from deploy.postgres import EmbeddedPostgres
from feedback import datasets, golden
from feedback.adapters import BASE_ENGINE_NAME
from feedback.database import Database, migrate
from feedback.datasets import Row
from feedback.policy import ModelPolicy
from retrain import gate
from retrain.context import TrainingContext
from retrain.dpo import train_dpo
from retrain.engine_client import EngineClient
from retrain.evaluate import Evaluation, Observation, evaluate, read_items
from retrain.evidence import Versions
from retrain.file_rows import FileRow
from retrain.gate import GateReport
from retrain.kto import train_kto
from retrain.plan import freeze, make_plan
from retrain.publish import Published, publish
from retrain.recipe import Recipe
from retrain.settings import RetrainSettings
from retrain.sft import train_sft
from retrain.suites import load_suites
from retrain.train import HELD_OUT_ROWS_MAX
from retrain.training import TrainingResult
from retrain.validation import held_out_columns
from serving.engine_api import EngineApi
from tests.builders import PROJECT, a_model
from tests.engine_fixture import run_engine, small_engine
from tests.retrain.rated_builders import MODEL, Said, also, record, voted

CONCURRENCY = 16
MONTH = 30 * 24 * 60.0
EVALUATED = 120
"""Held-out rows that an evaluation asks. With half of that, five answers were better and none was worse where a good
recipe should have passed, and six are needed."""
EXAM_QUESTIONS, EXAM_SEED, FIXED_SEED = 300, 97, 98
WRONG_DAYS = "99 days"
TRAINERS: dict[str, Callable[..., TrainingResult | None]] = {
    "sft": train_sft,
    "dpo": train_dpo,
    "kto": train_kto,
}


Visit = tuple[Question, str]
"""A question and what was answered."""


@dataclass(frozen=True)
class Asked:
    """A person's question with the answers that the model gave to it."""

    person: Person
    question: Question
    answers: tuple[str, ...]


@dataclass(frozen=True)
class Lesson:
    """What one run trains on and is judged by."""

    recipe: Recipe
    rows: Sequence[Mapping[str, Any]]
    held_out: Sequence[Row]
    policy: ModelPolicy
    statements: int
    """Rows of the plan before any were left out to make a lesson small."""
    right: Policy = BASE_POLICY
    """The shop's policy that people hold its answers to."""


@dataclass(frozen=True)
class Truth:
    """What the shop itself says of a version's sampled answers to phrasings that nobody rated: the gate never knows."""

    right: float
    polite: float
    poisoned: float
    """Share that states the fact that attackers spread."""


@dataclass(frozen=True)
class Outcome:
    """A candidate with the gate's report, and what is true of it."""

    report: GateReport
    observed: tuple[Observation, ...]
    truth: Truth
    name: str
    published: Published
    training: TrainingResult


@dataclass
class Shop:
    """One engine that serves one base model, and an empty record."""

    base: Path
    directory: Path
    engine: str
    database: Database
    champion: str = BASE_ENGINE_NAME
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def client(self) -> EngineClient:
        """As an evaluation uses it."""
        settings = RetrainSettings.load()
        return EngineClient(
            self.engine,
            timeout_seconds=settings.evaluation_timeout_seconds,
            answer_tokens_max=settings.evaluation_answer_tokens_max,
            concurrency=CONCURRENCY,
        )


@asynccontextmanager
async def open_shop(base: Path, directory: Path) -> AsyncIterator[Shop]:
    """Start database and engine; both are gone at the end."""
    quick = {"fsync": "off", "synchronous_commit": "off"}
    settings = small_engine(engine_max_model_length_tokens=CONTEXT_TOKENS)
    with EmbeddedPostgres(directory / "postgres", settings=quick) as server:
        await asyncio.to_thread(migrate, server.url)
        with run_engine(base, directory, settings=settings) as engine:
            async with Database(server.url, pool_size=1) as database:
                yield Shop(base, directory, engine.url, database)


Found = TypeVar("Found")


async def gather(things: Iterable[Awaitable[Found]]) -> list[Found]:
    """All results, in order; the client bounds what is in flight."""
    return list(await asyncio.gather(*things))


def chat(question: Question) -> list[dict[str, str]]:
    """A question as an application sends it."""
    return [{"role": "user", "content": question.text}]


# What people say.


async def visit(shop: Shop, number: int, *, samples: int = 2, seed: int = 0) -> list[Asked]:
    """People ask `number` questions, and the champion answers each `samples` times."""
    asked = list(visits(crowd(seed, number), seed))
    async with shop.client() as client:
        found = await gather(
            client.answer(shop.champion, chat(question), temperature=1.0, seed=samples * n + k + seed)
            for n, (_, question) in enumerate(asked)
            for k in range(samples)
        )
    texts = [answer.text for answer in found]
    return [
        Asked(person, question, tuple(texts[samples * n : samples * (n + 1)]))
        for n, (person, question) in enumerate(asked)
    ]


def rated(asked: Sequence[Asked], *, flips: float = 0.0, policy: Policy = BASE_POLICY) -> list[Said]:
    """Thumbs on the first answer, a share of them the wrong one."""
    said = []
    for n, one in enumerate(asked):
        rng = random.Random(f"{one.person.name} {n}")
        thumb = react(one.person, one.question, one.answers[0], rng, policy).rating
        if thumb is not None:
            up = thumb if rng.random() >= flips else not thumb
            said.append(_voted(one, one.answers[0], up, MONTH * n / len(asked)))
    return said


def corrected(asked: Sequence[Asked]) -> list[Said]:
    """As in `hone demo`: the shop's policy has changed, people vote by the new one, and some write what is right."""
    said = []
    for n, one in enumerate(asked):
        rng = random.Random(f"{one.person.name} {n}")
        reaction = react(one.person, one.question, one.answers[0], rng)
        if reaction.rating is not None:
            vote = _voted(one, one.answers[0], reaction.rating, MONTH * n / len(asked))
            said.append(vote)
            if (right := reaction.demonstration) is not None:
                said.append(also(vote, right, kind="demonstration", rater=vote.rater, minute=vote.minute))
    return said


def compared(asked: Sequence[Asked], *, policy: Policy = BASE_POLICY) -> list[Said]:
    """Who was shown two answers, one of them better, picked it and says that it is right."""
    said = []
    for n, one in enumerate(asked):
        first, second = (judge(one.question, text, policy) for text in one.answers[:2])
        if (first.correct, first.polite) == (second.correct, second.polite):
            continue
        better = int((second.correct, second.polite) > (first.correct, first.polite))
        minute = MONTH * n / len(asked)
        liked = _voted(one, one.answers[better], True, minute)
        worse = replace(
            _voted(one, one.answers[1 - better], None, minute), kind="preference", value=liked.completion_id
        )
        said += [liked, worse]
    return said


def _voted(one: Asked, answer: str, up: bool | None, minute: float) -> Said:
    return voted(one.question.text, answer, up, rater=one.person.name, minute=minute)


def fixed_set(number: int) -> list[FileRow]:
    """What an operator lets every run repeat: what the base model was asked before, rightly answered in both tones."""
    said = (one for one in conversations(FIXED_SEED) if [turn.role for turn in one] == ["user", "assistant"])
    return [
        FileRow([{"role": "user", "content": asked.content}], answered.content)
        for asked, answered in islice(said, number)
    ]


# What a run makes of it.


async def plan(
    shop: Shop,
    said: Sequence[Said],
    method: str,
    overrides: Mapping[str, Any],
    *,
    policy: ModelPolicy,
    rows: int | None = None,
    kept: Sequence[tuple[str, str]] = (),
    right: Policy = BASE_POLICY,
) -> Lesson:
    """Plan a run as the worker does, and freeze it.

    Args:
        rows: leave the training rows beyond this many out again.
        kept: questions and answers of the golden set.
        right: the shop's policy that people hold its answers to.
    """
    async with shop.database.engine.connect() as connection, connection.begin() as transaction:
        await a_model(connection, MODEL, policy=policy, base_model=str(shop.base))
        await record(connection, said, policy)
        for asked, answer in kept:
            prompt = [{"role": "user", "content": asked}]
            await golden.add(
                connection, project=PROJECT, model=MODEL, prompt=prompt, answer=answer, by="bench"
            )
        planned = await make_plan(connection, PROJECT, MODEL, method=method, overrides=overrides)
        if planned.recipe is None:
            raise SystemExit(" ".join(planned.choice.sentences))
        dataset = await freeze(connection, planned)
        train = await datasets.rows(connection, dataset.dataset_id, split="train")
        held_out = await datasets.rows(connection, dataset.dataset_id, split="held_out")
        held_out += await datasets.rows(connection, dataset.dataset_id, split="golden")
        await transaction.rollback()
    columns = [row.columns for row in train]
    return Lesson(planned.recipe, columns[:rows], held_out, policy, len(columns), right)


def train(lesson: Lesson, directory: Path) -> TrainingResult:
    """Train a candidate, as the training process of a run does; for a process of its own."""
    warnings.simplefilter("ignore")
    unseen = [row.columns for row in lesson.held_out if row.split == "held_out"]
    held_out = held_out_columns(lesson.recipe.method, unseen)[:HELD_OUT_ROWS_MAX]
    result = TRAINERS[lesson.recipe.method](
        lesson.rows, lesson.recipe, TrainingContext(directory, held_out=held_out)
    )
    assert result is not None
    return result


async def prove(shop: Shop, lesson: Lesson, result: TrainingResult) -> Outcome:
    """Publish, serve and examine a trained candidate, and let the gate judge it."""
    name = f"support--v{next(shop.numbers)}-bench"
    base, adapters = str(shop.base), shop.directory / "adapters"
    adapters.mkdir(exist_ok=True)
    published = publish(result.adapter, adapters, name, base_model=base, card="# A bench's candidate\n")
    async with EngineApi(shop.engine) as engine:
        await engine.load(name, published.path)
    found = await examine(shop, name, lesson)
    evidence = replace(
        found.evidence, training_loss=result.loss, held_out_loss=result.notes.get("held_out_loss")
    )
    report = gate.judge(evidence, lesson.policy.gate)
    truth = await truth_of(shop, name, policy=lesson.right)
    return Outcome(report, found.observed, truth, name, published, result)


async def examine(shop: Shop, name: str, lesson: Lesson) -> Evaluation:
    """The examination of a run, beside the champion."""
    items = [
        item
        for split in ("held_out", "golden")
        for item in read_items([row for row in lesson.held_out if row.split == split], EVALUATED)
    ]
    suites = load_suites(lesson.policy.gate.suites, can_judge=False)
    async with shop.client() as client:
        return await evaluate(items, Versions(name, shop.champion, BASE_ENGINE_NAME), client, suites=suites)


async def forget(shop: Shop, name: str) -> None:
    """Let the engine unload a version: it holds a few at once."""
    async with EngineApi(shop.engine) as engine:
        await engine.unload(name)


async def truth_of(
    shop: Shop,
    version: str,
    *,
    topics: Sequence[str] = TOPIC_NAMES,
    number: int = EXAM_QUESTIONS,
    temperature: float = 1.0,
    policy: Policy = BASE_POLICY,
) -> Truth:
    """Ask a version, sampled as users get it, and judge by a policy of the shop."""
    asked = list(islice(questions("unrated", EXAM_SEED, topics), number))
    async with shop.client() as client:
        found = await gather(
            client.answer(version, chat(question), temperature=temperature, seed=n)
            for n, question in enumerate(asked)
        )
    texts = [answer.text for answer in found]
    judged = [judge(question, text, policy) for question, text in zip(asked, texts, strict=True)]
    right, polite = (sum(getattr(one, what) for one in judged) for what in ("correct", "polite"))
    return Truth(
        right / len(texts), polite / len(texts), sum(WRONG_DAYS in text for text in texts) / len(texts)
    )
