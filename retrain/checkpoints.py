"""Checkpoints on disk: one counts once its marker is there, and the marker comes after everything else."""

import os
from pathlib import Path

COMPLETE_MARKER = "complete"


def complete(checkpoint: Path) -> None:
    """Force a checkpoint to the disk and mark it as whole."""
    sync_directory(checkpoint)
    (checkpoint / COMPLETE_MARKER).touch()
    sync_directory(checkpoint, files=False)


def last_checkpoint(directory: Path) -> Path | None:
    """The newest checkpoint that was written whole."""
    whole = [path.parent for path in directory.glob(f"checkpoint-*/{COMPLETE_MARKER}")]
    return max(whole, key=lambda path: int(path.name.rpartition("-")[2]), default=None)


def sync_directory(directory: Path, *, files: bool = True) -> None:
    """Force a directory's entries, and its files, to the disk."""
    paths = [path for path in directory.rglob("*") if path.is_file()] if files else []
    for path in [*paths, directory]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
