"""Processes that the worker starts beside itself: what they import and hold goes away with them.

They run below everything else in priority, write what they say to a log of their own, and outlive neither a wish to end
them (one that does not heed SIGTERM is killed) nor, on Linux, the worker: the kernel sends them SIGTERM when it dies.
"""

import asyncio
import os
import signal
import sys
from asyncio.subprocess import DEVNULL, Process
from pathlib import Path

from feedback.database import Database
from monitoring.exec_child import bound
from monitoring.logs import rotate

STOP_SECONDS = 10.0
LOG_BYTES_MAX = 5_000_000


def child_environment(database: Database, state_dir: Path, threads: int = 1) -> dict[str, str]:
    """This process's environment with the worker's database and directory; a child computes with so many threads."""
    root = str(Path(__file__).parent.parent)
    return os.environ | {
        "HONE_DATABASE_URL": database.url.set(drivername="postgresql").render_as_string(False),
        "HONE_STATE_DIR": str(state_dir),
        "OMP_NUM_THREADS": str(threads),
        "MKL_NUM_THREADS": str(threads),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
    }


async def start_child(*module: str, log_file: Path, environment: dict[str, str]) -> Process:
    """Start `python -m MODULE ARGUMENTS`; what it says is added to the log, which is rotated first."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    rotate(log_file, LOG_BYTES_MAX)
    with log_file.open("ab") as output:
        return await asyncio.create_subprocess_exec(
            *bound("nice", "-n", "10", sys.executable, "-m", *module, death_signal=signal.SIGTERM),
            env=environment,
            stdin=DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )


def heed_sigterm() -> None:
    """In a child: end by SIGTERM as by an exception, so that what is temporary is removed."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))


async def end_child(process: Process) -> None:
    """Ask it to end, and see that it does."""
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()
            await process.wait()
