"""Ask an engine the same fixed question after every load, and compare what it computes with what it computed first.

The question is a list of token ids, so that no tokenizer or template can change it. The fingerprint has the
log-probability of every token of the question under the model (one pass), and the greedy answer with
its most likely alternatives (step by step). A version's first fingerprint is stored with it; later ones must agree
within a tolerance, because batches and processors differ in their last digits.

A probe also tells whether the adapter takes part at all: vLLM serves the base model, without a word, under the name
of an adapter whose layers it does not recognise. What a probe cannot tell is whether the answers are any good.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from serving.engine_api import EngineApi, EngineRefusal

PROMPT = tuple(range(8, 40))
"""Every vocabulary has these ids. What they mean does not matter; it must never change, or no stored probe compares."""
STEPS = 8
ALTERNATIVES = 5


class ProbeFailed(Exception):
    """The adapter must take no traffic on this engine; the message says what was seen."""


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What a model computed. Log-probabilities are natural, in nats.

    `prompt` has one value for each token of the question but the first; `steps` has, for each token of the greedy
    answer, the most likely tokens with the chosen one first.
    """

    prompt: tuple[float, ...]
    steps: tuple[tuple[tuple[int, float], ...], ...]

    def to_json(self) -> dict[str, Any]:
        """For the record."""
        return {
            "prompt": list(self.prompt),
            "steps": [[list(token) for token in step] for step in self.steps],
        }

    @classmethod
    def from_json(cls, stored: Mapping[str, Any]) -> "Fingerprint":
        """From the record."""
        steps = tuple(tuple((int(token), float(value)) for token, value in step) for step in stored["steps"])
        return cls(tuple(float(value) for value in stored["prompt"]), steps)


async def take_fingerprint(api: EngineApi, name: str) -> Fingerprint:
    """Ask the model that the engine serves as `name`.

    Raises:
        ProbeFailed: it computes no numbers.
        EngineUnavailable: the engine did not answer.
        EngineRefusal: the engine does not serve this name (404).
    """
    body = {
        "model": name,
        "prompt": list(PROMPT),
        "max_tokens": STEPS,
        "temperature": 0,
        "ignore_eos": True,
        "logprobs": ALTERNATIVES,
        "prompt_logprobs": 0,
        "return_tokens_as_token_ids": True,
    }
    try:
        answer = await api.complete(body)
    except EngineRefusal as refusal:
        if refusal.status == 404:
            raise
        # NaN cannot be written as JSON: vLLM answers 400.
        raise ProbeFailed(f"The engine could not answer the probe as '{name}': {refusal}") from refusal
    fingerprint = read_fingerprint(answer["choices"][0])
    values = [*fingerprint.prompt, *(value for step in fingerprint.steps for _, value in step)]
    if not all(math.isfinite(value) for value in values):
        raise ProbeFailed(f"'{name}' computes log-probabilities that are not finite. Train it again.")
    return fingerprint


def read_fingerprint(choice: Mapping[str, Any]) -> Fingerprint:
    """Take the numbers out of one choice of vLLM's text completion."""
    prompt = [
        position[str(token)]["logprob"]
        for token, position in zip(PROMPT, choice["prompt_logprobs"], strict=True)
        if position is not None
    ]
    logprobs = choice["logprobs"]
    steps = []
    for chosen, value, top in zip(
        logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"], strict=True
    ):
        others = [(_token_id(name), other) for name, other in top.items() if name != chosen]
        steps.append(((_token_id(chosen), value), *sorted(others, key=lambda token: -token[1])))
    return Fingerprint(tuple(prompt), tuple(steps))


def distance(one: Fingerprint, other: Fingerprint, *, tie_nats: float = 0.0) -> float:
    """Mean absolute difference of log-probabilities, over what both computed for the same context.

    The answers are compared up to the first token on which they part. If they part although one of them found the
    other's token less likely by more than `tie_nats`, or did not find it among the likeliest, the distance is infinite.
    """
    differences = [abs(a - b) for a, b in zip(one.prompt, other.prompt, strict=True)]
    for ours, theirs in zip(one.steps, other.steps, strict=True):
        known = dict(theirs)
        differences += [abs(value - known[token]) for token, value in ours if token in known]
        if ours[0][0] != theirs[0][0]:
            if not (_is_tie(ours, theirs[0][0], tie_nats) and _is_tie(theirs, ours[0][0], tie_nats)):
                return math.inf
            break
    return sum(differences) / len(differences)


def compare(stored: Fingerprint, seen: Fingerprint, *, tolerance_nats: float) -> None:
    """Check that an adapter computes what it computed when it was first loaded.

    Raises:
        ProbeFailed: it does not.
    """
    found = distance(stored, seen, tie_nats=4 * tolerance_nats)
    if found > tolerance_nats:
        raise ProbeFailed(
            f"The probe differs from this version's first one by {found:.3g} nats per token; at most "
            f"{tolerance_nats:g} is allowed. The engine has other weights or another base model than then: "
            "compare its files with those published, and restart it."
        )


def check_takes_part(seen: Fingerprint, base_before: Fingerprint, base_after: Fingerprint) -> None:
    """Check that an adapter whose weights are not all zero answers otherwise than the base model.

    The base model is asked before and after, so that what its answers differ by from one time to the next is known.

    Raises:
        ProbeFailed: it answers as the base model does.
    """
    noise = _largest_difference(base_before, base_after)
    if _largest_difference(seen, base_before) <= noise:
        raise ProbeFailed(
            "It answers exactly as the base model although its weights are not zero: the engine ignores it. "
            "Train with the model class that is served, and with layers that the engine adapts."
        )


def _largest_difference(one: Fingerprint, other: Fingerprint) -> float:
    return max(abs(a - b) for a, b in zip(one.prompt, other.prompt, strict=True))


def _is_tie(step: Sequence[tuple[int, float]], token: int, tie_nats: float) -> bool:
    return any(other == token and step[0][1] - value <= tie_nats for other, value in step)


def _token_id(name: str) -> int:
    return int(name.removeprefix("token_id:"))
