"""Keep one child process running: ready before it counts, restarted when it dies or hangs, never orphaned.

Promises: a child that ends by itself, or stops answering for `hung_seconds`, is started again after a pause that
doubles, and that starts over once the child has been well for a while; only an answer from the child itself makes it
ready, not one from a stranger on its port; its log is kept below a size; stopping asks first and kills its whole
session after the grace period; what an earlier supervisor left behind is ended at the next start, and nothing
else is.

Refuses: to give up (a machine that runs out of disk at night should serve again in the morning), and to judge
a process that answers badly: that is the monitoring's.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from deploy.files import write_private
from deploy.launch import Command, spawn
from feedback.errors import HoneError
from monitoring.logs import rotate

_POLL_SECONDS = 0.05
_WATCH_SECONDS = 5.0
State = Literal["stopped", "starting", "ready", "waiting"]


@dataclass(frozen=True)
class Backoff:
    """How long to wait before the next start."""

    first_seconds: float = 0.5
    longest_seconds: float = 30.0
    stable_seconds: float = 60.0
    """A child that was ready this long has earned a fresh start of the pauses."""

    def pause(self, failures: int) -> float:
        """Seconds to wait after this many ends in a row (1 or more)."""
        return min(self.first_seconds * 2.0 ** min(failures - 1, 16), self.longest_seconds)


@dataclass(frozen=True)
class Service:
    """What to keep running."""

    name: str
    command: Command
    is_ready: Callable[[], Awaitable[bool]]
    start_seconds: float = 60.0
    """Not ready after this long counts as failed."""
    stop_seconds: float = 10.0
    """From the stop signal to SIGKILL."""
    before_start: Callable[[], None] | None = None
    """Called before every start, the restarts included."""
    port: int | None = None
    """The TCP port that the child itself has to listen on before it counts as ready."""
    hung_seconds: float | None = None
    """A child that was ready and has not been for this long is killed and started again; None: never."""


class Child:
    """One service as a process of ours.

    Args:
        service: what to run.
        directory: the state directory; the log goes to `logs/<name>.log`, the pid file to `run/<name>.json`.
        say: shows a person one line.
    """

    def __init__(
        self,
        service: Service,
        directory: Path,
        *,
        say: Callable[[str], None] = lambda line: None,
        backoff: Backoff | None = None,
        log_bytes: int = 20_000_000,
    ) -> None:
        self.service = service
        self.log_file = directory / "logs" / f"{service.name}.log"
        self.pid_file = directory / "run" / f"{service.name}.json"
        self.state: State = "stopped"
        self.restarts = 0
        self._say = say
        self._backoff = backoff or Backoff()
        self._log_bytes = log_bytes
        self._process: subprocess.Popen[bytes] | None = None
        self._failures = 0
        self._members: dict[str, str] = {}

    @property
    def pid(self) -> int | None:
        """The process id while one is running."""
        return self._process.pid if self._process else None

    async def start(self) -> None:
        """End what an earlier supervisor left, start, and return once it is ready.

        Raises:
            HoneError: it ended or was not ready in time, and is not running; the message ends with its log.
        """
        await asyncio.to_thread(end_leftover, self.pid_file)
        try:
            await self._start_once()
        except BaseException:
            await self.stop(grace_seconds=0)
            raise

    async def keep_running(self) -> None:
        """Watch the started child and start it again whenever it ends; runs until cancelled."""
        while True:
            ready_at = time.monotonic()
            answered_at = ready_at
            while not self._has_ended():
                rotate(self.log_file, self._log_bytes)
                self._write_pid_file()
                await self._sleep_while_running(_WATCH_SECONDS)
                answered_at = await self._kill_if_hung(answered_at)
            if time.monotonic() - ready_at >= self._backoff.stable_seconds:
                self._failures = 0
            self._say(f"{self.service.name} {self._reap()}; starting it again. Log: {self.log_file}")
            await self._restart()

    async def _kill_if_hung(self, answered_at: float) -> float:
        """Kill a child that has been silent for too long; returns when it last answered (monotonic seconds)."""
        limit = self.service.hung_seconds
        if limit is None or await self.service.is_ready():
            return time.monotonic()
        if time.monotonic() - answered_at > limit and not self._has_ended():
            self._say(f"{self.service.name} runs but has not answered for {limit:g} s; ending it.")
            self.kill()
            await self._sleep_while_running(10.0)
        return answered_at

    async def stop(self, grace_seconds: float | None = None) -> None:
        """Ask the child to stop; kill it and whatever it started after the grace period (0: at once)."""
        grace = self.service.stop_seconds if grace_seconds is None else grace_seconds
        if self._process is not None:
            if grace > 0:
                # The leader only: it knows in which order its own children may go.
                self._process.send_signal(self.service.command.stop_signal)
                await self._sleep_while_running(grace)
            self._reap()
        self.pid_file.unlink(missing_ok=True)
        self.state = "stopped"

    def kill(self) -> None:
        """Kill the child and all that descends from it now, without asking."""
        if self._process is not None:
            descendants = _descendants(self._process.pid)
            _kill_group(self._process.pid)
            for pid in descendants:
                _send(pid, signal.SIGKILL)

    async def _restart(self) -> None:
        began = time.monotonic()
        while True:
            self._failures += 1
            self.state = "waiting"
            await asyncio.sleep(self._backoff.pause(self._failures))
            try:
                await self._start_once()
            except (HoneError, OSError) as error:
                own = isinstance(error, HoneError)
                reason = (
                    f"{error}".splitlines()[0] if own else f"{self.service.name} cannot be started: {error}."
                )
                self._say(f"{reason} Trying again. Log: {self.log_file}")
                self._reap()
                continue
            self.restarts += 1
            self._say(f"{self.service.name} is back after {time.monotonic() - began:.1f} s.")
            return

    async def _start_once(self) -> None:
        name = self.service.name
        self.state = "starting"
        if self.service.before_start:
            await asyncio.to_thread(self.service.before_start)
        rotate(self.log_file, self._log_bytes)
        self._process = spawn(self.service.command, self.log_file)
        self._write_pid_file()
        deadline = time.monotonic() + self.service.start_seconds
        ready = False
        while not ready:
            await asyncio.sleep(_POLL_SECONDS)
            if self._has_ended():
                raise HoneError(f"{name} {self._reap()} while starting.\n{tail(self.log_file)}")
            if time.monotonic() > deadline:
                waited = self.service.start_seconds
                raise HoneError(f"{name} was not ready after {waited:g} s.\n{tail(self.log_file)}")
            ready = await self.service.is_ready() and self._listens()
        self._write_pid_file()
        self.state = "ready"

    def _listens(self) -> bool:
        """Whether it is our child that has the port: a stranger who got it first answers just as well."""
        if self.service.port is None or self._process is None:
            return True
        return any(_listens_on(pid, self.service.port) for pid in self._pids())

    def _pids(self) -> list[int]:
        """The processes of the child's session."""
        session = self._process.pid if self._process else 0
        return [pid for pid in psutil.pids() if pid == session or _session(pid) == session]

    def _write_pid_file(self) -> None:
        """Note which processes the child consists of now, so that a later supervisor can end exactly these."""
        if self._process is None:
            return
        session = self._process.pid
        members = {str(pid): identity(pid) for pid in self._pids()}
        if members != self._members:
            record = {"pid": session, "command": self.service.command.argv, "members": members}
            # On a full disk it is noted at a later look: the child goes on meanwhile, and so does its watch.
            with contextlib.suppress(OSError):
                self.pid_file.parent.mkdir(parents=True, exist_ok=True)
                write_private(self.pid_file, json.dumps(record))
                self._members = members

    def _has_ended(self) -> bool:
        """Whether the leader has ended, without reaping it: its number stays ours until `_reap`."""
        return self._process is None or _is_gone_or_zombie(self._process.pid)

    async def _sleep_while_running(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not self._has_ended() and time.monotonic() < deadline:
            await asyncio.sleep(min(_POLL_SECONDS, max(deadline - time.monotonic(), 0)))

    def _reap(self) -> str:
        """Collect the ended child and what it left running; says how it ended."""
        if self._process is None:
            return "ended"
        _kill_group(self._process.pid)
        status = self._process.wait()
        self._process = None
        return (
            f"was killed by {signal.Signals(-status).name}"
            if status < 0
            else f"ended with exit status {status}"
        )


def end_leftover(pid_file: Path, grace_seconds: float = 10.0) -> bool:
    """End the processes that a killed supervisor left, if the pid file still means those very processes.

    Process numbers are used again. The recorded start time (and, on Linux, the boot) tells ours from a
    stranger's.

    Returns:
        Whether something was running.
    """
    try:
        record = json.loads(pid_file.read_text())
        leader = int(record["pid"])
        members = {int(pid): str(started) for pid, started in record["members"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False

    def alive() -> list[int]:
        return [
            pid
            for pid, started in members.items()
            if identity(pid) == started and not _is_gone_or_zombie(pid)
        ]

    found = alive()
    if leader in found:
        _send(leader, signal.SIGTERM)
        deadline = time.monotonic() + grace_seconds
        while leader in alive() and time.monotonic() < deadline:
            time.sleep(_POLL_SECONDS)
    for pid in alive():
        _send(pid, signal.SIGKILL)
    pid_file.unlink(missing_ok=True)
    return bool(found)


def identity(pid: int) -> str:
    """What tells this process from every other that had or will have its number; empty where none has it."""
    try:
        if os.path.exists("/proc/self/stat"):
            boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            ticks_since_boot = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
            return f"{boot} {ticks_since_boot}"
        return str(psutil.Process(pid).create_time())
    except (OSError, psutil.Error):
        return ""


def tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log, for an error message."""
    try:
        with path.open("rb") as file:
            file.seek(max(path.stat().st_size - 16_384, 0))
            return "\n".join(file.read().decode(errors="replace").splitlines()[-lines:])
    except OSError:
        return f"(nothing in {path})"


def _descendants(pid: int) -> list[int]:
    try:
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _listens_on(pid: int, port: int) -> bool:
    try:
        connections = psutil.Process(pid).net_connections(kind="tcp")
    except psutil.Error:
        return False
    return any(one.status == psutil.CONN_LISTEN and one.laddr.port == port for one in connections)


def _session(pid: int) -> int:
    try:
        return os.getsid(pid)
    except OSError:
        return 0


def _is_gone_or_zombie(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def _kill_group(pid: int) -> None:
    """Kill what is left of the session that `pid` leads; its number cannot be reused while a member lives."""
    # Nothing left; macOS says 'not permitted' for a group of zombies.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _send(pid: int, wanted: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, wanted)
