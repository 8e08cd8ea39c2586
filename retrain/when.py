"""Whether a run may train now: searches that go on, the policy's hours of the day, and how busy the engines are.

An engine that does not say how busy it is does not hold a run back: missing data triggers nothing.
"""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, time

import httpx

from feedback import engines, models, run_requests
from feedback.database import Database
from feedback.policy import TrainingPolicy
from feedback.run_requests import RunRequest
from feedback.runs import Run
from retrain.settings import RetrainSettings

DEPTH = re.compile(r"^vllm:num_requests_(?:running|waiting)(?:\{[^}]*\})? (\S+)$", re.MULTILINE)
METRICS_TIMEOUT_SECONDS = 2.0


async def why_wait(database: Database, run: Run, settings: RetrainSettings) -> str | None:
    """Why a run must not train now, in words; None when it may."""
    async with database.begin() as connection:
        if searching := await run_requests.waiting(connection, status="running"):
            return _searched_first(run, searching[0])
        model = await models.get(connection, run.project, run.model)
        policy = model.policy.training
        known = await engines.every(connection) if policy.queue_depth_max is not None else []
    urls = [engine.engine for engine in known if engine.healthy and engine.base_model == model.base_model]
    key = settings.evaluation_engine_api_key
    depth = await queue_depth(urls, key.get_secret_value() if key else None) if urls else None
    return reason_to_wait(policy, datetime.now(UTC), depth)


def _searched_first(run: Run, search: RunRequest) -> str:
    if search.project != run.project:
        return "a search of another project goes on, and nothing is trained beside it."
    return (
        f"search {search.search_id} goes on; `hone retrain cancel {search.request_id}` lets the run go first."
    )


def reason_to_wait(policy: TrainingPolicy, now: datetime, depth: int | None) -> str | None:
    """Pure: the policy, the time, and how many requests the engines have, if that is known."""
    if policy.windows and not any(_within(window, now.astimezone(UTC).time()) for window in policy.windows):
        return f"it trains only between {' and '.join(policy.windows)} UTC."
    if policy.queue_depth_max is not None and depth is not None and depth > policy.queue_depth_max:
        return f"the engines are busy, with more than {policy.queue_depth_max} requests."
    return None


async def queue_depth(urls: Iterable[str], api_key: str | None = None) -> int | None:
    """Requests running and waiting on all of these engines; None when none says."""
    headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
    found: list[float] = []
    async with httpx.AsyncClient(timeout=METRICS_TIMEOUT_SECONDS, headers=headers, trust_env=False) as client:
        for url in urls:
            try:
                text = (await client.get(f"{url}/metrics")).raise_for_status().text
            except httpx.HTTPError:
                continue
            found += [float(value) for value in DEPTH.findall(text)]
    return int(sum(found)) if found else None


def _within(window: str, now: time) -> bool:
    start, end = (time.fromisoformat(part) for part in window.split("-"))
    if start <= end:
        return start <= now < end
    return now >= start or now < end
