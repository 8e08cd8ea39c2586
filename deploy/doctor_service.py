"""The part of `hone doctor` that asks: the database, the engines, the gateway. Reads only."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from sqlalchemy import func, select
from sqlalchemy.exc import SQLAlchemyError

from deploy import state
from deploy.findings import Finding, fail, ok, warn
from deploy.services import is_free
from deploy.settings import Settings
from feedback import engines
from feedback.database import Database, schema_is_current
from feedback.errors import HoneError
from feedback.tables import adapters, engine_adapters
from serving.engine_api import EngineApi, EngineState, EngineUnavailable

_PATIENCE_SECONDS = 10.0
_CLOCK_SECONDS = 2.0
_MIB = 1024**2


async def examine(settings: Settings, directory: Path) -> list[Finding]:
    """Ask everything that might answer, side by side."""
    running = state.find_running(directory)
    gateway_url = running.gateway_url if running else _configured_gateway(settings)
    urls = running.engine_urls if running else settings.serving.engine_urls
    found = await asyncio.gather(
        _database(settings), _gateway(settings, gateway_url), *(_engine(settings, url) for url in urls)
    )
    return [finding for findings in found for finding in findings]


def _configured_gateway(settings: Settings) -> str:
    host = settings.serving.gateway_host
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.serving.gateway_port}"


async def _database(settings: Settings) -> list[Finding]:
    remedy = "`hone up` runs one; or correct HONE_DATABASE_URL."
    try:
        url = settings.feedback.resolve_database_url()
        async with asyncio.timeout(_PATIENCE_SECONDS), Database(url, pool_size=1) as database:
            shown = database.url.render_as_string(hide_password=True)
            async with database.begin() as connection:
                before = datetime.now(UTC)
                theirs = await connection.scalar(select(func.clock_timestamp()))
            if not await schema_is_current(database):
                found = f"{shown} answers, but its schema is not this Hone's"
                return [
                    fail("database", found, "`hone up` migrates it; stop older gateways and workers first.")
                ]
            assert theirs is not None
            return [
                ok("database", f"{shown} answers, and its schema is current"),
                _clock((theirs - before).total_seconds()),
                *await _versions(database),
            ]
    except HoneError as error:
        return [fail("database", str(error), "")]
    except (OSError, TimeoutError, SQLAlchemyError) as error:
        said = str(error).strip().splitlines() or ["it did not answer in time"]
        return [fail("database", f"It cannot be used: {said[0]}", remedy)]


def _clock(ahead_seconds: float) -> Finding:
    if abs(ahead_seconds) > _CLOCK_SECONDS:
        found = f"the database's clock is {ahead_seconds:+.1f} s from this machine's"
        remedy = "Synchronise both (NTP): windows of feedback and of experiments are cut by these clocks."
        return warn("clock", found, remedy)
    return ok("clock", f"{ahead_seconds:+.2f} s between the database and this machine")


async def _versions(database: Database) -> list[Finding]:
    """What the record says of the engines, and of versions that one would not take."""
    query = (
        select(engine_adapters.c.engine, engine_adapters.c.detail, adapters.c.model, adapters.c.version)
        .join(adapters, adapters.c.adapter_id == engine_adapters.c.adapter_id)
        .where(engine_adapters.c.state == "failed", adapters.c.state.in_(("approved", "canary", "champion")))
    )
    async with database.begin() as connection:
        known = await engines.every(connection)
        failed = (await connection.execute(query)).all()
    findings = [
        fail(
            "versions",
            f"{row.model}@{row.version} is not served by {row.engine}: {row.detail}",
            f"`hone adapter show {row.model}@{row.version}` has its files; correct them, or roll back.",
        )
        for row in failed
    ]
    for engine in known:
        if not engine.healthy:
            remedy = (
                "It takes no traffic until it answers; start it again, or take it out of HONE_ENGINE_URLS."
            )
            findings.append(warn("versions", f"engine {engine.engine} was not well: {engine.detail}", remedy))
    return findings


async def _engine(settings: Settings, url: str) -> list[Finding]:
    key = settings.serving.engine_api_key
    try:
        async with EngineApi(
            url, api_key=key.get_secret_value() if key else None, timeout_seconds=_PATIENCE_SECONDS
        ) as api:
            found = await api.look()
    except EngineUnavailable as error:
        remedy = (
            "See logs/engine.log in the state directory if `hone up` runs it; else start it (`hone engine`)."
        )
        return [fail("engine", str(error), remedy)]
    return [ok("engine", f"{url} serves {found.base_model} with {_listed(found)}")]


def _listed(found: EngineState) -> str:
    names = sorted(found.adapters)
    return f"{len(names)} adapters: {', '.join(names)}" if names else "no adapters"


async def _gateway(settings: Settings, url: str) -> list[Finding]:
    try:
        async with httpx.AsyncClient(trust_env=False, timeout=_PATIENCE_SECONDS) as client:
            answer = await client.get(f"{url}/health")
            health: dict[str, Any] = answer.json()
            if "champions_not_loaded" not in health:
                raise ValueError
    except (httpx.HTTPError, ValueError) as error:
        serving = settings.serving
        if isinstance(error, httpx.ConnectError) and is_free(serving.gateway_host, serving.gateway_port):
            return [
                fail("gateway", f"nothing listens on {url}", "Start it: `hone up`, or `hone gateway` alone.")
            ]
        remedy = "Stop that program, or choose another port: HONE_GATEWAY_PORT."
        return [fail("gateway", f"what listens on {url} is not Hone's gateway, or it hangs", remedy)]
    return [_health(url, health), *_spool(settings, health)]


def _health(url: str, health: dict[str, Any]) -> Finding:
    waiting = ", ".join(health["champions_not_loaded"])
    remedies = {
        "unready": "It cannot answer until an engine holds the champion; look at the engine above.",
        "degraded": "What it cannot serve is named here; look at the engine and the database above.",
    }
    found = f"{url} says {health['status']}" + (f"; no engine holds {waiting}" if waiting else "")
    if health["database"] != "ok":
        found += f"; its database: {health['database']}"
    if health["status"] == "ok":
        return ok("gateway", found)
    level = fail if health["status"] == "unready" else warn
    return level("gateway", found, remedies.get(health["status"], "See its log."))


def _spool(settings: Settings, health: dict[str, Any]) -> list[Finding]:
    depth, most = int(health["spool_bytes"]), settings.serving.spool_bytes_max
    found = f"{depth / _MIB:.1f} MiB wait for the database, of at most {most / _MIB:.0f} MiB"
    remedy = (
        "The database is down or too slow; once the spool is full, completions are served but not recorded."
    )
    lost = int(health["completions_lost"])
    if lost:
        return [
            fail("spool", f"{lost} completions were not recorded since the gateway started; {found}", remedy)
        ]
    return [
        fail("spool", found, remedy)
        if depth > 0.9 * most
        else warn("spool", found, remedy)
        if depth > 0.1 * most
        else ok("spool", found)
    ]
