"""A worse adapter in a 10% canary, under load: it takes itself back, no request fails, and a page says why."""

import asyncio
import itertools
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI

from feedback.adapters import Adapter
from tests.loop.conftest import enter, wait_until_ready
from tests.loop.service import Service
from tests.loop.told_apart import Computed, agree, ask, clearly_differ

CLIENTS = 12
TURNS = 3
QUESTIONS = ("How long may I return a lamp?", "Where is my parcel?", "Do you sell kettles?")
POLICY = {"rollout": {"steps": [0.1], "step_seconds_min": 0}}

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]


@dataclass
class Talk:
    """What the raters met, in order, and what went wrong."""

    expected: dict[str, Computed]
    met: dict[str, list[str]] = field(default_factory=lambda: defaultdict(list))
    failures: list[str] = field(default_factory=list)
    answered: int = 0
    numbers: "itertools.count[int]" = field(default_factory=itertools.count)


async def test_a_worse_adapter_in_a_canary_takes_itself_back(tiny_service: Service, tiny_base: Path) -> None:
    async with tiny_service.client(max_retries=0, timeout=60) as people, admin(tiny_service) as operator:
        champion = (await get(operator, "/admin/v1/models/support"))["champion"]
        worse = await publish(tiny_service, tiny_base)
        talk = Talk({text: Computed.of(await ask(people, champion, text)) for text in QUESTIONS})
        for text in QUESTIONS:
            answer = Computed.of(await ask(people, worse.name, text))
            assert clearly_differ(answer, talk.expected[text]), f"{answer}\n{talk.expected[text]}"

        changed = await operator.patch("/admin/v1/models/support/policy", json=POLICY)
        assert changed.status_code == 200, changed.text
        started = await operator.post(f"/admin/v1/adapters/{worse.name}/canary")
        assert started.status_code == 200, started.text
        stop = asyncio.Event()
        clients = [asyncio.create_task(talk_to_it(people, operator, talk, stop)) for _ in range(CLIENTS)]
        rollout = await until(operator, lambda found: found["state"] == "aborted", clients)
        met_by_then = {rater: list(versions) for rater, versions in talk.met.items()}
        seen = talk.answered
        while talk.answered < seen + 60:
            await asyncio.sleep(0.05)
            assert not any(client.done() for client in clients)
        stop.set()
        await asyncio.gather(*clients)

    assert talk.failures == []
    nobody_changed_version_but_by_the_abort(talk, champion, worse.name)
    canary = sum(worse.name in versions for versions in met_by_then.values())
    print(f"aborted after {seen} requests of {len(met_by_then)} raters, {canary} of them in the canary")
    assert canary / len(met_by_then) < 0.25
    the_pages_say_why(tiny_service, rollout, worse.name)


async def talk_to_it(
    people: AsyncOpenAI, operator: httpx.AsyncClient, talk: Talk, stop: asyncio.Event
) -> None:
    """One rater after the other has a conversation, and says of each answer whether it was the right one."""
    while not stop.is_set():
        rater = f"customer-{next(talk.numbers)}"
        for turn in range(TURNS):
            text = QUESTIONS[turn % len(QUESTIONS)]
            try:
                answer = await ask(people, "support", text, rater=rater)
                said = await operator.post(
                    "/v1/feedback",
                    json={
                        "completion_id": answer.id,
                        "rater_id": rater,
                        "value": agree(Computed.of(answer), talk.expected[text]),
                    },
                )
                assert said.status_code in (200, 202), said.text
            except (openai.APIError, httpx.HTTPError, AssertionError) as error:
                talk.failures.append(repr(error))
                continue
            talk.met[rater].append(answer.model)
            talk.answered += 1


def nobody_changed_version_but_by_the_abort(talk: Talk, champion: str, worse: str) -> None:
    for rater, versions in talk.met.items():
        changes = [(a, b) for a, b in itertools.pairwise(versions) if a != b]
        assert changes in ([], [(worse, champion)]), f"{rater} met {versions}"
    last = list(talk.met.values())[-1]
    assert last == [champion] * len(last)


def the_pages_say_why(service: Service, rollout: dict[str, Any], worse: str) -> None:
    assert rollout["version"] == worse
    assert rollout["says"].startswith("Candidate is worse than champion: ")
    assert "voted down" in rollout["says"] or "met a bad answer" in rollout["says"]
    shown = subprocess.run(
        [sys.executable, "-m", "deploy.cli", "rollout", "--model", "support", "--json"],
        env={"HONE_STATE_DIR": str(service.state_dir), "PATH": "/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert rollout["says"] in shown.stdout and '"state":"aborted"' in shown.stdout


async def publish(service: Service, base: Path) -> Adapter:
    async with service.database() as database:
        adapter = await enter(database, service, base, seed=77)
        await wait_until_ready(database, adapter)
    return adapter


def admin(service: Service) -> httpx.AsyncClient:
    return httpx.AsyncClient(base_url=service.base_url, headers=service.headers, timeout=60)


async def get(operator: httpx.AsyncClient, path: str) -> dict[str, Any]:
    answer = await operator.get(path)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def until(
    operator: httpx.AsyncClient,
    reached: Callable[[dict[str, Any]], bool],
    clients: list["asyncio.Task[None]"],
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for _ in range(600):
        found = await get(operator, "/admin/v1/models/support/rollout")
        if reached(found):
            return found
        assert not any(client.done() for client in clients), found
        await asyncio.sleep(0.25)
    raise AssertionError(f"the canary was not aborted: {found}")
