"""Ask an engine the same fixed questions after every load, and compare what it computes with what it computed first.

The questions are lists of token ids, so that no tokenizer or template can change them. The fingerprint has, for each
token of each greedy answer, the likeliest tokens with their log-probabilities. A version's first fingerprint is
stored with it; later ones must agree within a tolerance, because batches and processors differ in their last digits.

A probe also tells whether the adapter takes part at all: vLLM serves the base model, without a word, under the name
of an adapter whose layers it does not recognise. What a probe cannot tell is whether the answers are any good.

Refuses to ask for log-probabilities of a prompt, which would compare more at once: with LoRA, vLLM 0.32 mixes up
adapters while it computes them beside other requests, and its CPU build dies of it (vllm-project/vllm#16668).
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

from serving.engine_api import EngineApi, EngineRefusal

PROMPTS = tuple(tuple(range(8, 8 + length)) for length in range(4, 33, 4))
"""Every vocabulary has these ids. What they mean does not matter. They never change, or no stored probe compares."""
STEPS = 4
ALTERNATIVES = 10
EDITION = 2
"""Changes with the questions or with what is kept of the answers: fingerprints of two editions do not compare."""

Step = tuple[tuple[int, float], ...]
"""The likeliest tokens at one place, each with its log-probability in nats; the chosen one first."""


class ProbeFailed(Exception):
    """The adapter must take no traffic on this engine; the message says what was seen."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a model computed: the steps of its greedy answer to each prompt."""

    answers: tuple[tuple[Step, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """For the record."""
        return {"edition": EDITION, "answers": self.answers}

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Fingerprint | None":
        """From the record; None if it is of another edition.

        Raises:
            ProbeFailed: what is stored is no fingerprint.
        """
        if stored.get("edition") != EDITION:
            return None
        try:
            return cls(
                tuple(
                    tuple(tuple((int(token), float(value)) for token, value in step) for step in answer)
                    for answer in stored["answers"]
                )
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ProbeFailed(
                f"Its stored fingerprint cannot be read ({error!r}), so it cannot be compared. Restore the record."
            ) from error


async def take_fingerprint(api: EngineApi, name: str) -> Fingerprint:
    """Ask the model that the engine serves as `name`.

    Raises:
        ProbeFailed: it computes no numbers.
        EngineUnavailable: the engine did not answer.
        EngineRefusal: the engine does not serve this name (404).
    """
    body = {
        "model": name,
        "prompt": PROMPTS,
        "max_tokens": STEPS,
        "temperature": 0,
        "ignore_eos": True,
        "logprobs": ALTERNATIVES,
        "return_tokens_as_token_ids": True,
    }
    try:
        answer = await api.complete(body)
    except EngineRefusal as refusal:
        if refusal.status == 404:
            raise
        # NaN cannot be written as JSON: vLLM answers 400.
        raise ProbeFailed(f"The engine could not answer the probe as '{name}': {refusal}") from refusal
    choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
    fingerprint = Fingerprint(tuple(tuple(read_steps(choice["logprobs"])) for choice in choices))
    if not all(math.isfinite(value) for steps in fingerprint.answers for step in steps for _, value in step):
        raise ProbeFailed(f"'{name}' computes log-probabilities that are not finite. Train it again.")
    return fingerprint


def read_steps(logprobs: Mapping[str, Any]) -> Iterator[Step]:
    """Take the numbers out of the `logprobs` of one choice of vLLM's text completion."""
    chosen, values, tops = logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"]
    for name, value, top in zip(chosen, values, tops, strict=True):
        others = ((_token_id(other), probability) for other, probability in top.items() if other != name)
        yield ((_token_id(name), value), *sorted(others, key=lambda token: (-token[1], token[0])))


def distance(one: Fingerprint, other: Fingerprint, *, tie_nats: float = 0.0) -> float:
    """Mean absolute difference of log-probabilities in nats, over the tokens that both found likely in one context.

    Two answers are compared up to the first token on which they part. If they part where one of them found the other's
    token less likely than its own by more than `tie_nats`, the distance is infinite.
    """
    differences = []
    for ours, theirs in zip_longest(one.answers, other.answers, fillvalue=()):
        for our_step, their_step in zip_longest(ours, theirs, fillvalue=()):
            known = dict(their_step)
            differences += [abs(value - known[token]) for token, value in our_step if token in known]
            if not our_step or not their_step or our_step[0][0] != their_step[0][0]:
                if not _is_tie(our_step, their_step, tie_nats):
                    return math.inf
                break
    return sum(differences) / len(differences) if differences else math.inf


def compare(stored: Fingerprint, seen: Fingerprint, *, tolerance_nats: float) -> None:
    """Check that an adapter computes what it computed when it was first loaded.

    Raises:
        ProbeFailed: it does not.
    """
    found = distance(stored, seen, tie_nats=4 * tolerance_nats)
    if found > tolerance_nats:
        how = (
            "chooses clearly other tokens than"
            if math.isinf(found)
            else f"differs by {found:.3g} nats per token from"
        )
        raise ProbeFailed(
            f"It {how} this version's first probe; at most {tolerance_nats:g} nats are allowed. The engine has other "
            "weights or another base model than then: compare its files with those published, and restart it."
        )


def check_takes_part(seen: Fingerprint, base_before: Fingerprint, base_after: Fingerprint) -> None:
    """Check that an adapter whose weights are not all zero answers otherwise than the base model.

    The base model is asked before and after, so that what its answers differ by from one time to the next is known.

    Raises:
        ProbeFailed: it answers as the base model does.
    """
    if _largest_first_difference(seen, base_before) <= _largest_first_difference(base_after, base_before):
        raise ProbeFailed(
            "It answers exactly as the base model although its weights are not zero: the engine ignores it. "
            "Train with the model class that is served, and with layers that the engine adapts."
        )


def _largest_first_difference(one: Fingerprint, other: Fingerprint) -> float:
    """Over first steps, whose contexts are the same whatever was chosen."""
    largest = 0.0
    for ours, theirs in zip(one.answers, other.answers, strict=True):
        our_step, known = dict(ours[0]), dict(theirs[0])
        if not our_step.keys() & known.keys():
            return math.inf
        largest = max(
            largest, *(abs(our_step[token] - known[token]) for token in our_step.keys() & known.keys())
        )
    return largest


def _is_tie(one: Step, other: Step, tie_nats: float) -> bool:
    """Whether each found the other's choice nearly as likely as its own."""
    if not one or not other:
        return False
    ours, theirs = dict(one), dict(other)
    gap = one[0][1] - ours.get(other[0][0], -math.inf)
    return max(gap, other[0][1] - theirs.get(one[0][0], -math.inf)) <= tie_nats


def _token_id(name: str) -> int:
    return int(name.removeprefix("token_id:"))
