"""Swapping versions under load drops nothing, and every answer names the version that produced it."""

import asyncio
from collections import Counter

import pytest
from openai import AsyncOpenAI
from openai.types.chat import ChatCompletion

from feedback import adapters, shipping
from feedback.adapters import Adapter
from tests.builders import PROJECT
from tests.loop.service import Service

REQUESTS = 500
CLIENTS = 16
SWAPS = 10
QUESTION = "How long may I return a lamp?"

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


async def ask(client: AsyncOpenAI, model: str) -> ChatCompletion:
    return await client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": QUESTION}],
        max_tokens=8,
        temperature=0,
        logprobs=True,
    )


def signature(answer: ChatCompletion) -> tuple[float, ...]:
    logprobs = answer.choices[0].logprobs
    assert logprobs is not None and logprobs.content is not None
    return tuple(round(token.logprob, 2) for token in logprobs.content)


async def test_500_requests_while_two_versions_are_swapped_10_times(
    tiny_service: Service, two_versions: tuple[Adapter, Adapter]
) -> None:
    expected: dict[str, tuple[float, ...]] = {}
    seen: Counter[str] = Counter()
    wrong: list[str] = []
    remaining = iter(range(REQUESTS))

    async with tiny_service.client(max_retries=0) as client:
        for version in ("support@0", *(one.name for one in two_versions)):
            expected[version] = signature(await ask(client, version))
        assert len(set(expected.values())) == 3

        async def keep_asking() -> None:
            for _ in remaining:
                answer = await ask(client, "support")
                seen[answer.model] += 1
                if not close(signature(answer), expected[answer.model]):
                    wrong.append(f"{answer.model}: {signature(answer)}")

        clients = [asyncio.create_task(keep_asking()) for _ in range(CLIENTS)]
        await swap_while(clients, tiny_service, two_versions, seen)
        await asyncio.gather(*clients)

    assert sum(seen.values()) == REQUESTS
    assert not wrong
    assert min(seen[one.name] for one in two_versions) > REQUESTS // 10


def close(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    # Batched and single answers differ in the last digits of float32 sums, never by as much as versions do.
    return len(one) == len(other) and all(abs(a - b) < 0.05 for a, b in zip(one, other, strict=True))


async def swap_while(
    clients: list["asyncio.Task[None]"],
    service: Service,
    versions: tuple[Adapter, Adapter],
    seen: Counter[str],
) -> None:
    """Ten promotions and rollbacks, spread evenly over the requests."""
    async with service.database() as database:
        for swap in range(SWAPS):
            while sum(seen.values()) < (swap + 0.5) * REQUESTS / SWAPS:
                await asyncio.sleep(0.01)
                assert not any(client.done() and client.exception() for client in clients)
            async with database.begin() as connection:
                now = await adapters.champion(connection, PROJECT, "support")
                following = versions[1] if now.version == versions[0].version else versions[0]
                following = await adapters.by_id(connection, following.adapter_id)
                if following.state == "approved":
                    await shipping.promote(connection, PROJECT, following.name, by="test", reason="swap")
                else:
                    await shipping.roll_back(connection, PROJECT, "support", to=following.name, by="test")
