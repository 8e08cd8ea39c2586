"""The hash of a published adapter's files, computed alike by who publishes and by who loads them."""

import hashlib
from pathlib import Path


def files_hash(directory: Path) -> str:
    """SHA-256 over the names and contents of all files below `directory`, in the order of their names."""
    whole = hashlib.sha256()
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{path.relative_to(directory).as_posix()}\0{content}\n".encode())
    return whole.hexdigest()
