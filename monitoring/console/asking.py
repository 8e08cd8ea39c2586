"""Ask a version something for an operator: through the gateway as an application would, or at the engine itself.

Through the gateway an answer is recorded under the console's own key and the operator's name, may be rated, and may be
trained on only if they said so. It names a version, so it falls into no experiment. At the engine nothing is recorded:
that is for questions that are somebody else's words already in the record, and for looking only.

Nothing is asked twice. What goes wrong is told in the words of whoever refused.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from typing import Any

import httpx
import orjson
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import adapters, engines
from feedback.adapters import Adapter
from feedback.errors import HoneError
from feedback.ids import new_hex

ANSWER_SECONDS = 120.0
ANSWER_TOKENS_MAX = 512
UNKNOWN_KEY_TRIES = 10
UNKNOWN_KEY_SECONDS = 0.3
"""A gateway hears of a new key within a second or two."""

Messages = Sequence[dict[str, Any]]


class NoAnswer(HoneError):
    """Nobody answered; the message says who was asked and what they said."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Something new in an answer: a text, and the completion's id as soon as it is known."""

    text: str = ""
    completion_id: str = ""


class Asker:
    """Holds the console's connections to the gateway and the engines."""

    def __init__(self, gateway_url: str, engine_api_key: SecretStr | None) -> None:
        self.gateway_url = gateway_url.rstrip("/")
        # Proxies of the environment are for the outside world, and these are not there.
        self._gateway = httpx.AsyncClient(timeout=ANSWER_SECONDS, trust_env=False)
        headers = {"authorization": f"Bearer {engine_api_key.get_secret_value()}"} if engine_api_key else {}
        self._engines = httpx.AsyncClient(timeout=ANSWER_SECONDS, trust_env=False, headers=headers)

    async def close(self) -> None:
        """Let the connections go."""
        await self._gateway.aclose()
        await self._engines.aclose()

    async def stream(
        self, key: str, version: str, messages: Messages, *, session: str, operator: str, consent: bool
    ) -> AsyncGenerator[Piece, None]:
        """Ask the gateway for an answer of `version` and pass it on as it comes.

        Raises:
            NoAnswer: the gateway is away, refuses, or breaks off.
        """
        body = {
            "model": version,
            "messages": list(messages),
            "stream": True,
            "store": consent,
            "safety_identifier": f"operator:{operator}",
            "metadata": {"asked_in": "console", "operator": operator},
        }
        headers = {"authorization": f"Bearer {key}", "x-hone-session-id": session}
        url = f"{self.gateway_url}/v1/chat/completions"
        try:
            for left in range(UNKNOWN_KEY_TRIES, -1, -1):
                async with self._gateway.stream("POST", url, json=body, headers=headers) as answer:
                    if answer.status_code == 401 and left:
                        await asyncio.sleep(UNKNOWN_KEY_SECONDS)
                        continue
                    if answer.status_code != 200:
                        raise NoAnswer(_refusal(await answer.aread(), answer.status_code))
                    yield Piece(completion_id=answer.headers.get("x-hone-request-id", ""))
                    async for line in answer.aiter_lines():
                        if text := _text_of(line):
                            yield Piece(text)
                    return
        except httpx.HTTPError as error:
            raise NoAnswer(
                f"The gateway at {self.gateway_url} does not answer ({type(error).__name__}). Is it running? The "
                "setting `console_gateway_url` says where it is."
            ) from error

    async def rate(self, key: str, completion_id: str, value: bool, *, operator: str) -> None:
        """Give an answer a thumb, as the operator.

        Raises:
            NoAnswer: the gateway is away or refuses.
        """
        body = {"completion_id": completion_id, "value": value, "rater_id": f"operator:{operator}"}
        try:
            answer = await self._gateway.post(
                f"{self.gateway_url}/v1/feedback", json=body, headers={"authorization": f"Bearer {key}"}
            )
        except httpx.HTTPError as error:
            raise NoAnswer(
                f"The gateway at {self.gateway_url} does not answer, so the thumb is not kept. Give it again later."
            ) from error
        if answer.status_code >= 300:
            raise NoAnswer(_refusal(answer.content, answer.status_code))

    async def at_engine(self, url: str, version: Adapter, messages: Messages) -> str:
        """What `version` answers on this engine, at temperature 0 and without a trace in the record.

        Raises:
            NoAnswer: the engine is away or refuses.
        """
        body = {
            "model": version.engine_name,
            "messages": list(messages),
            "temperature": 0.0,
            "seed": 0,
            "max_tokens": ANSWER_TOKENS_MAX,
        }
        try:
            answer = await self._engines.post(
                f"{url.rstrip('/')}/v1/chat/completions", json=body, headers={"x-request-id": new_hex()}
            )
            if answer.status_code != 200:
                raise NoAnswer(_refusal(answer.content, answer.status_code))
            return str(answer.json()["choices"][0]["message"]["content"] or "")
        except (httpx.HTTPError, ValueError, LookupError, TypeError) as error:
            raise NoAnswer(
                f"The engine {url} gave {version.name} no answer ({type(error).__name__}). The console must reach "
                "the engines itself for this; `hone doctor` says how they are."
            ) from error


async def engine_for(connection: AsyncConnection, version: Adapter) -> str | None:
    """A healthy engine on which this version may answer; None where there is none."""
    if version.version:
        holding = await engines.holders(connection, version.adapter_id)
        return holding[0] if holding else None
    every = await engines.every(connection)
    return next((one.engine for one in every if one.healthy and one.base_model == version.base_model), None)


async def held(connection: AsyncConnection, versions: Sequence[Adapter]) -> set[str]:
    """The names of those versions that some engine is ready for."""
    ready = {one.adapter_id for one in await engines.ready(connection)}
    bases = {one.base_model for one in await engines.every(connection) if one.healthy}
    return {
        one.name
        for one in versions
        if one.adapter_id in ready or (one.version == 0 and one.base_model in bases)
    }


async def version_named(connection: AsyncConnection, project: str, model: str, name: str) -> Adapter:
    """A version of `model` that somebody chose.

    Raises:
        HoneError: it is another model's.
    """
    found = await adapters.get(connection, project, name)
    if found.model != model:
        raise HoneError(f"{name} is a version of '{found.model}', expected one of '{model}'.")
    return found


def _text_of(line: str) -> str:
    """The new text in one line of an event stream.

    Raises:
        NoAnswer: the line tells of an error.
    """
    data = line.removeprefix("data:").strip()
    if not line.startswith("data:") or data == "[DONE]":
        return ""
    try:
        chunk = orjson.loads(data)
    except orjson.JSONDecodeError:
        return ""
    if not isinstance(chunk, dict):
        return ""
    if chunk.get("error"):
        raise NoAnswer(_said(chunk))
    choices = chunk.get("choices") or [{}]
    return str((choices[0].get("delta") or {}).get("content") or "")


def _refusal(body: bytes, status: int) -> str:
    try:
        return _said(orjson.loads(body))
    except orjson.JSONDecodeError:
        return f"The answer was {status}: {body[:200].decode('utf-8', 'replace')}"


def _said(body: Any) -> str:
    error = body.get("error") if isinstance(body, dict) else None
    message = error.get("message") if isinstance(error, dict) else None
    return str(message or f"It was refused: {str(body)[:200]}")
