"""A real vLLM engine for tests: the tiny model on a free port, started once a session, ended by its process id.

`engine` is shared: a test loads what it needs under names of its own and leaves the rest alone. A test that kills
an engine starts one of its own with `run_engine`.
"""

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from serving.settings import ServingSettings
from serving.vllm_process import EngineCommand, engine_command, find_engine_python
from tests.ports import free_port
from tests.tiny_model import build_adapter, build_tiny_model

READY_SECONDS = 300.0
MAX_LORA_RANK = 16


@dataclass
class RunningEngine:
    """One engine process. `model` is the base model's directory, `url` its address."""

    command: EngineCommand
    model: Path
    log: Path
    ready_seconds: float = 0.0
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)

    @property
    def url(self) -> str:
        return self.command.url

    def start(self) -> None:
        """Start the process and wait until it answers."""
        started = time.monotonic()
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command.argv, env={**os.environ, **self.command.env}, stdout=log, stderr=log
            )
        while not self.is_healthy():
            if self.process.poll() is not None:
                raise RuntimeError(f"The engine exited with {self.process.returncode}:\n{self.last_words()}")
            if time.monotonic() - started > READY_SECONDS:
                self.kill()
                raise RuntimeError(f"The engine is not ready after {READY_SECONDS} s:\n{self.last_words()}")
            time.sleep(0.1)
        self.ready_seconds = time.monotonic() - started

    def is_healthy(self) -> bool:
        try:
            return httpx.get(f"{self.url}/health", timeout=2, trust_env=False).status_code == 200
        except httpx.TransportError:
            return False

    def kill(self) -> None:
        """Kill -9, and wait until nothing of it is left."""
        self._end(signal.SIGKILL)

    def stop(self) -> int:
        """Ask it to end, as an operator would; its exit code."""
        return self._end(signal.SIGTERM)

    def _end(self, how: signal.Signals) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(timeout=60)

    def last_words(self) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-40:])


def small_engine(**changes: object) -> ServingSettings:
    """Settings of a small engine on a port of its own."""
    defaults: dict[str, object] = {
        "engine_port": free_port(),
        "engine_max_loras": 4,
        "engine_max_cpu_loras": 8,
        "engine_max_lora_rank": MAX_LORA_RANK,
        "engine_max_model_length_tokens": 1024,
        "engine_shutdown_timeout_seconds": 10,
        "engine_cpu_threads": 1,
    }
    return ServingSettings.load(**{**defaults, **changes})


@contextmanager
def run_engine(
    model: Path,
    directory: Path,
    *,
    adapters: Mapping[str, Path] | None = None,
    settings: ServingSettings | None = None,
) -> Iterator[RunningEngine]:
    """A ready engine of its own for a test that kills or configures it; ended at the end of the block."""
    settings = settings or small_engine()
    command = engine_command(settings, str(model), python=find_engine_python(settings), adapters=adapters)
    engine = RunningEngine(command, model, directory / "engine.log")
    try:
        engine.start()
        yield engine
    finally:
        if engine.process is not None and engine.process.poll() is None:
            engine.kill()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The base model's directory."""
    return build_tiny_model(tmp_path_factory.mktemp("tiny") / "model")


@pytest.fixture(scope="session")
def tiny_adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two good adapters of the tiny model. Copy one for every version you load: versions share no directory."""
    directory = tmp_path_factory.mktemp("adapters")
    return build_adapter(tiny_model, directory / "one", seed=1), build_adapter(
        tiny_model, directory / "two", seed=2
    )


@pytest.fixture(scope="session")
def engine(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningEngine]:
    """The session's engine: base model under the name `base`, four adapters at once, rank 16 at most."""
    with run_engine(tiny_model, tmp_path_factory.mktemp("engine")) as running:
        yield running
