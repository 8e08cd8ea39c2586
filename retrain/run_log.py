"""Print a run's log: what its training processes wrote, across restarts."""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from feedback.errors import NotFound
from retrain.train import log_file

POLL_SECONDS = 0.5


def print_log(state_dir: Path, run_id: str, *, until: Callable[[], bool] | None = None) -> None:
    """Print the log; with `until`, go on with what is added to it until that is true.

    Raises:
        NotFound: there is no log here.
    """
    file = log_file(state_dir, run_id)
    while until is not None and not file.exists() and not until():
        time.sleep(POLL_SECONDS)
    if not file.exists():
        raise NotFound(
            f"{run_id} has no log in {file.parent}: it has not started, or a worker on another machine trained it."
        )
    with file.open("rb") as log:
        while True:
            ended = until is None or until()
            sys.stdout.write(log.read().decode(errors="replace"))
            sys.stdout.flush()
            if ended:
                return
            time.sleep(POLL_SECONDS)
