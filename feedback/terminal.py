"""How commands speak: tables for people, JSON for programs, one transaction for each command."""

import asyncio
import getpass
import re
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import orjson
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.database import Database, unstorable, why_unusable
from feedback.errors import HoneError
from feedback.settings import FeedbackSettings

EXIT_STATUSES = {
    0: "Done. A service that was asked to stop ends so as well.",
    1: "Done, and something is not well: a check found a fault, a run failed, rows or receivers were left out.",
    2: "Refused: what was typed, a setting, or what was asked for cannot be. One sentence on stderr says what to do.",
    130: "Ended by Ctrl-C.",
}
"""How every command ends."""

# What people wrote is shown here, too: it must not move the cursor, or rename the window, of whoever reads it.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
Result = TypeVar("Result")
IDS = ("name", "adapter", "model", "version")
PIPE_COLUMNS = 400
console = Console(highlight=False, emoji=False, width=None if sys.stdout.isatty() else PIPE_COLUMNS)
"""Where commands speak. Into a pipe or a file, lines are as long as they need to be."""
errors = Console(stderr=True, highlight=False)


@contextmanager
def patience(shown_on: Console = errors, *, after_seconds: float = 2.0) -> Iterator[None]:
    """Show a person who waits longer than this that something is going on; says nothing where nobody looks."""
    if not shown_on.is_terminal:
        yield
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    bar = Progress(*columns, console=shown_on, transient=True)
    bar.add_task("working", total=None)
    timer = threading.Timer(after_seconds, bar.start)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
        if bar.live.is_started:
            bar.stop()


def in_record(work: Callable[[AsyncConnection], Awaitable[Result]], *, shows_itself: bool = False) -> Result:
    """Run `work` in one transaction on the configured database.

    Args:
        shows_itself: whether `work` has a progress bar of its own; a spinner would write over it.

    Raises:
        HoneError: the database cannot be reached, or has not been set up.
    """

    async def in_one(database: Database) -> Result:
        async with database.begin() as connection:
            return await work(connection)

    return with_database(in_one, shows_itself=shows_itself)


def with_database(work: Callable[[Database], Awaitable[Result]], *, shows_itself: bool = False) -> Result:
    """Run `work`, which begins its own transactions, on the configured database; the rest is as `in_record`.

    Raises:
        HoneError: the database cannot be reached, or has not been set up.
    """
    url = FeedbackSettings.load().resolve_database_url()

    async def connected() -> Result:
        async with Database(url, pool_size=1) as database:
            return await work(database)

    try:
        with nullcontext() if shows_itself else patience():
            return asyncio.run(connected())
    except (OSError, DBAPIError) as error:
        if (mistake := unstorable(error)) is not None:
            raise mistake from error
        if (reason := why_unusable(error)) is not None:
            raise HoneError(
                f"The database cannot be used: {reason}. Is the service up, and HONE_DATABASE_URL right? "
                "`hone doctor` looks."
            ) from error
        if getattr(getattr(error, "orig", None), "sqlstate", None) != "42P01":
            raise
        raise HoneError("The database has no tables of Hone yet. `hone up` creates them.") from error


@contextmanager
def writing(path: Path) -> Iterator[Callable[[bytes], None]]:
    """Write a file, by the function that this gives.

    Raises:
        HoneError: the file cannot be opened or written; nothing that is not about the file is taken for that.
    """

    def failed(error: OSError) -> HoneError:
        return HoneError(f"{path} cannot be written: {error.strerror}. Free the disk, or name another file.")

    try:
        file = path.open("wb")
    except OSError as error:
        raise failed(error) from error
    with file:

        def write(data: bytes) -> None:
            try:
                file.write(data)
            except OSError as error:
                raise failed(error) from error

        yield write


def actor() -> str:
    """Who types, for the audit trail."""
    return f"cli:{getpass.getuser()}"


def show_rows(
    rows: Sequence[Mapping[str, Any]], columns: Sequence[str], *, as_json: bool, empty: str
) -> None:
    """Print rows as a table of the given columns, with tabs between them at a pipe, or whole as JSON lines."""
    if as_json:
        for row in rows:
            print(_json(row))
        return
    if not rows:
        console.print(empty)
        return
    heads = [column.replace("_", " ") for column in columns]
    cells = [[_cell(row.get(column)) for column in columns] for row in rows]
    if not console.is_terminal:
        _print_lines([heads, *cells])
        return
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column, head in zip(columns, heads, strict=True):
        # Ids are there to be copied: the other columns fold before one is cut.
        table.add_column(head, no_wrap=column in IDS or column.endswith("_id"))
    for line in cells:
        table.add_row(*map(escape, line))
    console.print(table)


def show_one(row: Mapping[str, Any], *, as_json: bool) -> None:
    """Print one thing: its fields below each other, or as JSON."""
    if as_json:
        print(_json(row))
        return
    cells = [[name.replace("_", " "), _cell(value)] for name, value in row.items()]
    if not console.is_terminal:
        _print_lines(cells)
        return
    table = Table(box=None, show_header=False, pad_edge=False)
    for line in cells:
        table.add_row(*map(escape, line))
    console.print(table)


def _print_lines(lines: Sequence[Sequence[str]]) -> None:
    for line in lines:
        print("\t".join(" ".join(cell.split()) for cell in line), file=console.file)


def _json(value: Any) -> str:
    # A row's columns may be named by strings of SQLAlchemy's own, which are no keys for orjson otherwise.
    return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict | list | tuple):
        return _json(value)
    return _CONTROL.sub("\ufffd", str(value))
