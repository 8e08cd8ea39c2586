"""Keeping a child running, with small real children: what dies comes back, what stops is gone, strangers are spared."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from deploy import process
from deploy.files import write_private
from deploy.launch import Command, spawn
from deploy.process import Backoff, Child, Service, end_leftover, identity
from feedback.errors import HoneError
from monitoring.logs import rotate

BEACON = """
import os, signal, sys, time, pathlib
ready = pathlib.Path(sys.argv[1])
def leave(*_):
    print("leaving", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, leave)
print("starting", flush=True)
ready.write_text(str(os.getpid()))
while True:
    time.sleep(0.05)
"""
STUBBORN = BEACON.replace(
    "signal.signal(signal.SIGTERM, leave)",
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
)
PARENT = BEACON.replace(
    "ready.write_text(str(os.getpid()))",
    "import subprocess; child = subprocess.Popen(['sleep', '600'])\nready.write_text(f'{os.getpid()} {child.pid}')",
)
QUICK = Backoff(first_seconds=0.05, longest_seconds=0.4, stable_seconds=60)


def running(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


async def until(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        await asyncio.sleep(0.02)


class Stage:
    """One child in a temporary state directory, what it said, and its watch."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.said: list[str] = []
        self.ready_file = directory / "ready"
        self.children: list[Child] = []
        self.watches: list[asyncio.Task[None]] = []

    def child(self, program: str = BEACON, **options: Any) -> Child:
        def forget() -> None:
            self.ready_file.unlink(missing_ok=True)

        async def is_ready() -> bool:
            return self.ready_file.exists()

        service = Service(
            "beacon",
            Command((sys.executable, "-c", program, str(self.ready_file))),
            is_ready,
            before_start=forget,
            **options,
        )
        child = Child(service, self.directory, say=self.said.append, backoff=QUICK)
        self.children.append(child)
        return child

    def watch(self, child: Child) -> None:
        self.watches.append(asyncio.create_task(child.keep_running()))

    async def clear(self) -> None:
        for watch in self.watches:
            watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await watch
        for child in self.children:
            await child.stop(grace_seconds=0)


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    made = Stage(tmp_path)
    yield made
    await made.clear()


def test_a_note_that_found_no_room_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    note = tmp_path / "beacon.json"
    write_private(note, "old")
    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(OSError, match="No space left"):
        write_private(note, "new")
    assert (note.read_text(), list(tmp_path.iterdir())) == ("old", [note])


async def test_a_full_disk_costs_notes_and_never_the_watch(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = stage.child()
    await child.start()
    starts = [0]

    def no_room(*_: object) -> None:
        raise OSError(28, "No space left on device")

    def no_room_at_first(command: Command, log_file: Path) -> Any:
        starts[0] += 1
        return spawn(command, log_file) if starts[0] > 2 else no_room()

    monkeypatch.setattr(process, "write_private", no_room)
    monkeypatch.setattr(process, "spawn", no_room_at_first)
    stage.watch(child)
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    await until(lambda: stage.watches[0].done() or (child.restarts == 1 and child.state == "ready"))
    assert not stage.watches[0].done()
    assert any("No space left on device" in line for line in stage.said)


async def test_a_child_killed_by_kill_9_comes_back_and_says_so_in_one_line(
    stage: Stage,
) -> None:
    child = stage.child()
    await child.start()
    stage.watch(child)
    first = child.pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await until(lambda: child.restarts == 1 and child.state == "ready")
    assert child.pid != first
    assert stage.said[0].startswith("beacon was killed by SIGKILL; starting it again.")
    assert "beacon is back after" in stage.said[1]
    assert len(stage.said) == 2


async def test_every_further_failure_waits_longer_until_the_child_was_well_for_a_while(
    stage: Stage,
) -> None:
    assert [QUICK.pause(n) for n in (1, 2, 3, 4, 5, 500)] == [
        0.05,
        0.1,
        0.2,
        0.4,
        0.4,
        0.4,
    ]
    child = stage.child()
    await child.start()
    stage.watch(child)
    pauses = []
    for _ in range(3):
        restarts, died = child.restarts, time.monotonic()
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        while child.restarts == restarts:
            await asyncio.sleep(0.01)
        pauses.append(time.monotonic() - died)
    assert pauses[2] > 0.2 > QUICK.pause(2)


async def test_a_child_that_cannot_start_fails_the_first_start_with_the_end_of_its_log(
    stage: Stage,
) -> None:
    child = stage.child("import sys; sys.exit('the disk is full')")
    with pytest.raises(
        HoneError,
        match=r"(?s)beacon ended with exit status 1 while starting.*the disk is full",
    ):
        await child.start()
    assert child.pid is None
    assert not child.pid_file.exists()


async def test_a_child_that_never_gets_ready_is_killed(stage: Stage) -> None:
    child = stage.child(
        "import time; print('pid', __import__('os').getpid(), flush=True); time.sleep(60)",
        start_seconds=0.5,
    )
    with pytest.raises(HoneError, match=r"beacon was not ready after 0\.5 s"):
        await child.start()
    assert not running(int(child.log_file.read_text().split()[1]))


async def test_an_answer_from_a_stranger_on_the_port_does_not_make_a_child_ready(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        child = stage.child(port=stranger.getsockname()[1], start_seconds=1.0)
        with pytest.raises(HoneError, match=r"beacon was not ready after 1 s"):
            await child.start()
    assert not running(int(stage.ready_file.read_text()))


async def test_a_child_that_listens_on_its_port_is_ready(stage: Stage) -> None:
    with socket.create_server(("127.0.0.1", 0)) as passing:
        port = passing.getsockname()[1]
    listening = BEACON.replace(
        "ready.write_text",
        f"import socket; ear = socket.create_server(('127.0.0.1', {port}))\nready.write_text",
    )
    child = stage.child(listening, port=port)
    await child.start()
    assert child.state == "ready"


async def test_a_child_that_hangs_is_ended_and_started_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "_WATCH_SECONDS", 0.05)
    child = stage.child(STUBBORN, hung_seconds=0.3)
    await child.start()
    stage.watch(child)
    first = child.pid
    stage.ready_file.unlink()  # it runs on, and answers no more
    await until(lambda: child.restarts == 1 and child.state == "ready")
    assert child.pid != first
    assert stage.said[0] == "beacon runs but has not answered for 0.3 s; ending it."


async def test_a_restart_that_fails_is_tried_again(stage: Stage, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    child = stage.child(
        f"import pathlib, sys\nif pathlib.Path({str(broken)!r}).exists(): sys.exit(3)\n{BEACON}"
    )
    await child.start()
    stage.watch(child)
    broken.touch()
    assert child.pid is not None
    os.kill(child.pid, signal.SIGKILL)
    await until(lambda: len(stage.said) >= 3)
    broken.unlink()
    await until(lambda: child.state == "ready")
    assert "ended with exit status 3 while starting" in stage.said[1]


async def test_stopping_asks_first_and_leaves_no_pid_file(stage: Stage) -> None:
    child = stage.child()
    await child.start()
    assert child.pid_file.exists()
    await child.stop()
    assert "leaving" in child.log_file.read_text()
    assert not child.pid_file.exists()
    assert child.state == "stopped"


async def test_a_child_deaf_to_the_stop_signal_is_killed_after_the_grace_period(
    stage: Stage,
) -> None:
    child = stage.child(STUBBORN, stop_seconds=0.3)
    await child.start()
    pid, began = child.pid, time.monotonic()
    await child.stop()
    assert pid is not None
    assert not running(pid)
    assert time.monotonic() - began >= 0.3


async def test_a_kill_ends_a_stop_that_would_wait_and_all_that_descends_from_the_child(stage: Stage) -> None:
    elsewhere = PARENT.replace("'600']", "'600'], start_new_session=True").replace(
        "leave)", "signal.SIG_IGN)"
    )
    child = stage.child(elsewhere, stop_seconds=60)
    await child.start()
    pids = [int(pid) for pid in stage.ready_file.read_text().split()]
    stopping = asyncio.create_task(child.stop())
    await asyncio.sleep(0.2)
    assert not stopping.done()
    child.kill()
    await asyncio.wait_for(stopping, 30)
    await until(lambda: not any(running(pid) for pid in pids))


async def test_stopping_takes_along_what_the_child_started(stage: Stage) -> None:
    child = stage.child(PARENT)
    await child.start()
    pids = [int(pid) for pid in stage.ready_file.read_text().split()]
    await child.stop()
    await until(lambda: not any(running(pid) for pid in pids))


async def test_when_the_leader_dies_what_it_started_goes_before_the_next_start(
    stage: Stage,
) -> None:
    child = stage.child(PARENT)
    await child.start()
    stage.watch(child)
    leader, grandchild = (int(pid) for pid in stage.ready_file.read_text().split())
    os.kill(leader, signal.SIGKILL)
    await until(lambda: child.restarts == 1)
    assert not running(grandchild)


SUPERVISOR = """
import asyncio, pathlib, sys
from deploy import process
from deploy.files import write_private
from deploy.launch import Command, spawn
from deploy.process import Child, Service
directory = pathlib.Path(sys.argv[1])
ready = directory / "ready"
async def is_ready():
    return ready.exists()
async def main():
    service = Service("beacon", Command((sys.executable, "-c", sys.argv[2], str(ready))), is_ready)
    child = Child(service, directory)
    await child.start()
    print("up", flush=True)
    await child.keep_running()
asyncio.run(main())
"""


def a_killed_supervisor(directory: Path, program: str) -> list[int]:
    """Start a supervisor with a child, kill it with SIGKILL; returns the child's process ids."""
    supervisor = subprocess.Popen(
        [sys.executable, "-c", SUPERVISOR, str(directory), program],
        stdout=subprocess.PIPE,
    )
    assert supervisor.stdout is not None
    assert supervisor.stdout.readline() == b"up\n"
    supervisor.kill()
    supervisor.communicate()
    return [int(pid) for pid in (directory / "ready").read_text().split()]


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a child that its parent died")
async def test_kill_9_of_the_supervisor_stops_the_child_by_its_stop_signal(
    tmp_path: Path,
) -> None:
    [pid] = await asyncio.to_thread(a_killed_supervisor, tmp_path, BEACON)
    await until(lambda: not running(pid))
    assert "leaving" in (tmp_path / "logs" / "beacon.log").read_text()


@pytest.mark.parametrize("leader_lives", [True, False])
async def test_what_survived_the_supervisor_is_ended_at_the_next_start(
    stage: Stage, leader_lives: bool
) -> None:
    program = PARENT.replace(
        "signal.signal(signal.SIGTERM, leave)",
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
    )
    leader, grandchild = await asyncio.to_thread(a_killed_supervisor, stage.directory, program)
    assert running(leader)
    if not leader_lives:
        os.kill(leader, signal.SIGKILL)
        assert running(grandchild)
    assert await asyncio.to_thread(end_leftover, stage.directory / "run" / "beacon.json", 0.2)
    await until(lambda: not running(leader) and not running(grandchild))
    await stage.child().start()


def test_a_stranger_that_got_the_recorded_number_is_spared(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"], start_new_session=True)
    try:
        pid_file = tmp_path / "beacon.json"
        earlier = {str(stranger.pid): "another boot 12345"}
        pid_file.write_text(json.dumps({"pid": stranger.pid, "command": ["sleep"], "members": earlier}))
        assert identity(stranger.pid)
        assert not end_leftover(pid_file)
        assert stranger.poll() is None
        assert not pid_file.exists()
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}', '{"pid": "x", "members": {}}'])
def test_a_damaged_pid_file_ends_nothing(tmp_path: Path, text: str) -> None:
    pid_file = tmp_path / "beacon.json"
    pid_file.write_text(text)
    assert not end_leftover(pid_file)


def test_a_log_past_its_size_moves_aside_while_its_writer_goes_on(
    tmp_path: Path,
) -> None:
    log = tmp_path / "a.log"
    with log.open("ab", buffering=0) as writer:
        writer.write(b"x" * 1000)
        rotate(log, 1000)
        assert log.stat().st_size == 1000
        writer.write(b"y")
        rotate(log, 1000)
        writer.write(b"after")
    assert log.read_bytes() == b"after"
    assert (tmp_path / "a.log.1").stat().st_size == 1001
