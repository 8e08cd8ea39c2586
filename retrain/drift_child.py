"""Run the look for drift as a child process, one at a time: what it imports and holds goes away with it."""

import asyncio
from pathlib import Path

from feedback.database import Database
from retrain.children import child_environment, end_child, start_child

LOOK_SECONDS_MAX = 1800.0


async def look(database: Database, state_dir: Path) -> list[str]:
    """Start it, wait for its end, and see that nothing of it is left when this is cancelled."""
    log_file = state_dir / "logs" / "drift.log"
    process = await start_child(
        "monitoring.drift", log_file=log_file, environment=child_environment(database, state_dir)
    )
    try:
        status = await asyncio.wait_for(process.wait(), LOOK_SECONDS_MAX)
    except (asyncio.CancelledError, TimeoutError):
        await end_child(process)
        raise
    return [] if status == 0 else [f"Looking for drift ended with status {status}; {log_file} says why."]
