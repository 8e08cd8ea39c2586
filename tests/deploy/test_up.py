"""`hone up` as a person runs it, with a real database, gateway and worker; the engine is said to be elsewhere."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from deploy.record import Keys
from deploy.state import Running
from deploy.welcome import welcome
from feedback import keys
from feedback.database import Database
from tests.conftest import open_directory
from tests.ports import free_port

PARTS = ("postgres", "gateway", "worker", "console")
BASE = "a-base-model"


def running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def until(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.05)


class Up:
    """One `hone up` and what it wrote."""

    def __init__(self, state_dir: Path, *arguments: str, port: int | None = None) -> None:
        self.state_dir = state_dir
        self.port = port or free_port()
        self.output = state_dir.with_name("up.log")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("HONE_")}
        environment["HONE_ENGINE_URLS"] = json.dumps([f"http://127.0.0.1:{free_port()}"])
        with self.output.open("wb") as log:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "deploy.cli", "up", "--model", BASE),
                    *("--state-dir", str(state_dir), "--port", str(self.port), *arguments),
                ],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=state_dir.parent,
                start_new_session=True,
            )

    @property
    def text(self) -> str:
        return self.output.read_text()

    def pid(self, part: str) -> int:
        return int(json.loads((self.state_dir / "run" / f"{part}.json").read_text())["pid"])

    def answers(self) -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{self.port}/status", timeout=5).status_code == 200
        except httpx.HTTPError:
            return False

    def wait_until_up(self) -> None:
        def is_up() -> bool:
            assert self.process.poll() is None, self.text
            return "Hone is up" in self.text

        until(is_up, "hone up was up")

    def kill_and_wait(self, part: str) -> None:
        before = self.pid(part)
        os.kill(before, signal.SIGKILL)
        until(lambda: self.pid(part) != before, f"{part} was started again")
        until(lambda: f"{part} is back" in self.text, f"{part} was ready again")

    def end(self, how: signal.Signals, seconds: float = 60.0) -> int:
        self.process.send_signal(how)
        return self.process.wait(seconds)


@contextmanager
def an_up(state_dir: Path, *arguments: str) -> Iterator[Up]:
    up = Up(state_dir, *arguments)
    try:
        up.wait_until_up()
        yield up
    finally:
        if up.process.poll() is None:
            up.end(signal.SIGTERM)


@pytest.fixture
def state(reachable_directory: Path) -> Path:
    return reachable_directory / "state"


@pytest.fixture(scope="module")
def service() -> Iterator[Up]:
    """One `hone up` for all tests that leave it running."""
    with open_directory() as directory, an_up(directory / "state") as up:
        yield up


def test_every_part_that_is_killed_comes_back_and_one_line_says_so(service: Up) -> None:
    for part in PARTS:
        service.kill_and_wait(part)
        assert service.text.count(f"{part} was killed by SIGKILL; starting it again.") == 1
    until(service.answers, "the gateway answered again")


def test_a_second_start_on_the_same_state_directory_is_refused_in_a_sentence(service: Up) -> None:
    second = subprocess.run(
        [sys.executable, "-m", "deploy.cli", "up", "--state-dir", str(service.state_dir)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode == 2
    assert f"already runs on {service.state_dir}: process {service.process.pid}" in second.stderr
    assert f"kill {service.process.pid}" in second.stderr
    assert "Traceback" not in second.stderr
    assert service.answers()


def test_a_port_that_is_taken_and_a_place_that_cannot_be_used_are_said_at_once(
    service: Up, state: Path
) -> None:
    taken = Up(state, port=service.port)
    assert taken.process.wait(60) == 2
    assert f"cannot listen on 127.0.0.1:{service.port}" in taken.text
    file = state.with_name("file")
    file.touch()
    unusable = Up(file)
    assert unusable.process.wait(60) == 2
    assert f"The state directory {file} cannot be used" in unusable.text


async def test_the_first_start_shows_an_admin_key_and_the_record_keeps_only_hashes(service: Up) -> None:
    url = await asyncio.to_thread((service.state_dir / "postgres.url").read_text)
    async with Database(url) as database, database.begin() as connection:
        active = await keys.active(connection)
    role = {key.key_hash: key.role for key in active}
    assert len(active) == 2
    assert [role[keys.hash_key(key)] for key in re.findall(r"Key +(hk_\S+)", service.text)] == ["admin"]
    assert role[keys.hash_key((service.state_dir / "operator.key").read_text())] == "operator"
    for secret in ("operator.key", "postgres.url"):
        assert (service.state_dir / secret).stat().st_mode & 0o077 == 0


def test_ctrl_c_stops_everything_in_order_and_leaves_no_process(state: Path) -> None:
    with an_up(state) as up:
        family = [child.pid for child in psutil.Process(up.process.pid).children(recursive=True)]
        assert len(family) > len(PARTS)
        assert up.end(signal.SIGINT) == 0
        assert "Told to stop by SIGINT." in up.text
        assert not [pid for pid in family if running(pid)]
        assert re.findall(r"Stopping (\w+): stopped", up.text) == ["gateway", "worker", "console", "postgres"]
        assert not list((state / "run").iterdir())
        assert "database system is shut down" in (state / "logs" / "postgres.log").read_text()


def test_a_stop_while_starting_leaves_no_process_either(state: Path) -> None:
    up = Up(state)
    until(lambda: "Database" in up.text, "it began")
    until(lambda: (state / "run" / "postgres.json").exists(), "the database was starting")
    postgres = up.pid("postgres")
    assert up.end(signal.SIGINT) == 0, up.text
    assert not running(postgres)
    assert "Traceback" not in up.text


def test_after_kill_9_nothing_survives_and_the_next_start_goes_on_with_the_same_record(state: Path) -> None:
    with an_up(state) as up:
        pids = [up.pid(part) for part in PARTS]
        # It cannot hear that its parent died: this is what a next start has to end.
        stopped = up.pid("gateway")
        os.kill(stopped, signal.SIGSTOP)
        up.end(signal.SIGKILL)
        until(
            lambda: not any(running(pid) for pid in pids if pid != stopped),
            "the others stopped by themselves",
        )
        assert running(stopped)
        operator = (state / "operator.key").read_text()
    with an_up(state) as again:
        assert "An earlier `hone up` was killed; ended its gateway." in again.text
        assert not running(stopped)
        assert again.answers()
        assert (state / "operator.key").read_text() == operator
        assert "hk_" not in again.text, "an admin key is made, and shown, once"
    other = Up(state, "--model", "another-base")
    assert other.process.wait(60) == 2
    assert f"stands on base model '{BASE}'" in other.text
    assert "Traceback" not in other.text
    assert not list((state / "run").iterdir()), "what had been started is stopped"


def test_the_welcome_says_where_how_and_with_which_key(tmp_path: Path) -> None:
    made = Keys(admin="hk_new", operator_file=tmp_path / "operator.key")
    running = Running("http://127.0.0.1:8000", (), "base")
    first = welcome(running, made, tmp_path, 3.2)
    assert "Bearer hk_new" in first
    assert "shown only now" in first
    later = welcome(running, Keys(None, tmp_path / "operator.key"), tmp_path, 3.2)
    assert f"Bearer $(cat {tmp_path}/operator.key)" in later
