"""Let the engines sleep while a run trains on their accelerator, and wake them again, whatever happened.

vLLM's sleep at level 1 moves the weights to the machine's memory and drops the cache; it needs engines that were
started with `--enable-sleep-mode` and `VLLM_SERVER_DEV_MODE=1`. Requests under way are answered before an engine
sleeps. Gateways see that it sleeps, send nothing there, and probe every version anew once it is awake. An engine that
cannot sleep stays awake, and the run is trained beside it.

Sleeping is downtime for whoever has no other engine. With several, a part of them should not be in the same record.
"""

from collections.abc import Iterable

import httpx
import structlog
from pydantic import SecretStr

DRAIN_TIMEOUT_SECONDS = 120.0

log = structlog.get_logger(__name__)


async def put_to_sleep(urls: Iterable[str], api_key: SecretStr | None) -> list[str]:
    """Put engines to sleep; returns those that are asleep now."""
    asleep = []
    async with _client(api_key) as client:
        for url in urls:
            # Sleeping alone ends answers under way.
            if await _post(client, f"{url}/pause?mode=wait") and await _post(client, f"{url}/sleep?level=1"):
                asleep.append(url)
    return asleep


async def wake(urls: Iterable[str], api_key: SecretStr | None) -> list[str]:
    """Wake the engines among these that sleep or are paused; returns them. Safe to repeat."""
    woken = []
    async with _client(api_key) as client:
        for url in urls:
            if not await _sleeps(client, url):
                continue
            if await _post(client, f"{url}/wake_up") and await _post(client, f"{url}/resume"):
                woken.append(url)
    return woken


def _client(api_key: SecretStr | None) -> httpx.AsyncClient:
    headers = {"authorization": f"Bearer {api_key.get_secret_value()}"} if api_key else {}
    return httpx.AsyncClient(headers=headers, timeout=DRAIN_TIMEOUT_SECONDS, trust_env=False)


async def _sleeps(client: httpx.AsyncClient, url: str) -> bool:
    try:
        reply = await client.get(f"{url}/is_sleeping")
        return reply.is_success and reply.json().get("is_sleeping") is True
    except (httpx.HTTPError, httpx.InvalidURL, ValueError):
        return False


async def _post(client: httpx.AsyncClient, url: str) -> bool:
    try:
        reply = await client.post(url)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        log.warning("engine did not do it", url=url, error=str(error) or type(error).__name__)
        return False
    if not reply.is_success:
        log.warning("engine did not do it", url=url, status=reply.status_code, said=reply.text[:200])
    return reply.is_success
