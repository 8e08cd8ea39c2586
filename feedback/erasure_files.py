"""What an erasure does with the files of one machine.

Directories of runs that used erased rows are deleted, exports and set-aside records that name what was erased too. Log
lines that name it are overwritten in place, as their processes go on appending. A spool belongs to its gateway, which
drops what is buried and begins a new segment; until it has, the erasure waits. Pages and caches in the state directory
that name it are deleted; any other file that does is left and named, for a person to look at.

A file is searched for pseudonyms and ids, not for words: files that hold words hold these too.
"""

import asyncio
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SEARCHED_BYTES = 4 * 1024 * 1024
NAMES_PER_PATTERN = 2000
NOT_SEARCHED = ("postgres", "adapters", "spool", "files", "exports", "scratch")
"""Folders of the state directory with their own rules, or that hold weights; uploads name nobody."""
DERIVED = ("drift", "cache", "datasets", "tmp")
"""Folders of files that are made again from the record."""


@dataclass(slots=True)
class Cleaned:
    """What was done, and what could not be done yet."""

    counts: Counter[str] = field(default_factory=Counter)
    exports: list[str] = field(default_factory=list)
    waits_for: list[str] = field(default_factory=list)


async def clean(
    state_dir: Path, names: Sequence[str], run_ids: Sequence[str], exports: Mapping[str, Path]
) -> Cleaned:
    """Clean the files of this machine, in a thread."""
    return await asyncio.to_thread(_clean, state_dir, names, run_ids, exports)


def _clean(
    state_dir: Path, names: Sequence[str], run_ids: Sequence[str], exports: Mapping[str, Path]
) -> Cleaned:
    cleaned = Cleaned()
    search = Search(names)
    for run_id in run_ids:
        if (directory := state_dir / "runs" / run_id).exists():
            shutil.rmtree(directory)
            cleaned.counts["run_directories"] += 1
    for export_id, path in exports.items():
        # A compressed file does not show what it holds.
        if path.exists() and (path.suffix == ".parquet" or search.finds(path)):
            path.unlink()
            cleaned.counts["export_files"] += 1
        if not path.exists():
            cleaned.exports.append(export_id)
    _clean_spool(state_dir / "spool", search, cleaned)
    for path in _other_files(state_dir):
        _clean_file(path, state_dir, search, cleaned)
    return cleaned


def _clean_spool(spool: Path, search: "Search", cleaned: Cleaned) -> None:
    for path in sorted(spool.glob("refused/*.bin")):
        if search.finds(path):
            path.unlink()
            cleaned.counts["set_aside_records"] += 1
    for directory in sorted(spool.glob("gateway-*")):
        if any(search.finds(path) for path in directory.glob("*.log")):
            cleaned.waits_for.append(
                f"{directory} still holds records of it: its gateway lets go of them within a minute; if none runs "
                "on this machine, start one"
            )


def _other_files(state_dir: Path) -> Iterator[Path]:
    for top in sorted(state_dir.iterdir()) if state_dir.exists() else ():
        if top.is_file():
            yield top
        elif top.name not in NOT_SEARCHED:
            yield from (path for path in sorted(top.rglob("*")) if path.is_file() and not path.is_symlink())


def _clean_file(path: Path, state_dir: Path, search: "Search", cleaned: Cleaned) -> None:
    if not search.finds(path):
        return
    if ".log" in path.suffixes:
        cleaned.counts["log_lines"] += search.blank_lines(path)
    elif path.relative_to(state_dir).parts[0] in DERIVED:
        path.unlink()
        cleaned.counts["derived_files"] += 1
    else:
        cleaned.waits_for.append(f"{path} names it: look at the file and delete it")


class Search:
    """Looks for any of many names in files of any size."""

    def __init__(self, names: Sequence[str]) -> None:
        found = sorted({name.encode() for name in names if name})
        self._longest = max(map(len, found), default=0)
        self._patterns = [
            re.compile(b"|".join(map(re.escape, found[at : at + NAMES_PER_PATTERN])))
            for at in range(0, len(found), NAMES_PER_PATTERN)
        ]

    def finds(self, path: Path) -> bool:
        """Whether the file names any."""
        try:
            with path.open("rb") as file:
                before = b""
                while piece := file.read(SEARCHED_BYTES):
                    if self._hits(before + piece):
                        return True
                    before = piece[-self._longest :]
        except FileNotFoundError:
            pass
        return False

    def _hits(self, data: bytes) -> bool:
        return any(pattern.search(data) for pattern in self._patterns)

    def blank_lines(self, path: Path) -> int:
        """Overwrite each line that names any, in its place and length; returns how many."""
        blanked = 0
        with path.open("r+b") as file:
            at = 0
            for line in iter(file.readline, b""):
                if self._hits(line):
                    text = line.rstrip(b"\r\n")
                    file.seek(at)
                    file.write(b"x" * len(text))
                    file.seek(at + len(line))
                    blanked += 1
                at += len(line)
        return blanked
