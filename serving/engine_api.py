"""The few calls that manage an engine: is it well, what does it hold, load, unload, probe.

Not the request path: that relays bytes on connections of its own (`serving.engines`). Refuses to load in place, and
to load from anything but an absolute directory: vLLM takes another string for a hub name and downloads it while every
request waits.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import httpx

START_TIME = re.compile(r"^process_start_time_seconds (\S+)$", re.MULTILINE)


class EngineUnavailable(Exception):
    """The engine cannot be reached, does not answer in time, or says that it is dead."""


class EngineAsleep(EngineUnavailable):
    """The engine sleeps or is paused, so that something else may use its accelerator."""


class EngineRefusal(Exception):
    """The engine answered, and will not do it; the message is its own."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True)
class EngineState:
    """What an engine says of itself.

    `base_model` is what it was started with; `adapters` maps names to directories; `started_at` changes with every
    start of the process (seconds since 1970, None if the engine does not tell).
    """

    base_name: str
    base_model: str
    adapters: Mapping[str, str]
    started_at: float | None


class EngineApi:
    """One engine's management calls."""

    def __init__(self, url: str, *, api_key: str | None = None, timeout_seconds: float = 10.0) -> None:
        self.url = url
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        # Proxies of the environment are for the outside world, and engines are not there.
        self._http = httpx.AsyncClient(
            base_url=url, headers=headers, timeout=timeout_seconds, trust_env=False, follow_redirects=False
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def look(self) -> EngineState:
        """What the engine holds now.

        Raises:
            EngineAsleep: it sleeps; what it holds must be proven again once it is awake.
            EngineUnavailable: it cannot serve.
        """
        await self._get("/health")
        if await self._sleeps():
            raise EngineAsleep(f"{self.url} sleeps while a run trains on its accelerator.")
        served = (await self._get("/v1/models")).json()["data"]
        base = next((model for model in served if model.get("parent") is None), None)
        if base is None:
            raise EngineUnavailable(
                f"{self.url} lists no base model at /v1/models; expected vLLM's OpenAI server."
            )
        started = START_TIME.search((await self._get("/metrics")).text)
        return EngineState(
            base_name=base["id"],
            base_model=base["root"],
            adapters={model["id"]: model["root"] for model in served if model.get("parent") is not None},
            started_at=float(started[1]) if started else None,
        )

    async def _sleeps(self) -> bool:
        try:
            return (await self._get("/is_sleeping")).json().get("is_sleeping") is True
        except (EngineRefusal, ValueError):  # Only engines that can sleep have this path.
            return False

    async def load(self, name: str, directory: Path, *, timeout_seconds: float = 120.0) -> None:
        """Load an adapter under a name never used before.

        Raises:
            EngineRefusal: the engine will not have it.
            EngineUnavailable: it did not answer.
        """
        assert directory.is_absolute(), directory
        body = {"lora_name": name, "lora_path": str(directory)}
        await self._post("/v1/load_lora_adapter", body, timeout_seconds)

    async def unload(self, name: str) -> None:
        """Take an adapter off the engine's list; answers under way finish on it.

        Raises:
            EngineRefusal: the engine does not list it.
            EngineUnavailable: it did not answer.
        """
        await self._post("/v1/unload_lora_adapter", {"lora_name": name})

    async def complete(self, body: Mapping[str, Any], *, timeout_seconds: float = 120.0) -> dict[str, Any]:
        """One whole text completion, as the engine gives it.

        Raises:
            EngineRefusal: it answered with an error.
            EngineUnavailable: it did not answer.
        """
        answer: dict[str, Any] = (await self._post("/v1/completions", body, timeout_seconds)).json()
        return answer

    async def _get(self, path: str) -> httpx.Response:
        return self._accept(await self._send("GET", path))

    async def _post(
        self, path: str, body: Mapping[str, Any], timeout_seconds: float | None = None
    ) -> httpx.Response:
        return self._accept(await self._send("POST", path, body, timeout_seconds))

    async def _send(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        timeout_seconds: float | None = None,
    ) -> httpx.Response:
        timeout = (
            httpx.USE_CLIENT_DEFAULT
            if timeout_seconds is None
            else httpx.Timeout(timeout_seconds, connect=5.0)
        )
        try:
            return await self._http.request(method, path, json=body, timeout=timeout)
        except httpx.TimeoutException as error:
            raise EngineUnavailable(f"{self.url}{path} did not answer in time.") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise EngineUnavailable(
                f"{self.url} cannot be reached: {str(error) or type(error).__name__}."
            ) from error

    def _accept(self, response: httpx.Response) -> httpx.Response:
        if response.is_success:
            return response
        message = _message_of(response)
        if response.status_code == 503 or "EngineCore" in message:
            raise EngineUnavailable(f"{self.url} says {response.status_code}: {message}")
        raise EngineRefusal(response.status_code, message)


def _message_of(response: httpx.Response) -> str:
    """The engine's words: vLLM nests them in `error`, FastAPI puts them in `detail`, `/health` says nothing."""
    try:
        body = response.json()
    except ValueError:
        return response.text[:500] or response.reason_phrase
    found = body.get("error", body.get("detail", body)) if isinstance(body, dict) else body
    return str(found.get("message", found) if isinstance(found, dict) else found)
