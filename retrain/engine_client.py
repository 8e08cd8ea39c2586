"""Ask an engine directly, as evaluation needs it: whole answers with token ids, and log-probabilities of given ones.

Speaks vLLM's OpenAI endpoints over HTTP. An answer that the engine refuses or breaks off raises `EngineFailed` with
the engine's own words; nothing is retried, since a failure is part of what an evaluation measures.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import httpx
from pydantic import SecretStr

from feedback.errors import HoneError
from retrain.prompts import Prompt, answer_column


class EngineFailed(HoneError):
    """The engine did not answer an evaluation request."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One whole answer."""

    text: str
    finish_reason: str
    prompt_token_ids: list[int]
    token_ids: list[int]
    log_probabilities: list[float]
    seconds: float = 0.0
    """From sending the request to having the whole answer."""


class EngineClient:
    """A client of one engine replica."""

    def __init__(
        self,
        url: str,
        *,
        timeout_seconds: float,
        answer_tokens_max: int,
        concurrency: int = 8,
        api_key: SecretStr | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.url = url.rstrip("/")
        self.answer_tokens_max = answer_tokens_max
        self._room = asyncio.Semaphore(concurrency)
        # Keep-alive shorter than the engine's: reusing a connection that it just closed loses the request.
        limits = httpx.Limits(keepalive_expiry=2.0)
        headers = {"Authorization": f"Bearer {api_key.get_secret_value()}"} if api_key else {}
        # Proxies of the environment are for the outside world, and engines are not there.
        self._client = httpx.AsyncClient(
            timeout=timeout_seconds, limits=limits, headers=headers, trust_env=False, transport=transport
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def answer(self, model: str, prompt: Prompt, *, temperature: float = 0.0, seed: int = 0) -> Answer:
        """Generate a whole answer."""
        body: dict[str, Any] = {
            "model": model,
            "temperature": temperature,
            "seed": seed,
            "max_tokens": self.answer_tokens_max,
            "return_token_ids": True,
        }
        if isinstance(prompt, str):
            path, asked = "/v1/completions", body | {"prompt": prompt, "logprobs": 0}
        else:
            path, asked = "/v1/chat/completions", body | {"messages": prompt, "logprobs": True}
        async with self._room:
            began = time.perf_counter()
            reply = await self._generate(path, asked)
            seconds = time.perf_counter() - began
        with _understanding(reply):
            return replace(_answer(reply), seconds=seconds)

    async def log_probabilities(
        self, model: str, prompt_ids: Sequence[int], answer_ids: Sequence[int], positions: Sequence[int]
    ) -> list[float]:
        """Log-probability in nats of the answer's tokens at `positions`, each after all that comes before it.

        The engine is made to generate that one token and tells how likely it was before it was made to.
        """
        return list(
            await asyncio.gather(
                *(
                    self._log_probability(model, [*prompt_ids, *answer_ids[:position]], answer_ids[position])
                    for position in positions
                )
            )
        )

    async def _log_probability(self, model: str, prefix: list[int], token: int) -> float:
        # Not prompt_logprobs: where LoRA is on and other requests share the step, vLLM 0.32 reads beyond its adapter
        # mapping for them, and on a CPU the whole engine dies of it (vllm-project/vllm#16668).
        body = {
            "model": model,
            "prompt": prefix,
            "max_tokens": 1,
            "temperature": 0.0,
            "allowed_token_ids": [token],
            "logprobs": 0,
        }
        async with self._room:
            reply = await self._post("/v1/completions", body)
        with _understanding(reply):
            return float(reply["choices"][0]["logprobs"]["token_logprobs"][0])

    async def answer_token_ids(self, prompt: Prompt, prompt_ids: list[int], answer: str) -> list[int]:
        """The tokens that training would see for `answer`: what follows the prompt in the rendered whole."""
        if isinstance(prompt, str):
            whole: dict[str, Any] = {"prompt": prompt + answer}
        else:
            whole = {"messages": [*prompt, *answer_column(prompt, answer)], "add_generation_prompt": False}
        ids = await self._tokenize(whole)
        start = next(
            (n for n, (a, b) in enumerate(zip(prompt_ids, ids, strict=False)) if a != b), len(prompt_ids)
        )
        return ids[start:]

    async def token_ids(self, text: str) -> list[int]:
        """The tokens of a plain text."""
        return await self._tokenize({"prompt": text})

    async def _tokenize(self, body: dict[str, Any]) -> list[int]:
        async with self._room:
            reply = await self._post("/tokenize", body)
        with _understanding(reply):
            ids: list[int] = reply["tokens"]
        return ids

    async def _generate(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            return await self._post(path, body)
        except _Refused:
            # The prompt leaves less room than asked for: without a limit, the engine uses what is left.
            return await self._post(
                path, {name: value for name, value in body.items() if name != "max_tokens"}
            )

    async def _post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        try:
            response = await self._client.post(self.url + path, json=body)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise EngineFailed(f"The engine {self.url} did not answer {path}: {error!r}.") from error
        if response.status_code != 200:
            failure = _Refused if response.status_code == 400 else EngineFailed
            raise failure(
                f"The engine {self.url} answered {path} with {response.status_code}: {response.text[:300]}"
            )
        try:
            return dict(response.json())
        except (ValueError, TypeError) as error:
            raise EngineFailed(
                f"The engine {self.url} answered {path} with no JSON object: {response.text[:300]}"
            ) from error


class _Refused(EngineFailed):
    """The engine found the request itself at fault."""


def _answer(reply: dict[str, Any]) -> Answer:
    choice = reply["choices"][0]
    if choice["finish_reason"] not in ("stop", "length"):
        raise EngineFailed(
            f"The engine ended an answer of '{reply['model']}' with '{choice['finish_reason']}'."
        )
    if "message" in choice:
        text, prompt_ids = choice["message"]["content"] or "", reply["prompt_token_ids"]
        values = [token["logprob"] for token in choice["logprobs"]["content"]]
    else:
        text, prompt_ids, values = (
            choice["text"],
            choice["prompt_token_ids"],
            choice["logprobs"]["token_logprobs"],
        )
    # PostgreSQL keeps no NUL in a text, and a model may well say one.
    storable = text.replace("\x00", "\ufffd")
    return Answer(storable, choice["finish_reason"], prompt_ids, choice["token_ids"], values)


@contextmanager
def _understanding(reply: dict[str, Any]) -> Iterator[None]:
    try:
        yield
    except (KeyError, IndexError, TypeError, ValueError) as error:
        if isinstance(error, EngineFailed):
            raise
        raise EngineFailed(f"The engine's reply is not vLLM's ({error!r}): {str(reply)[:300]}") from error
