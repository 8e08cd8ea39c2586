"""A whole Hone on this machine, started as a person starts it: `hone up`, every process real."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
from openai import AsyncOpenAI

from feedback.database import Database
from tests.ports import free_port

START_SECONDS = 240.0
RECOVERY_SECONDS = 150.0


class Service:
    """One running service; `processes` names its parts: postgres, engine, gateway, worker."""

    def __init__(self, state_dir: Path, port: int, up: "subprocess.Popen[bytes]") -> None:
        self.state_dir = state_dir
        self.base_url = f"http://127.0.0.1:{port}"
        self.up = up

    @property
    def key(self) -> str:
        """The key that `hone up` keeps for commands on this machine."""
        return (self.state_dir / "operator.key").read_text().strip()

    @property
    def headers(self) -> dict[str, str]:
        """What an HTTP client sends."""
        return {"authorization": f"Bearer {self.key}"}

    def client(self, **options: Any) -> AsyncOpenAI:
        """The real SDK, pointed here."""
        return AsyncOpenAI(base_url=f"{self.base_url}/v1", api_key=self.key, **options)

    def database(self) -> Database:
        """The record of this service."""
        return Database((self.state_dir / "postgres.url").read_text().strip())

    def pid(self, name: str) -> int:
        """Process id of a part."""
        return int(json.loads((self.state_dir / "run" / f"{name}.json").read_text())["pid"])

    def kill(self, name: str) -> int:
        """`kill -9` a part; returns the pid it had."""
        pid = self.pid(name)
        os.kill(pid, signal.SIGKILL)
        return pid

    def wait_until_answering(self, seconds: float = RECOVERY_SECONDS) -> float:
        """Block until a chat request is answered; returns the seconds it took."""
        began = time.monotonic()
        body = {"model": "support", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 2}
        last = "nothing yet"
        while time.monotonic() - began < seconds:
            assert self.up.poll() is None, f"hone up ended with {self.up.returncode}: {self.log()}"
            try:
                answer = httpx.post(
                    f"{self.base_url}/v1/chat/completions", json=body, headers=self.headers, timeout=30
                )
                last = f"{answer.status_code} {answer.text[:200]}"
                if answer.status_code == 200:
                    return time.monotonic() - began
            except (httpx.HTTPError, OSError) as error:
                last = repr(error)
            time.sleep(0.25)
        raise AssertionError(f"No answer within {seconds:g} s; the last was: {last}\n{self.log()}")

    def log(self) -> str:
        """The end of every log, for a failing test."""
        logs = [self.state_dir / "up.log", *sorted((self.state_dir / "logs").glob("*.log"))]
        return "\n".join(f"--- {log.name}\n{log.read_text()[-2500:]}" for log in logs if log.exists())

    def stop(self) -> None:
        """Ctrl-C, and nothing may be left."""
        children = psutil.Process(self.up.pid).children(recursive=True) if self.up.poll() is None else []
        if self.up.poll() is None:
            self.up.send_signal(signal.SIGINT)
            try:
                self.up.wait(90)
            except subprocess.TimeoutExpired:
                self.up.kill()
        _, alive = psutil.wait_procs(children, timeout=10)
        for process in alive:
            process.kill()
        assert not alive, f"hone up left {alive}"


@contextmanager
def running_service(state_dir: Path, *arguments: str, **settings: str) -> Iterator[Service]:
    """`hone up` in `state_dir` with these options and `HONE_*` settings, until the block ends."""
    state_dir.mkdir(parents=True, exist_ok=True)
    port = free_port()
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HONE_")},
        "OMP_NUM_THREADS": "1",
        "HONE_STATE_DIR": str(state_dir),
        "HONE_GATEWAY_PORT": str(port),
        "HONE_ENGINE_PORT": str(free_port()),
        "HONE_CONSOLE_PORT": str(free_port()),
        **settings,
    }
    with open(state_dir / "up.log", "ab") as log:
        up = subprocess.Popen(
            [sys.executable, "-m", "deploy.cli", "up", *arguments],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            cwd=state_dir,
            start_new_session=True,
        )
    service = Service(state_dir, port, up)
    try:
        deadline = time.monotonic() + START_SECONDS
        while not (state_dir / "operator.key").exists():
            assert up.poll() is None and time.monotonic() < deadline, service.log()
            time.sleep(0.1)
        service.wait_until_answering(START_SECONDS)
        yield service
    finally:
        service.stop()
