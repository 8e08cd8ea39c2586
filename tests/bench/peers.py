"""Start what is measured: Hone's gateway with everything on, nginx, vllm-router; and what measures them.

Each gateway is pinned to one core, everything else to another, so a figure is "per gateway core"; the process in which
Hone records is with the database on the other, and its CPU time counts as the gateway's. nginx is the floor
of one hop (no authentication, no record, no idea of a model); vllm-router is the router that vLLM's own project offers.
"""

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from deploy.postgres import EmbeddedPostgres
from feedback import adapters, engines, experiments, keys, models
from feedback.database import Database, migrate
from feedback.policy import ModelPolicy, RolloutPolicy

HERE = Path(__file__).parent
TOOLS_CORE, GATEWAY_CORE = 0, 1

NGINX = """
worker_processes 1;
pid {directory}/nginx.pid;
error_log {directory}/error.log;
events {{ worker_connections 4096; }}
http {{
    access_log off;
    client_body_temp_path {directory}/body; proxy_temp_path {directory}/proxy; fastcgi_temp_path {directory}/f;
    uwsgi_temp_path {directory}/u; scgi_temp_path {directory}/s;
    keepalive_requests 100000000;
    upstream engine {{ server 127.0.0.1:{upstream}; keepalive 512; keepalive_requests 100000000; }}
    server {{
        listen 127.0.0.1:{port};
        location / {{
            proxy_pass http://engine;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_buffering off;
        }}
    }}
}}
"""


@dataclass
class Peer:
    """One server under test."""

    name: str
    port: int
    process: psutil.Process | None = None
    key: str = "none"

    def cpu_seconds(self) -> float:
        """CPU time of the server and its children so far, in seconds."""
        return sum(sum(process.cpu_times()[:2]) for process in self._processes())

    def memory_bytes(self) -> int:
        """Resident memory of the server and its children."""
        return sum(process.memory_info().rss for process in self._processes())

    def _processes(self) -> list[psutil.Process]:
        return [] if self.process is None else [self.process, *self.process.children(recursive=True)]

    def settle(self) -> None:
        """Wait until work that was put off, such as recording, is done."""
        if self.name.startswith("hone"):
            while spooled_bytes(self.port):
                time.sleep(0.1)


def spooled_bytes(port: int) -> float:
    """What the gateway has not recorded yet."""
    metrics = httpx.get(f"http://127.0.0.1:{port}/metrics", trust_env=False, timeout=30).text
    return next(
        float(line.split()[1]) for line in metrics.splitlines() if line.startswith("hone_spool_bytes ")
    )


def compile_tool(name: str, directory: Path) -> Path:
    """The C program of this name, compiled."""
    program = directory / name
    subprocess.run(["gcc", "-O2", "-o", str(program), str(HERE / f"{name}.c")], check=True)
    return program


@contextmanager
def running(
    command: Sequence[str], *, core: int, log: Path, port: int = 0, env: dict[str, str] | None = None
) -> Iterator[psutil.Process]:
    """A process on one core, until the block ends; waits for its port."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["taskset", "-c", str(core), *command],
            stdout=output,
            stderr=output,
            env={**os.environ, **(env or {})},
        )
    try:
        _wait_for_port(process, port, log)
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()


@contextmanager
def mock_engine(directory: Path) -> Iterator[Peer]:
    """The mock that all of them relay to; as a peer, it is the direct way."""
    port = free_port()
    command = [str(compile_tool("mock_engine", directory)), str(port)]
    with running(command, core=TOOLS_CORE, log=directory / "mock.log", port=port):
        yield Peer("direct", port)


@contextmanager
def nginx(directory: Path, upstream: int) -> Iterator[Peer]:
    """nginx as a plain reverse proxy, unbuffered."""
    port = free_port()
    home = directory / "nginx"
    home.mkdir()
    (home / "nginx.conf").write_text(NGINX.format(directory=home, upstream=upstream, port=port))
    command = ["nginx", "-c", str(home / "nginx.conf"), "-g", "daemon off;"]
    with running(command, core=GATEWAY_CORE, log=directory / "nginx.log", port=port) as process:
        yield Peer("nginx", port, process)


@contextmanager
def vllm_router(directory: Path, upstream: int, program: Path) -> Iterator[Peer]:
    """vllm-router with one worker."""
    port, metrics = free_port(), free_port()
    command = [
        str(program),
        *("--host", "127.0.0.1", "--port", str(port), "--prometheus-port", str(metrics)),
        *("--worker-urls", f"http://127.0.0.1:{upstream}", "--policy", "round_robin", "--log-level", "error"),
    ]
    with running(command, core=GATEWAY_CORE, log=directory / "router.log", port=port) as process:
        yield Peer("vllm-router", port, process)


@contextmanager
def hone(directory: Path, upstream: int, python: Path, *, fast_lane: bool = True) -> Iterator[Peer]:
    """Hone's gateway: authentication, a running experiment, metrics, and the record in a real PostgreSQL."""
    name = "hone" if fast_lane else "hone-asgi"
    home = directory / name
    home.mkdir()
    port = free_port()
    with EmbeddedPostgres(home / "postgres") as postgres:
        migrate(postgres.url)
        key = asyncio.run(_a_service(postgres.url, f"http://127.0.0.1:{upstream}"))
        for process in psutil.process_iter(["name", "cmdline"]):
            if str(home) in " ".join(process.info["cmdline"] or ()):
                process.cpu_affinity([TOOLS_CORE])
        env = {
            "HONE_DATABASE_URL": postgres.url,
            "HONE_STATE_DIR": str(home),
            "HONE_ENGINE_URLS": f'["http://127.0.0.1:{upstream}"]',
            "HONE_GATEWAY_FAST_LANE": str(fast_lane).lower(),
            "HONE_ENGINE_WATCH": "false",  # The mock has no adapters to look after.
        }
        command = [str(python), "-m", "deploy.cli", "gateway", "--port", str(port)]
        with running(
            command, core=GATEWAY_CORE, log=directory / f"{name}.log", port=port, env=env
        ) as process:
            spooled_bytes(port)  # It answers: what it starts beside itself has been started.
            for child in process.children(recursive=True):
                child.cpu_affinity([TOOLS_CORE])
            yield Peer(name, port, process, key)


async def _a_service(url: str, engine: str) -> str:
    """A model whose traffic is split between two versions that the mock holds; returns a key."""
    policy = ModelPolicy(consent_default=True, rollout=RolloutPolicy(steps=(0.3, 0.5)))
    async with Database(url) as database, database.begin() as connection:
        await models.create(
            connection, project="default", model="support", base_model="mock", policy=policy, by="bench"
        )
        adapter_id, version = await adapters.reserve(connection, "default", "support")
        adapter = await adapters.register(
            connection,
            adapter_id=adapter_id,
            project="default",
            model="support",
            version=version,
            base_model="mock",
            path="/nowhere",
            files_hash="0" * 64,
            run_id=None,
            by="bench",
        )
        report = {"decision": "candidate", "reasons": [], "checks": []}
        adapter = await adapters.decide(
            connection, adapter, report=report, evidence_hash="0" * 64, by="bench"
        )
        adapter = await adapters.move(connection, adapter, "approve", by="bench")
        await experiments.start_canary(connection, adapter, by="bench")
        await engines.report(connection, engine, base_model="mock", healthy=True)
        for known in await adapters.every(connection):
            await engines.report_adapter(connection, engine, known.adapter_id, state="ready")
        _, key = await keys.create(connection, role="app", name="bench", by="bench")
    return key


def free_port() -> int:
    """A loopback port that nobody uses now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def _wait_for_port(process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
    deadline = time.monotonic() + 60
    while port:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} did not start:\n{log.read_text()[-2000:]}")
        time.sleep(0.05)
