"""Evaluate a candidate as it will be served: through the engine that holds it, beside the champion.

Both versions answer every held-out prompt greedily. Where a right answer is known (demonstrated, preferred,
approved), chrF against it is the score; where only a wrong one is known, a version scores by no longer giving it,
and an answer that is cut off, empty or repeats itself never scores. The candidate also answers once by sampling,
for its divergence from the base model: E[log p(candidate) - log p(base)] over its own tokens.

A request that fails is counted and leaves its item out. Nothing is written.
"""

import asyncio
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

from feedback.datasets import Row
from retrain.engine_client import Answer, EngineClient, EngineFailed
from retrain.evidence import Agreement, Estimate, Evidence, Pair, estimate
from retrain.prompts import Prompt, answer_text, normalised

STILL_SAYS = 0.9
"""An answer whose chrF with a disliked one is at least this still says it."""
REPEATS_WORDS_MIN = 12
REPEATS_DISTINCT_MAX = 0.5
ERROR_EXAMPLES_MAX = 5
SCORED_TOKENS_MAX = 8
"""Tokens of an answer whose likelihood is asked for."""


@dataclass(frozen=True, slots=True)
class Versions:
    """Names under which the engine serves what is compared."""

    candidate: str
    champion: str
    base: str


@dataclass(frozen=True, slots=True)
class Item:
    """A held-out prompt, and what is known of its answers."""

    source: str
    rater: str
    prompt: Prompt
    right: str | None
    wrong: str | None


@dataclass(frozen=True, slots=True)
class Observation:
    """What both versions did with one item."""

    item: Item
    candidate: Answer
    champion: Answer
    right_log_likelihood: dict[str, float]
    divergence: float | None


def read_items(rows: Sequence[Row], items_max: int) -> list[Item]:
    """Evaluation items from a dataset's held-out rows; taught items first when there are too many."""
    items = [
        Item(
            row.columns["source"],
            row.rater or "",
            row.columns["prompt"],
            answer_text(row.columns["completion"]) if row.columns["completion"] is not None else None,
            answer_text(row.columns["rejected"]) if row.columns["rejected"] is not None else None,
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
    report: Callable[[int, int], None] = lambda done, total: None,
) -> Evidence:
    """Ask both versions everything; the client bounds what is in flight."""
    errors: list[str] = []
    done = 0

    async def one(number: int, item: Item) -> Observation | None:
        nonlocal done
        try:
            return await observe(item, versions, client, seed=number)
        except EngineFailed as error:
            errors.append(str(error))
            return None
        finally:
            done += 1
            report(done, len(items))

    async with asyncio.TaskGroup() as tasks:
        asked = [tasks.create_task(one(number, item)) for number, item in enumerate(items)]
    observed = [task.result() for task in asked]
    return summarise([o for o in observed if o is not None], versions, errors)


async def observe(item: Item, versions: Versions, client: EngineClient, *, seed: int) -> Observation:
    """All requests for one item."""
    candidate = await client.answer(versions.candidate, item.prompt)
    champion = await client.answer(versions.champion, item.prompt)
    likelihood: dict[str, float] = {}
    if item.right is not None:
        ids = await client.answer_token_ids(item.prompt, champion.prompt_token_ids, item.right)
        positions = some_positions(len(ids), seed)
        for version in {versions.candidate, versions.champion} if ids else ():
            values = await client.log_probabilities(version, champion.prompt_token_ids, ids, positions)
            likelihood[version] = sum(values) / len(values)
    sampled = await client.answer(versions.candidate, item.prompt, temperature=1.0, seed=seed)
    divergence = await _divergence(sampled, versions.base, client, seed=seed)
    return Observation(item, candidate, champion, likelihood, divergence)


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


def summarise(observed: Sequence[Observation], versions: Versions, errors: Sequence[str]) -> Evidence:
    """Evidence from all observations. Pure."""
    both = {
        versions.candidate: [o.candidate for o in observed],
        versions.champion: [o.champion for o in observed],
    }
    pairs = [
        Pair(o.item.source, o.item.rater, score(o.champion, o.item), score(o.candidate, o.item))
        for o in observed
    ]
    disliked = [o for o in observed if o.item.wrong is not None]
    divergences = [o.divergence for o in observed if o.divergence is not None]
    return Evidence(
        candidate=versions.candidate,
        champion=versions.champion,
        items=len(observed),
        raters=len({o.item.rater for o in observed}),
        errors=len(errors),
        error_examples=tuple(sorted(set(errors))[:ERROR_EXAMPLES_MAX]),
        taught=tuple(pair for pair in pairs if pair.source != "approved"),
        retained=tuple(pair for pair in pairs if pair.source == "approved"),
        agreement=_agreement(observed, versions),
        disliked=len(disliked),
        disliked_by_champion=sum(still_says(o.champion.text, cast(str, o.item.wrong)) for o in disliked),
        disliked_by_candidate=sum(still_says(o.candidate.text, cast(str, o.item.wrong)) for o in disliked),
        kl_to_base=estimate(divergences) if divergences else Estimate(0, 0.0, 0.0, 0.0),
        length_ratio=_length_ratio(both[versions.candidate], both[versions.champion]),
        repetition_rate={name: _share(answers, lambda a: repeats(a.text)) for name, answers in both.items()},
        unfinished_rate={
            name: _share(answers, lambda a: a.finish_reason == "length") for name, answers in both.items()
        },
    )


def score(answer: Answer, item: Item) -> float:
    """How good an answer is, in [0, 1]."""
    if item.right is not None:
        return chrf(answer.text, item.right)
    broken = answer.finish_reason != "stop" or repeats(answer.text) or not answer.text.strip()
    return 0.0 if broken or still_says(answer.text, item.wrong or "") else 1.0


def chrf(answer: str, reference: str) -> float:
    """Character F-score, chrF2 as sacrebleu computes it (Popović 2015), in [0, 1], on normalised text."""
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF().sentence_score(normalised(answer), [normalised(reference)]).score) / 100


def still_says(answer: str, disliked: str) -> bool:
    """Whether an answer is, but for small changes, the disliked one."""
    return chrf(answer, disliked) >= STILL_SAYS


def token_f1(answer: str, reference: str) -> float:
    """Harmonic mean of word precision and recall (as in SQuAD), in [0, 1]."""
    given, wanted = normalised(answer).split(), normalised(reference).split()
    common = sum(min(given.count(word), wanted.count(word)) for word in set(wanted))
    return 2 * common / (len(given) + len(wanted)) if common else 0.0


def repeats(text: str) -> bool:
    """Whether fewer than half of a text's three-word sequences are different ones."""
    words = text.split()
    triples = [tuple(words[n : n + 3]) for n in range(len(words) - 2)]
    return len(words) >= REPEATS_WORDS_MIN and len(set(triples)) < REPEATS_DISTINCT_MAX * len(triples)


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
