"""The state directory of one machine: whose it is, and what an earlier `hone up` left running there."""

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from deploy.process import end_leftover
from feedback.errors import HoneError

PARTS = ("gateway", "worker", "engine", "postgres")
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
        HoneError: another `hone up` holds it.
    """
    with (directory / "hone.lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            pid, _, since = file.read().strip().partition(" ")
            raise HoneError(
                f"`hone up` already runs on {directory}: process {pid or 'unknown'}, since {since or 'just now'}. "
                f"Stop it with Ctrl-C there or `kill {pid or 'PID'}`, or start another service "
                "with --state-dir and --port."
            ) from None
        file.truncate(0)
        file.write(f"{os.getpid()} {datetime.now().astimezone():%Y-%m-%d %H:%M:%S}\n")
        file.flush()
        yield


async def end_leftovers(directory: Path) -> list[str]:
    """End what a killed `hone up` left running; returns the names of those parts. The caller holds the directory."""
    files = [directory / "run" / f"{part}.json" for part in PARTS]
    found = await asyncio.gather(*(asyncio.to_thread(end_leftover, file) for file in files))
    return [part for part, running in zip(PARTS, found, strict=True) if running]
