"""Directories for trainings that nobody keeps: below the state directory, gone when they end or at the next look.

What was trained on people's words must not stay where no erasure looks for it. A process that is killed cannot clean
up, so whoever comes next does: what its process holds no more is removed.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


@contextmanager
def scratch(state_dir: Path, purpose: str) -> Iterator[Path]:
    """A directory of this process alone, until the end of the block."""
    sweep(state_dir)
    root = _root(state_dir)
    root.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        # Between making and holding a directory, another's sweep would take it for one that was left.
        with _held(root):
            directory = Path(tempfile.mkdtemp(prefix=f"{purpose}-", dir=root))
            held.enter_context(_held(directory))
        try:
            yield directory
        finally:
            shutil.rmtree(directory, ignore_errors=True)


def sweep(state_dir: Path) -> None:
    """Remove what processes that were killed have left."""
    root = _root(state_dir)
    if not root.exists():
        return
    with _held(root):
        for left in root.iterdir():
            try:
                with _held(left, fcntl.LOCK_NB):
                    shutil.rmtree(left, ignore_errors=True)
            except (BlockingIOError, FileNotFoundError):
                continue  # it is in use, or was removed by its own process just now


def _root(state_dir: Path) -> Path:
    return state_dir / "scratch"


@contextmanager
def _held(directory: Path, how: int = 0) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | how)
        yield
    finally:
        os.close(descriptor)
