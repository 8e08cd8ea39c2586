"""Evaluate a candidate as it will be served: through the engine that holds it, beside the champion.

Both versions answer every held-out prompt greedily. Where a right answer is known (demonstrated, preferred,
approved), chrF against it is the score; where only a wrong one is known, a version scores by no longer giving it,
and an answer that is cut off, empty or repeats itself never scores. The candidate also answers once by sampling,
for its divergence from the base model: E[log p(candidate) - log p(base)] over its own tokens. Where people approved an
answer, both are sampled a few times, since that is what users would get: it is looked at for facts, and for saying
things twice. Facts that look wrong there are asked about again. Suites and a judging model are asked beside it, where
there are any.

A request that fails is counted and leaves its item out. Nothing is written.
"""

import asyncio
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

from feedback.datasets import Row
from retrain.engine_client import Answer, EngineClient, EngineFailed
from retrain.evidence import Agreement, Estimate, Evidence, Pair, Slice, SuiteResult, Versions, estimate
from retrain.graders import similarity
from retrain.judge import Judge, Judged, JudgeFailed, summarise_judged
from retrain.language import language_of
from retrain.prompts import Prompt, answer_text, last_asked, normalised
from retrain.repeated import loops, repeated_pairs
from retrain.stated import KNOWN, Given, fact_slices, stated_pairs
from retrain.suites import Suite, ask_suite, refuses
from retrain.topics import find_topics
from retrain.wrong_facts import ask_again, known_facts, suspects

STILL_SAYS = 0.9
"""An answer whose chrF with a disliked one is at least this still says it."""
ERROR_EXAMPLES_MAX = 5
SCORED_TOKENS_MAX = 8
"""Tokens of an answer whose likelihood is asked for."""
SLICE_ITEMS_MIN = 5
"""Approved answers of one topic or language below which no mean is given."""
DRAWN_ANSWERS = 4
"""Sampled answers of each version in which an approved answer's facts are looked for."""
SEEDS_APART = 1_000_003
VERSION_NAMES = ("champion", "candidate")


@dataclass(frozen=True, slots=True)
class Item:
    """A held-out prompt, and what is known of its answers."""

    source: str
    rater: str
    prompt: Prompt
    right: str | None
    wrong: str | None
    split: str = "held_out"
    row_hash: str = ""


@dataclass(frozen=True, slots=True)
class Observation:
    """What both versions did with one item."""

    item: Item
    candidate: Answer
    champion: Answer
    right_log_likelihood: dict[str, float]
    divergence: float | None
    judged: Judged | None = None
    drawn: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    """What champion and candidate said when sampled, where people approved an answer or an operator keeps it."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was found, and what was answered."""

    evidence: Evidence
    observed: tuple[Observation, ...]


def read_items(rows: Sequence[Row], items_max: int) -> list[Item]:
    """Evaluation items from a dataset's held-out rows; taught items first when there are too many."""
    items = [
        Item(
            row.columns["source"],
            row.rater or "",
            row.columns["prompt"],
            answer_text(row.columns["completion"]) if row.columns["completion"] is not None else None,
            answer_text(row.columns["rejected"]) if row.columns["rejected"] is not None else None,
            row.split,
            row.row_hash,
        )
        for row in rows
    ]
    taught = [item for item in items if item.source != "approved"]
    retained = [item for item in items if item.source == "approved"]
    kept = retained[: max(items_max // 2, items_max - len(taught))]
    return taught[: items_max - len(kept)] + kept


async def evaluate(
    items: Sequence[Item],
    versions: Versions,
    client: EngineClient,
    *,
    suites: Sequence[Suite] = (),
    judge: Judge | None = None,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Evaluation:
    """Ask both versions everything; the client bounds what is in flight.

    Args:
        report: told how many items and facts asked about again are done, and how many there are.
    """
    errors: list[str] = []
    judge_errors: list[str] = []
    done = 0

    async def one(number: int, item: Item) -> Observation | None:
        nonlocal done
        try:
            observation = await observe(item, versions, client, seed=number)
            return await _judged(observation, judge, judge_errors) if judge else observation
        except EngineFailed as error:
            errors.append(str(error))
            return None
        finally:
            done += 1
            report(done, len(items))

    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(one(number, item)) for number, item in enumerate(items)]
        suite_tasks = [tasks.create_task(ask_suite(suite, versions, client, judge)) for suite in suites]
    observed = tuple(o for o in (task.result() for task in asked) if o is not None)
    known = _known_facts(observed)
    doubtful = suspects(known)
    again = []
    for suspect in doubtful:
        again.append(await ask_again(suspect, versions, client, errors))
        report(len(items) + len(again), len(items) + len(doubtful))
    evidence = summarise(observed, versions, errors, [task.result() for task in suite_tasks])
    evidence = replace(evidence, known_facts=len(known), asked_again=tuple(again))
    if judge is not None:
        judged = [o.judged for o in observed if o.judged is not None]
        evidence = replace(evidence, judge=summarise_judged(judge.model, judged, len(judge_errors)))
    return Evaluation(evidence, observed)


async def _judged(observation: Observation, judge: Judge, errors: list[str]) -> Observation:
    try:
        said = await judge.compare(
            observation.item.prompt, observation.candidate.text, observation.champion.text
        )
    except JudgeFailed as error:
        errors.append(str(error))
        return observation
    return replace(observation, judged=said)


async def observe(item: Item, versions: Versions, client: EngineClient, *, seed: int) -> Observation:
    """All requests for one item."""
    # In turn first: the first to be asked pays for what the engine still has to warm up.
    order = (versions.candidate, versions.champion) if seed % 2 else (versions.champion, versions.candidate)
    answers = [await client.answer(version, item.prompt) for version in order]
    champion, candidate = reversed(answers) if seed % 2 else answers
    likelihood: dict[str, float] = {}
    if item.right is not None:
        ids = await client.answer_token_ids(item.prompt, champion.prompt_token_ids, item.right)
        positions = some_positions(len(ids), seed)
        for version in {versions.candidate, versions.champion} if ids else ():
            values = await client.log_probabilities(version, champion.prompt_token_ids, ids, positions)
            likelihood[version] = sum(values) / len(values)
    sampled = await client.answer(versions.candidate, item.prompt, temperature=1.0, seed=seed)
    divergence = await _divergence(sampled, versions.base, client, seed=seed)
    drawn = await _draw(item, versions, client, seed, sampled.text)
    return Observation(item, candidate, champion, likelihood, divergence, drawn=drawn)


async def _draw(
    item: Item, versions: Versions, client: EngineClient, seed: int, first: str
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Sampled answers of both versions. A model can be right when it is surest and wrong as users get it."""
    if item.source not in KNOWN:
        return (), ()
    seeds = [seed + SEEDS_APART * n for n in range(DRAWN_ANSWERS)]
    champion = [await client.answer(versions.champion, item.prompt, temperature=1.0, seed=s) for s in seeds]
    others = [
        await client.answer(versions.candidate, item.prompt, temperature=1.0, seed=s) for s in seeds[1:]
    ]
    return tuple(one.text for one in champion), (first, *(one.text for one in others))


async def _divergence(sampled: Answer, base: str, client: EngineClient, *, seed: int) -> float | None:
    own = sampled.log_probabilities
    if not own:
        return None
    positions = some_positions(len(own), seed)
    of_base = await client.log_probabilities(base, sampled.prompt_token_ids, sampled.token_ids, positions)
    return sum(own[position] - value for position, value in zip(positions, of_base, strict=True)) / len(
        positions
    )


def some_positions(length: int, seed: int) -> list[int]:
    """Positions drawn evenly from an answer: each costs a request, and their mean is as unbiased as that of all."""
    return sorted(random.Random(seed).sample(range(length), min(length, SCORED_TOKENS_MAX)))


def summarise(
    observed: Sequence[Observation],
    versions: Versions,
    errors: Sequence[str],
    suites: Sequence[SuiteResult] = (),
) -> Evidence:
    """Evidence from all observations. Pure."""
    held_out = [o for o in observed if o.item.split == "held_out"]
    both = {
        versions.candidate: [o.candidate for o in held_out],
        versions.champion: [o.champion for o in held_out],
    }
    disliked = [o for o in held_out if o.item.wrong is not None]
    divergences = [o.divergence for o in held_out if o.divergence is not None]
    approved = [o for o in held_out if o.item.source == "approved"]
    golden = [o for o in observed if o.item.split == "golden"]
    given, kept = [given_of(o) for o in held_out], [given_of(o) for o in golden]
    return Evidence(
        candidate=versions.candidate,
        champion=versions.champion,
        items=len(held_out),
        raters=len({o.item.rater for o in held_out}),
        errors=len(errors),
        error_examples=tuple(sorted(set(errors))[:ERROR_EXAMPLES_MAX]),
        taught=tuple(pair_of(o) for o in held_out if o.item.source != "approved"),
        retained=tuple(pair_of(o) for o in approved),
        agreement=_agreement(held_out, versions),
        disliked=len(disliked),
        disliked_by_champion=sum(still_says(o.champion.text, cast(str, o.item.wrong)) for o in disliked),
        disliked_by_candidate=sum(still_says(o.candidate.text, cast(str, o.item.wrong)) for o in disliked),
        kl_to_base=estimate(divergences) if divergences else Estimate(0, 0.0, 0.0, 0.0),
        length_ratio=_length_ratio(both[versions.candidate], both[versions.champion]),
        repetition_rate={name: _share(answers, lambda a: loops(a.text)) for name, answers in both.items()},
        unfinished_rate={
            name: _share(answers, lambda a: a.finish_reason == "length") for name, answers in both.items()
        },
        refusal_rate={name: _share(answers, lambda a: refuses(a.text)) for name, answers in both.items()},
        golden=tuple(pair_of(o) for o in golden),
        newest=tuple(pair_of(o) for o in observed if o.item.split == "time_forward"),
        slices=(*_slices(approved), *fact_slices(given, kept)),
        stated=stated_pairs(given),
        golden_stated=stated_pairs(kept),
        repeated=repeated_pairs([*given, *kept]),
        latency_ratio=_latency_ratio(held_out),
        suites=tuple(suites),
    )


def pair_of(observation: Observation) -> Pair:
    """Both versions' scores on one item."""
    item = observation.item
    return Pair(
        item.source, item.rater, score(observation.champion, item), score(observation.candidate, item)
    )


def given_of(observation: Observation) -> Given:
    """One item as the look at facts takes it."""
    item = observation.item
    return Given(
        item.source,
        item.rater,
        item.prompt,
        item.right,
        item.wrong,
        (observation.champion.text, *observation.drawn[0]),
        (observation.candidate.text, *observation.drawn[1]),
    )


def _known_facts(observed: Sequence[Observation]) -> dict[str, list[Given]]:
    held_out, golden = (
        [given_of(o) for o in observed if o.item.split == split] for split in ("held_out", "golden")
    )
    return known_facts(held_out, golden)


def _slices(observed: Sequence[Observation]) -> Iterator[Slice]:
    """Mean scores by topic and by language, where there are answers enough to name a mean."""
    texts = [last_asked(o.item.prompt) for o in observed]
    if not texts:
        return
    topics = find_topics([(text, o.item.rater) for text, o in zip(texts, observed, strict=True)])
    by_topic = [topics.names[topic] for topic in topics.assign(texts)]
    for by, names in (("topic", by_topic), ("language", [language_of(text) for text in texts])):
        for name in sorted(set(names)):
            pairs = [pair_of(o) for o, one in zip(observed, names, strict=True) if one == name]
            if len(pairs) >= SLICE_ITEMS_MIN:
                champion, candidate = (_mean([getattr(p, side) for p in pairs]) for side in VERSION_NAMES)
                yield Slice(by, name, len(pairs), champion, candidate)


def _latency_ratio(observed: Sequence[Observation]) -> Estimate | None:
    """Paired, since a busy machine slows both; on a logarithmic scale, since times are skewed."""
    ratios = [
        math.log(
            (o.candidate.seconds / len(o.candidate.token_ids))
            / (o.champion.seconds / len(o.champion.token_ids))
        )
        for o in observed
        if o.candidate.seconds > 0 < o.champion.seconds and o.candidate.token_ids and o.champion.token_ids
    ]
    if len(ratios) < 2:
        return None
    log_ratio = estimate(ratios)
    return Estimate(log_ratio.n, math.exp(log_ratio.mean), math.exp(log_ratio.low), math.exp(log_ratio.high))


def score(answer: Answer, item: Item) -> float:
    """How good an answer is, in [0, 1]."""
    if item.right is not None:
        return chrf(answer.text, item.right)
    broken = answer.finish_reason != "stop" or loops(answer.text) or not answer.text.strip()
    return 0.0 if broken or still_says(answer.text, item.wrong or "") else 1.0


def chrf(answer: str, reference: str) -> float:
    """Character F-score, chrF2 as sacrebleu computes it (Popović 2015), in [0, 1], on normalised text."""
    return similarity("chrf", answer, reference)


def still_says(answer: str, disliked: str) -> bool:
    """Whether an answer is, but for small changes, the disliked one."""
    return chrf(answer, disliked) >= STILL_SAYS


def token_f1(answer: str, reference: str) -> float:
    """Harmonic mean of word precision and recall (as in SQuAD), in [0, 1]."""
    return similarity("token_f1", answer, reference)


def _agreement(observed: Sequence[Observation], versions: Versions) -> dict[str, Agreement]:
    known = [o for o in observed if o.item.right is not None]
    if not known:
        return {}

    def of(version: str, answers: list[tuple[Answer, str]]) -> Agreement:
        likelihoods = [o.right_log_likelihood[version] for o in known if version in o.right_log_likelihood]
        return Agreement(
            exact_match=_mean([float(normalised(a.text) == normalised(right)) for a, right in answers]),
            chrf=_mean([chrf(a.text, right) for a, right in answers]),
            token_f1=_mean([token_f1(a.text, right) for a, right in answers]),
            log_likelihood=_mean(likelihoods),
        )

    return {
        versions.champion: of(versions.champion, [(o.champion, cast(str, o.item.right)) for o in known]),
        versions.candidate: of(versions.candidate, [(o.candidate, cast(str, o.item.right)) for o in known]),
    }


def _length_ratio(candidate: Sequence[Answer], champion: Sequence[Answer]) -> float | None:
    longer = sum(len(answer.token_ids) for answer in champion)
    return sum(len(answer.token_ids) for answer in candidate) / longer if longer else None


def _share(answers: Sequence[Answer], holds: Callable[[Answer], Any]) -> float:
    return _mean([float(bool(holds(answer))) for answer in answers])


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
