"""Swapping versions under load drops nothing, and every answer names the version that produced it."""

import asyncio
import itertools
from collections import Counter
from pathlib import Path

import pytest

from feedback import adapters, shipping
from feedback.adapters import Adapter
from serving.settings import ServingSettings
from tests.builders import PROJECT
from tests.loop.conftest import enter_ready
from tests.loop.service import Service
from tests.loop.told_apart import Computed, agree, ask, clearly_differ

REQUESTS = 500
CLIENTS = 16
SWAPS = 10

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


async def test_500_requests_while_two_versions_are_swapped_10_times(
    tiny_service: Service, two_versions: tuple[Adapter, Adapter]
) -> None:
    expected: dict[str, Computed] = {}
    seen: Counter[str] = Counter()
    wrong: list[str] = []
    remaining = iter(range(REQUESTS))

    async with tiny_service.client(max_retries=0) as client:
        for version in ("support@0", *(one.name for one in two_versions)):
            expected[version] = Computed.of(await ask(client, version))
        for one, other in itertools.combinations(expected, 2):
            assert clearly_differ(expected[one], expected[other]), (
                f"{one}: {expected[one]}\n{other}: {expected[other]}"
            )

        async def keep_asking() -> None:
            for number in remaining:
                answer = await ask(client, "support", rater=f"customer-{number}")
                seen[answer.model] += 1
                computed = Computed.of(answer)
                if not agree(computed, expected[answer.model]):
                    wrong.append(f"{answer.model}\n expected {expected[answer.model]}\n seen     {computed}")

        clients = [asyncio.create_task(keep_asking()) for _ in range(CLIENTS)]
        await swap_while(clients, tiny_service, two_versions, seen)
        await asyncio.gather(*clients)

    assert sum(seen.values()) == REQUESTS
    assert not wrong, f"{len(wrong)} of {REQUESTS} answers were computed by another version:\n" + "\n".join(
        wrong[:5]
    )
    assert min(seen[one.name] for one in two_versions) > REQUESTS // 10


async def test_the_base_model_answers_alike_beside_as_many_adapters_as_the_engine_has_slots(
    tiny_service: Service, tiny_base: Path
) -> None:
    slots = ServingSettings().engine_max_loras
    every = await enter_ready(tiny_service, tiny_base, *range(21, 21 + slots))
    async with tiny_service.client(max_retries=0) as client:
        alone = Computed.of(await ask(client, "support@0"))
        beside = await asyncio.gather(
            *(
                ask(client, name, rater=f"customer-{number}")
                for number in range(10)
                for name in ("support@0", *(one.name for one in every))
            )
        )
    answers = [Computed.of(answer) for answer in beside if answer.model == "support@0"]
    assert len(answers) == 10
    for answer in answers:
        assert agree(answer, alone), f"alone  {alone}\nbeside {answer}"


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
