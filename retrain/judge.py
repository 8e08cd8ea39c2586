"""Ask a judging model which of two answers is better, in both orders, and correct its taste for length.

Any OpenAI-compatible endpoint can judge. A win counts only where both orders agree; anything else is a tie. The share
of wins at equal length comes from a logistic regression on the difference in length, as AlpacaEval 2 does it (Dubois
et al. 2024). A judge that fails is counted and leaves its comparison out: it never decides by being silent.

What it says is evidence beside people's ratings. The gate treats it as such: it may hold a candidate back, and it
never promotes one.
"""

import asyncio
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import httpx
from pydantic import SecretStr

from feedback.errors import HoneError
from retrain.evidence import JudgeResult, estimate
from retrain.prompts import Prompt, prompt_text

INSTRUCTION = (
    "You compare two answers to the same request. Judge whether they are correct, do what was asked, and are clear. "
    "Ignore their order and their length. Reply with one letter and nothing else: A, B, or T if neither is better."
)


class JudgeFailed(HoneError):
    """The judging model did not answer, or not with a verdict."""


@dataclass(frozen=True, slots=True)
class Judged:
    """One comparison of a candidate's answer with a champion's."""

    verdict: float
    """1: the candidate won in both orders, 0: the champion did, 0.5: neither."""
    longer_by: float
    """Characters by which the candidate's answer is longer."""


class Judge:
    """A client of one judging model."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        api_key: SecretStr | None = None,
        timeout_seconds: float = 120.0,
        concurrency: int = 4,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.model = model
        self._room = asyncio.Semaphore(concurrency)
        headers = {"Authorization": f"Bearer {api_key.get_secret_value()}"} if api_key else {}
        self._client = httpx.AsyncClient(timeout=timeout_seconds, headers=headers, transport=transport)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def ask(self, messages: list[dict[str, str]], *, model: str | None = None) -> str:
        """The text of one answer.

        Raises:
            JudgeFailed: the endpoint cannot be reached, refuses, or answers with something else.
        """
        body = {"model": model or self.model, "messages": messages, "temperature": 0}
        try:
            async with self._room:
                response = await self._client.post(f"{self.url}/chat/completions", json=body)
            if response.status_code != 200:
                raise JudgeFailed(
                    f"The judging model at {self.url} answered {response.status_code}: {response.text[:200]}"
                )
            return str(response.json()["choices"][0]["message"]["content"] or "")
        except (httpx.HTTPError, httpx.InvalidURL, ValueError, KeyError, IndexError, TypeError) as error:
            if isinstance(error, JudgeFailed):
                raise
            raise JudgeFailed(f"The judging model at {self.url} gave no answer: {error!r}.") from error

    async def compare(self, prompt: Prompt, candidate: str, champion: str) -> Judged:
        """Compare two answers in both orders.

        Raises:
            JudgeFailed: one of the orders got no verdict.
        """
        longer_by = float(len(candidate) - len(champion))
        if candidate == champion:
            return Judged(0.5, longer_by)
        first, second = await asyncio.gather(
            self._prefers(prompt, candidate, champion), self._prefers(prompt, champion, candidate)
        )
        verdicts = {("A", "B"): 1.0, ("B", "A"): 0.0}
        return Judged(verdicts.get((first, second), 0.5), longer_by)

    async def _prefers(self, prompt: Prompt, a: str, b: str) -> str:
        shown = f"# Request\n{prompt_text(prompt)}\n\n# Answer A\n{a}\n\n# Answer B\n{b}"
        said = await self.ask(
            [{"role": "system", "content": INSTRUCTION}, {"role": "user", "content": shown}]
        )
        letters = re.findall(r"\b[ABT]\b", said)
        if not letters:
            raise JudgeFailed(f"The judging model '{self.model}' answered '{said[:100]}', not A, B or T.")
        return str(letters[-1])


def summarise_judged(model: str, judged: Sequence[Judged], errors: int) -> JudgeResult:
    """Wins, losses, ties and the win rate at equal length. Pure."""
    wins = sum(one.verdict == 1.0 for one in judged)
    losses = sum(one.verdict == 0.0 for one in judged)
    n = len(judged)
    mean = sum(one.verdict for one in judged) / n if n else None
    return JudgeResult(
        model=model,
        wins=wins,
        losses=losses,
        ties=n - wins - losses,
        errors=errors,
        win_rate=mean,
        length_controlled_win_rate=length_controlled(judged),
        low=estimate([one.verdict for one in judged]).low if n > 1 else None,
    )


def length_controlled(judged: Sequence[Judged]) -> float | None:
    """The win rate that a logistic regression predicts at equal lengths; None where it cannot be told.

    Win ~ intercept + slope * tanh(difference / its standard deviation), ties as half a win, slope with a small
    ridge so that separable data has a finite solution; fitted by Newton's method.
    """
    if len(judged) < 2:
        return None
    differences = [one.longer_by for one in judged]
    spread = math.sqrt(sum(d * d for d in differences) / len(differences))
    x = [math.tanh(d / spread) if spread else 0.0 for d in differences]
    intercept = slope = 0.0
    ridge = 0.1
    for _ in range(50):
        p = [1 / (1 + math.exp(-max(-30.0, min(30.0, intercept + slope * value)))) for value in x]
        weights = [value * (1 - value) for value in p]
        residuals = [one.verdict - value for one, value in zip(judged, p, strict=True)]
        g0 = sum(residuals) - ridge * intercept
        g1 = sum(r * v for r, v in zip(residuals, x, strict=True)) - ridge * slope
        h00 = sum(weights) + ridge
        h01 = sum(w * v for w, v in zip(weights, x, strict=True))
        h11 = sum(w * v * v for w, v in zip(weights, x, strict=True)) + ridge
        determinant = h00 * h11 - h01 * h01
        step0, step1 = (h11 * g0 - h01 * g1) / determinant, (h00 * g1 - h01 * g0) / determinant
        intercept, slope = intercept + step0, slope + step1
        if abs(step0) + abs(step1) < 1e-9:
            break
    return 1 / (1 + math.exp(-intercept))
