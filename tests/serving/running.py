"""A gateway under real uvicorn, for one test."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from feedback import adapters, engines, keys
from feedback.adapters import Adapter
from feedback.completions import with_text
from feedback.database import Database
from feedback.settings import FeedbackSettings
from feedback.tables import completions
from serving.gateway import Gateway
from serving.server import configure, listen
from serving.settings import ServingSettings
from tests.builders import PROJECT, a_model


@dataclass
class Running:
    """A gateway that answers, and a client with a key."""

    url: str
    key: str
    gateway: Gateway
    client: httpx.AsyncClient
    database: Database
    server: uvicorn.Server

    async def ask(self, stream: bool = False, **fields: Any) -> httpx.Response:
        """One chat completion, read to its end."""
        body = {"model": "support", "messages": [{"role": "user", "content": "How long?"}], "stream": stream}
        headers = fields.pop("headers", {})
        return await self.client.post("/v1/chat/completions", json={**body, **fields}, headers=headers)

    async def rows(self, count: int, *, seconds: float = 60.0) -> list[dict[str, Any]]:
        """The completions in the record, once there are `count` of them."""
        deadline = asyncio.get_running_loop().time() + seconds
        while True:
            async with self.database.begin() as connection:
                found = await connection.execute(with_text().order_by(completions.c.created_at))
                rows = [dict(row._mapping) for row in found]
            if len(rows) >= count or asyncio.get_running_loop().time() > deadline:
                assert len(rows) == count, rows
                return rows
            await asyncio.sleep(0.05)


@asynccontextmanager
async def running_gateway(
    database: Database, database_url: str, state_dir: Path, *engine_urls: str, **settings: Any
) -> AsyncIterator[Running]:
    """A gateway in front of `engine_urls`, of which the record says that each holds every version."""
    key = await a_service(database, *engine_urls)
    defaults = {
        "gateway_port": 0,
        "engine_urls": engine_urls,
        "engine_watch": False,
        "record_in_own_process": False,
        "record_interval_seconds": 0.02,
    }
    listener = listen("127.0.0.1", 0)
    record = FeedbackSettings(state_dir=state_dir, database_url=database_url)
    server = configure(ServingSettings(**{**defaults, **settings}), record)
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.01)
        if serving.done():
            serving.result()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    headers = {"authorization": f"Bearer {key}"}
    gateway: Gateway = server.config.app.state.gateway  # type: ignore[union-attr]
    try:
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=10) as client:
            yield Running(url, key, gateway, client, database, server)
    finally:
        server.should_exit = True
        await serving


async def a_service(database: Database, *engine_urls: str) -> str:
    """A model, a key, and engines that hold every version; returns the key."""
    async with database.begin() as connection:
        await a_model(connection)
        for url in engine_urls:
            await engines.report(connection, url, base_model="tiny", healthy=True)
            for adapter in await adapters.every(connection):
                await engines.report_adapter(connection, url, adapter.adapter_id, state="ready")
        _, key = await keys.create(connection, role="admin", name="test", by="test", project=PROJECT)
    return key


async def hold(database: Database, adapter: Adapter, *engine_urls: str) -> None:
    """Say that these replicas hold this version."""
    async with database.begin() as connection:
        for url in engine_urls:
            await engines.report_adapter(connection, url, adapter.adapter_id, state="ready")
