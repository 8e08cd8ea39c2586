"""Show what is going on while a person waits: a spinner, a bar and the elapsed time for each step.

Without a terminal the same is said in plain lines, a long step once every fifteen seconds: a log gets no control
characters and nobody wonders whether it hangs. A terminal that went away is no reason to fail.
"""

import contextlib
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Column

_PLAIN_EVERY_SECONDS = 15.0


class Step:
    """One thing that is being done; `result` is what it says at its end."""

    def __init__(self, progress: Progress | None, console: Console, name: str, result: str) -> None:
        self.result = result
        self._progress, self._console, self._name = progress, console, name
        self._began = self._said = time.monotonic()
        self._task: TaskID | None = progress.add_task(name, total=None, detail="") if progress else None
        if progress is None:
            _print(console, f"{name} ...")

    def update(self, detail: str, fraction: float | None = None) -> None:
        """Say what is happening, and which share is done (0 to 1) where that is known."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, detail=detail)
            if fraction is not None:
                self._progress.update(self._task, completed=fraction, total=1.0)
        elif time.monotonic() - self._said > _PLAIN_EVERY_SECONDS:
            self._said = time.monotonic()
            share = f" {fraction:.0%}" if fraction is not None else ""
            _print(self._console, f"{self._name} ...{share} {detail} ({self._said - self._began:.0f} s)")

    def end(self) -> None:
        """Say how it ended."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, detail=self.result, completed=1.0, total=1.0)
        else:
            _print(self._console, f"{self._name}: {self.result} ({time.monotonic() - self._began:.1f} s)")


class Steps:
    """The steps of one wait; use as a context."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self._progress: Progress | None = None
        if console.is_terminal:
            self._progress = Progress(
                SpinnerColumn(finished_text="[green]*[/]"),
                TextColumn("{task.description:<24}"),
                BarColumn(bar_width=20, table_column=Column(min_width=10)),
                TimeElapsedColumn(table_column=Column(no_wrap=True, min_width=7)),
                TextColumn(
                    "{task.fields[detail]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")
                ),
                console=console,
                expand=True,
            )

    def __enter__(self) -> Self:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress:
            with contextlib.suppress(OSError):
                self._progress.stop()

    @contextlib.contextmanager
    def step(self, name: str, done: str = "ready") -> Iterator[Step]:
        """Show one step for as long as the block runs."""
        step = Step(self._progress, self.console, name, done)
        try:
            yield step
        except BaseException:
            step.result = "stopped"
            raise
        finally:
            step.end()


def say(console: Console, line: str) -> None:
    """One line with the time of day, for what happens by itself."""
    _print(console, f"{time.strftime('%H:%M:%S')} {line}")


def _print(console: Console, line: str) -> None:
    with contextlib.suppress(OSError):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
