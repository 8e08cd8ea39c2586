"""`hone logs`: what the processes of this machine wrote, together and in order, filtered, followed.

Reads the files under `logs/` of the state directory, whatever wrote them: Hone's own lines are JSON (monitoring.logs);
those of PostgreSQL and vLLM are shown as they are, with the level that their words have. What follows a line without a
time of its own, such as a traceback, belongs to it. Changes nothing.
"""

import re
import sys
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from feedback.errors import HoneError

LEVELS = ("debug", "info", "warning", "error", "critical")
POLL_SECONDS = 0.3
TAIL_BYTES = 4 * 1024 * 1024

_POSTGRES = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?:\.\d+)? (\w+) ")
_VLLM = re.compile(r"(?:\(\S+ pid=\d+\) )?(DEBUG|INFO|WARNING|ERROR|CRITICAL) (\d\d-\d\d \d\d:\d\d:\d\d)")
_WORDS = re.compile(r"\b(DEBUG|INFO|LOG|NOTICE|WARNING|ERROR|FATAL|PANIC|CRITICAL)\b:?")
_MEANS = {"log": "info", "notice": "info", "fatal": "critical", "panic": "critical"}


@dataclass
class Line:
    """One line of a log, with what follows it."""

    process: str
    text: str
    time: str = ""
    """ISO 8601 in UTC; empty where the line does not say."""
    level: str = "info"
    fields: dict[str, Any] = field(default_factory=dict)
    """What a JSON line says."""

    def as_json(self) -> str:
        """The line for a program."""
        known = {"time": self.time, "level": self.level, "process": self.process}
        return orjson.dumps(self.fields or {**known, "message": self.text}).decode()

    def as_words(self) -> str:
        """The line for a person."""
        if not self.fields:
            return f"{self.process:<9} {self.text}"
        rest = {name: value for name, value in self.fields.items() if name not in SHOWN}
        pairs = " ".join(f"{name}={value}" for name, value in rest.items() if name != "exception")
        trace = f"\n{rest['exception']}" if "exception" in rest else ""
        said = f"{self.time[:19]} {self.level:<8} {self.fields.get('message', '')}"
        return f"{self.process:<9} {said}{'  ' if pairs else ''}{pairs}{trace}"


SHOWN = ("time", "level", "process", "message", "logger")


@dataclass(frozen=True)
class Wanted:
    """Which lines."""

    processes: Collection[str] = ()
    """Empty: all."""
    level: str = "debug"
    completion_id: str | None = None

    def __contains__(self, line: Line) -> bool:
        if LEVELS.index(line.level) < LEVELS.index(self.level):
            return False
        return self.completion_id is None or self.completion_id in line.text


class Log:
    """One process's file, read from where it was left."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.process = path.name.partition(".")[0]
        self._at = 0
        self._last = Line(self.process, "")

    def read(self, *, from_end: bool = False) -> list[Line]:
        """The whole lines that are new since the last call; a file that was emptied is read from its start."""
        try:
            size = self.path.stat().st_size
            if size < self._at:
                self._at = 0
            if from_end:
                self._at = max(size - TAIL_BYTES, 0)
            with self.path.open("rb") as file:
                file.seek(self._at)
                data = file.read()
        except FileNotFoundError:
            return []
        end = data.rfind(b"\n") + 1
        self._at += end
        return [self._line(text) for text in data[:end].decode(errors="replace").splitlines() if text]

    def _line(self, text: str) -> Line:
        self._last = read_line(self.process, text, self._last)
        return self._last


def read_line(process: str, text: str, before: Line) -> Line:
    """Make sense of one line; one without a time belongs to the line `before`."""
    if text.startswith("{"):
        try:
            said = orjson.loads(text)
            level = said["level"] if said["level"] in LEVELS else "info"
            return Line(said.get("process", process), text, said["time"], level, said)
        except (orjson.JSONDecodeError, KeyError, TypeError):
            pass
    if found := _POSTGRES.match(text):
        return Line(process, text, f"{found[1].replace(' ', 'T')}Z", _level(text))
    if found := _VLLM.match(text):
        return Line(
            process, text, f"{datetime.now(UTC).year}-{found[2].replace(' ', 'T')}Z", _level(found[1])
        )
    return Line(process, text, before.time, before.level)


def _level(text: str) -> str:
    found = _WORDS.search(text)
    word = found[1].lower() if found else "info"
    return _MEANS.get(word, word)


def show(state_dir: Path, wanted: Wanted, *, lines: int, follow: bool, as_json: bool) -> None:
    """Print the last `lines` that are wanted; with `follow`, go on with what comes until interrupted.

    Raises:
        HoneError: a process has no log here.
    """
    logs = find(state_dir, wanted.processes)
    found = sorted(
        (line for log in logs for line in log.read(from_end=True) if line in wanted),
        key=lambda line: line.time,
    )
    _print(found[-lines:] if lines else [], as_json)
    while follow:
        time.sleep(POLL_SECONDS)
        known = {log.path for log in logs}
        logs += [log for log in _all(state_dir, wanted.processes) if log.path not in known]
        _print(_new(logs, wanted), as_json)


def find(state_dir: Path, processes: Collection[str]) -> list[Log]:
    """The logs of these processes, or all.

    Raises:
        HoneError: one has none here.
    """
    logs = list(_all(state_dir, processes))
    names = {log.process for log in _all(state_dir, ())}
    if missing := sorted(set(processes) - names):
        raise HoneError(
            f"There is no log of '{missing[0]}' in {state_dir / 'logs'}; there are: "
            f"{', '.join(sorted(names)) or 'none'}. "
            "`hone up` writes them; processes that were started otherwise write to their standard error."
        )
    return logs


def _all(state_dir: Path, processes: Collection[str]) -> Iterator[Log]:
    for path in sorted((state_dir / "logs").glob("*.log")):
        if not processes or path.stem in processes:
            yield Log(path)


def _new(logs: Iterable[Log], wanted: Wanted) -> list[Line]:
    return sorted((line for log in logs for line in log.read() if line in wanted), key=lambda line: line.time)


def _print(lines: Iterable[Line], as_json: bool) -> None:
    for line in lines:
        print(line.as_json() if as_json else line.as_words())
    sys.stdout.flush()
