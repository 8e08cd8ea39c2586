"""`hone feedback import`: bring in what another system recorded.

What is wrong with a file is said line by line and ends in exit status 1; what is right with it is in the record.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, ExitStack, asynccontextmanager, nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import adapters, audit, keys, models
from feedback.database import Database
from feedback.importers.formats import FORMATS, chosen, in_order
from feedback.importers.load import Summary, Target, batches, store
from feedback.importers.rows import BadRow, read_rows, size_bytes
from feedback.keys import DEFAULT_PROJECT
from feedback.terminal import actor, console, show_one, with_database, writing

BAD_ROWS_SHOWN = 50
Begin = Callable[[], AbstractAsyncContextManager[AsyncConnection]]
errors = Console(stderr=True, highlight=False, soft_wrap=True)


class Consent(StrEnum):
    """Whether what is imported may be trained on."""

    yes = "yes"
    no = "no"


def import_feedback(
    files: Annotated[
        list[Path],
        typer.Argument(help="Exports as JSON, JSON lines, CSV or Parquet, plain or gzipped."),
    ],
    consent: Annotated[
        Consent, typer.Option(help="Whether the people agreed that what they wrote may be trained on.")
    ],
    model: Annotated[str, typer.Option(help="Model whose record the rows join, such as support.")],
    format: Annotated[
        str | None,
        typer.Option(
            help=f"What wrote the files: {', '.join(FORMATS)}. Told from their first row if left out."
        ),
    ] = None,
    version: Annotated[
        int, typer.Option(help="Version that the answers count for; 0 is the base model.", min=0)
    ] = 0,
    thumbs: Annotated[
        list[str] | None,
        typer.Option(help="What the source calls its thumbs, such as user-feedback; repeatable."),
    ] = None,
    refused: Annotated[
        Path | None, typer.Option(help="File for all rows that cannot be used, as JSON lines.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check everything and store nothing.")] = False,
    project: Annotated[
        str, typer.Option(help="Project to work in.", envvar="HONE_PROJECT")
    ] = DEFAULT_PROJECT,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")] = False,
) -> None:
    """Bring in completions and feedback that another system recorded. Safe to repeat: nothing is stored twice."""
    read = [(path, chosen(format, path)) for path in in_order(files, format)]

    async def work(database: Database) -> list[Summary]:
        async with database.begin() as connection:
            adapter = await adapters.get(connection, project, f"{model}@{version}")
            secret = await keys.service_secret(connection, "pseudonym")
            policy = (await models.get(connection, project, model)).policy
        transactions = _rehearsal(database) if dry_run else nullcontext(database.begin)
        with Complaints(refused, as_json) as complaints:
            async with transactions as begin:
                done = []
                for path, name in read:
                    target = Target(
                        project, adapter, name, consent is Consent.yes, secret, policy, tuple(thumbs or ())
                    )
                    done.append(await _import(begin, path, target, complaints))
            return done

    summaries = with_database(work, shows_itself=True)
    for (path, name), summary in zip(read, summaries, strict=True):
        _show({"file": str(path), "format": name, "dry_run": dry_run} | summary.to_json(), as_json)
    if any(summary.refused for summary in summaries):
        raise typer.Exit(1)


@asynccontextmanager
async def _rehearsal(database: Database) -> AsyncIterator[Begin]:
    """Transactions that see each other and are all taken back in the end."""
    async with database.engine.connect() as connection, connection.begin() as whole:

        @asynccontextmanager
        async def begin() -> AsyncIterator[AsyncConnection]:
            async with connection.begin_nested():
                yield connection

        yield begin
        await whole.rollback()


async def _import(begin: Begin, path: Path, target: Target, complaints: "Complaints") -> Summary:
    """Import one file, a transaction a batch."""
    summary = Summary()
    columns = (TextColumn(path.name), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=errors, transient=True) as bar:
        task = bar.add_task(path.name, total=size_bytes(path))
        rows = read_rows(path, lambda read: bar.update(task, completed=read))
        for batch in batches(rows, FORMATS[target.source]):
            async with begin() as connection:
                complaints.add(path, await store(connection, batch, target, summary))
    async with begin() as connection:
        await _write_down(connection, target, summary)
    return summary


async def _write_down(connection: AsyncConnection, target: Target, summary: Summary) -> None:
    if not summary.completions + summary.feedback:
        return
    await audit.write(
        connection,
        project=target.project,
        actor=actor(),
        action="feedback.import",
        subject=target.adapter.name,
        detail={
            "format": target.source,
            "consent": target.consent,
            "completions": summary.completions,
            "feedback": summary.feedback,
        },
    )


class Complaints:
    """Names the rows that could not be used: the first ones on screen, all of them in a file if one was given."""

    def __init__(self, path: Path | None, as_json: bool) -> None:
        self.path = path
        self.as_json = as_json
        self.count = 0
        self._files = ExitStack()
        self._write: Callable[[bytes], None] | None = None

    def __enter__(self) -> "Complaints":
        if self.path is not None:
            self._write = self._files.enter_context(writing(self.path))
        return self

    def __exit__(self, *_: object) -> None:
        self._files.close()
        if self.count > BAD_ROWS_SHOWN and not self.as_json:
            errors.print(f"... and {self.count - BAD_ROWS_SHOWN} more. `--refused FILE` writes all of them.")

    def add(self, path: Path, bad: Sequence[BadRow]) -> None:
        """Name some rows of a file."""
        for row in bad:
            self.count += 1
            entry = orjson.dumps({"file": str(path), "line": row.line, "reason": row.reason}) + b"\n"
            if self._write is not None:
                self._write(entry)
            if self.as_json:
                print(entry.decode(), end="")
            elif self.count <= BAD_ROWS_SHOWN:
                errors.print(f"{path}:{row.line}: {row.reason}", markup=False)


def _show(summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        show_one(summary, as_json=True)
        return
    verb = "Would import" if summary["dry_run"] else "Imported"
    console.print(
        f"{verb} {summary['completions']} completions and {summary['feedback']} feedback from {summary['file']} "
        f"({summary['format']}); {summary['known']} were there already, {summary['refused']} cannot be used."
    )
    for reason, count in summary["skipped"].items():
        console.print(f"Left out: {count} ({reason}).")
