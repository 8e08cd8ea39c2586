"""Run the look for drift as a child process, one at a time: what it imports and holds goes away with it."""

import asyncio
import os
import sys
from asyncio.subprocess import DEVNULL, Process
from pathlib import Path

import structlog

from feedback.database import Database
from monitoring.logs import rotate

STOP_SECONDS = 10.0
LOOK_SECONDS_MAX = 1800.0
LOG_BYTES_MAX = 5_000_000

log = structlog.get_logger(__name__)


async def look(database: Database, state_dir: Path) -> list[str]:
    """Start it, wait for its end, and see that nothing of it is left when this is cancelled."""
    log_file = state_dir / "logs" / "drift.log"
    log_file.parent.mkdir(parents=True, exist_ok=True)
    rotate(log_file, LOG_BYTES_MAX)
    with log_file.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            *("nice", "-n", "10", sys.executable, "-m", "monitoring.drift"),
            env=_environment(database, state_dir),
            stdin=DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        status = await asyncio.wait_for(process.wait(), LOOK_SECONDS_MAX)
    except (asyncio.CancelledError, TimeoutError):
        await _end(process)
        raise
    return [] if status == 0 else [f"Looking for drift ended with status {status}; {log_file} says why."]


async def _end(process: Process) -> None:
    if process.returncode is None:
        process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS)
        except TimeoutError:
            process.kill()


def _environment(database: Database, state_dir: Path) -> dict[str, str]:
    root = str(Path(__file__).parent.parent)
    return os.environ | {
        "HONE_DATABASE_URL": database.url.set(drivername="postgresql").render_as_string(False),
        "HONE_STATE_DIR": str(state_dir),
        "OMP_NUM_THREADS": "1",
        "DO_NOT_TRACK": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
    }
