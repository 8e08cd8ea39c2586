"""The state directory of one machine: whose it is, and what an earlier `hone up` left running there."""

import asyncio
import contextlib
import fcntl
import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import IO

from deploy.files import write_private
from deploy.process import end_leftover
from feedback.errors import HoneError

PARTS = ("gateway", "worker", "console", "engine", "postgres")
"""What `hone up` runs, in the order in which it stops."""


def make(directory: Path) -> None:
    """Create the directory where it is absent; others may pass through it but not look into it.

    Raises:
        HoneError: it cannot be created or written.
    """
    try:
        if not directory.exists():
            directory.mkdir(parents=True)
            # As root, PostgreSQL runs as another user, whose data is below.
            directory.chmod(0o711 if os.geteuid() == 0 else 0o700)
        probe = directory / f".write-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise HoneError(
            f"The state directory {directory} cannot be used: {error.strerror}. "
            "Give another with --state-dir or HONE_STATE_DIR, or correct its owner and permissions."
        ) from error


@contextlib.contextmanager
def held(directory: Path) -> Iterator[None]:
    """Hold the directory for this process; the system lets go of it when the process ends, however it ends.

    Raises:
        HoneError: another `hone up` holds it, or another user made it.
    """
    with _lock_file(directory) as file:
        if not _lock(file):
            file.seek(0)
            pid, _, since = file.read().strip().partition(" ")
            raise HoneError(
                f"`hone up` already runs on {directory}: process {pid or 'unknown'}, since {since or 'just now'}. "
                f"Stop it with Ctrl-C there or `kill {pid or 'PID'}`, or start another service "
                "with --state-dir and --port."
            )
        file.truncate(0)
        file.write(f"{os.getpid()} {datetime.now().astimezone():%Y-%m-%d %H:%M:%S}\n")
        file.flush()
        yield


def _lock_file(directory: Path) -> IO[str]:
    path = directory / "hone.lock"
    try:
        return path.open("a+")
    except OSError as error:
        raise HoneError(
            f"{path} cannot be written: {error.strerror}. Another user may have started Hone here, by `sudo` perhaps: "
            f"`chown -R` {directory} to the one who runs it, or give another with --state-dir."
        ) from error


def _lock(file: IO[str]) -> bool:
    # More than one try: `holder` in another process has the file for an instant.
    for pause in (0.05, 0.2, 0.0):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(pause)
    return False


@dataclass(frozen=True)
class Running:
    """What a running `hone up` decided, for other commands on this machine."""

    gateway_url: str
    engine_urls: tuple[str, ...]
    base_model: str
    console_url: str | None = None


@contextlib.contextmanager
def announced(directory: Path, running: Running) -> Iterator[None]:
    """Keep `service.json` in the directory for as long as the block runs."""
    file = directory / "service.json"
    write_private(file, json.dumps(asdict(running)))
    try:
        yield
    finally:
        file.unlink(missing_ok=True)


def find_running(directory: Path) -> Running | None:
    """What the `hone up` that holds the directory announced; None where none runs, or not yet."""
    if holder(directory) is None:
        return None
    try:
        found = json.loads((directory / "service.json").read_text())
        return Running(found["gateway_url"], tuple(found["engine_urls"]), found["base_model"])
    except (OSError, ValueError, KeyError):
        return None


def holder(directory: Path) -> str | None:
    """Process id and start time of the `hone up` that holds the directory; None where none does."""
    try:
        with (directory / "hone.lock").open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().strip() or "unknown"
    except OSError:
        pass
    return None


async def end_leftovers(directory: Path) -> list[str]:
    """End what a killed `hone up` left running; returns the names of those parts. The caller holds the directory."""
    files = [directory / "run" / f"{part}.json" for part in PARTS]
    found = await asyncio.gather(*(asyncio.to_thread(end_leftover, file) for file in files))
    return [part for part, running in zip(PARTS, found, strict=True) if running]
