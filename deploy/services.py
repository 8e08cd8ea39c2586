"""The parts of one machine as services: how each is started, when it is ready, how long it may take to stop.

The engine, the gateway and the worker are the same commands that a person can run: `hone engine`, `hone gateway`,
`hone worker`. What `hone up` decided (addresses, base model) reaches them as environment variables, so all of
them, and every restart, resolve the same settings.
"""

import asyncio
import json
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from deploy.launch import Command
from deploy.postgres import EmbeddedPostgres
from deploy.process import Service
from deploy.settings import Settings
from feedback.errors import HoneError
from monitoring.settings import MonitoringSettings

_PROBE_SECONDS = 2.0


@dataclass(frozen=True)
class Addresses:
    """Where the parts listen, decided before any of them starts."""

    gateway_host: str
    gateway_port: int
    engine_port: int
    engine_urls: tuple[str, ...]
    local_engine: bool
    """Whether `hone up` runs the engine itself."""
    console_host: str = "127.0.0.1"
    console_port: int = 8002

    @property
    def gateway_url(self) -> str:
        """Base URL for a client on this machine."""
        return _local_url(self.gateway_host, self.gateway_port)

    @property
    def console_url(self) -> str:
        """Where an operator on this machine points the browser."""
        return _local_url(self.console_host, self.console_port)

    def environment(self, state_dir: Path) -> dict[str, str]:
        """The same decisions as settings of the parts."""
        return {
            "HONE_STATE_DIR": str(state_dir),
            "HONE_GATEWAY_HOST": self.gateway_host,
            "HONE_GATEWAY_PORT": str(self.gateway_port),
            "HONE_CONSOLE_HOST": self.console_host,
            "HONE_CONSOLE_PORT": str(self.console_port),
            "HONE_CONSOLE_GATEWAY_URL": self.gateway_url,
            "HONE_ENGINE_PORT": str(self.engine_port),
            "HONE_ENGINE_URLS": json.dumps(self.engine_urls),
        }


def choose_addresses(settings: Settings) -> Addresses:
    """Settle on ports; an engine or console port that nobody asked for may give way to a free one.

    Raises:
        HoneError: a port that was asked for is taken.
    """
    serving = settings.serving
    gateway_port = serving.gateway_port or _free_port(serving.gateway_host)
    if not is_free(serving.gateway_host, gateway_port):
        raise HoneError(
            f"The gateway cannot listen on {serving.gateway_host}:{gateway_port}: another program uses it, or the "
            "address is not this machine's. Stop that program, or choose another address with --port and --host."
        )
    engine_port = serving.engine_port
    local_engine = not serving.engine_urls
    taken = {gateway_port}
    if local_engine and (engine_port in taken or not is_free(serving.engine_host, engine_port)):
        if "engine_port" in serving.model_fields_set:
            raise HoneError(
                f"The engine cannot listen on {serving.engine_host}:{engine_port}: another program uses it. "
                "Stop that program, or change HONE_ENGINE_PORT."
            )
        engine_port = _free_port(serving.engine_host, taken)
    urls = serving.engine_urls or (f"http://{serving.engine_host}:{engine_port}",)
    taken |= {engine_port} if local_engine else set()
    console_host, console_port = settings.monitoring.console_host, _console_port(settings.monitoring, taken)
    return Addresses(
        serving.gateway_host, gateway_port, engine_port, urls, local_engine, console_host, console_port
    )


def _console_port(monitoring: MonitoringSettings, taken: Collection[int]) -> int:
    host, port = monitoring.console_host, monitoring.console_port
    if port and port not in taken and is_free(host, port):
        return port
    if port and "console_port" in monitoring.model_fields_set:
        raise HoneError(
            f"The console cannot listen on {host}:{port}: another program uses it. "
            "Stop that program, or change HONE_CONSOLE_PORT."
        )
    return _free_port(host, taken)


def _local_url(host: str, port: int) -> str:
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, host)
    return f"http://{host if host.startswith('[') or ':' not in host else f'[{host}]'}:{port}"


def postgres_service(postgres: EmbeddedPostgres) -> Service:
    """The embedded database; `prepare` has run."""

    async def is_ready() -> bool:
        return postgres.is_ready()

    return Service(
        "postgres",
        postgres.command(),
        is_ready,
        start_seconds=300,  # after a crash it first replays its log
        stop_seconds=20,
        before_start=postgres.end_leftovers,
    )


def engine_service(settings: Settings, environment: Mapping[str, str], url: str) -> Service:
    """vLLM, started with every version that the registry wants it to hold."""
    return Service(
        "engine",
        _hone("engine", environment),
        _answers(f"{url}/health"),
        port=urlsplit(url).port,
        start_seconds=settings.deploy.engine_start_timeout_seconds,
        hung_seconds=settings.deploy.engine_hung_seconds,
        stop_seconds=settings.serving.engine_shutdown_timeout_seconds + 10,
    )


def gateway_service(settings: Settings, environment: Mapping[str, str], url: str) -> Service:
    """The API. Ready means that it answers; whether it can relay is what `/health` says."""
    return Service(
        "gateway",
        _hone("gateway", environment),
        _answers(f"{url}/status"),
        port=urlsplit(url).port,
        start_seconds=120,
        hung_seconds=settings.deploy.gateway_hung_seconds,
        stop_seconds=settings.serving.gateway_drain_seconds + 10,
    )


def console_service(environment: Mapping[str, str], url: str) -> Service:
    """The operators' pages. Ready means that a person can sign in."""
    return Service(
        "console",
        _hone("console", environment),
        _answers(f"{url}/sign-in"),
        start_seconds=120,
        stop_seconds=15,
    )


def worker_service(environment: Mapping[str, str]) -> Service:
    """Training and rollouts. It listens nowhere: ready means that it did not end at once."""
    alive = _Alive(1.0)
    return Service(
        "worker",
        _hone("worker", environment),
        alive.is_ready,
        before_start=alive.begin,
        start_seconds=60,
        stop_seconds=75,  # a training process first writes a checkpoint
    )


def is_free(host: str, port: int) -> bool:
    """Whether we could listen there."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
            probe.listen(1)
        except OSError:
            return False
        return True


def _free_port(host: str, taken: Collection[int] = ()) -> int:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port if port not in taken else _free_port(host, taken)


def _hone(subcommand: str, environment: Mapping[str, str]) -> Command:
    # -P: a folder named `serving` where the person happens to be must not be taken for ours.
    return Command((sys.executable, "-P", "-m", "deploy.cli", subcommand), environment=environment)


def _answers(url: str) -> Callable[[], Awaitable[bool]]:
    async def is_ready() -> bool:
        return await http_status(url) == 200

    return is_ready


async def http_status(url: str) -> int:
    """The status that a GET of a plain `http://` URL is answered with; 0 where nothing answers in time."""
    parts = urlsplit(url)
    try:
        async with asyncio.timeout(_PROBE_SECONDS):
            reader, writer = await asyncio.open_connection(parts.hostname, parts.port or 80)
            try:
                writer.write(
                    f"GET {parts.path or '/'} HTTP/1.1\r\nhost: {parts.netloc}\r\nconnection: close\r\n\r\n".encode()
                )
                return int((await reader.readline()).split()[1])
            finally:
                writer.close()
    except (OSError, TimeoutError, ValueError, IndexError):
        return 0


class _Alive:
    """Ready once it has lived for a while: for a process that answers nobody."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._began = 0.0

    def begin(self) -> None:
        self._began = time.monotonic()

    async def is_ready(self) -> bool:
        return time.monotonic() - self._began >= self._seconds
