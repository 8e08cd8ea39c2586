"""`hone feedback list|show|export` and `hone completion list|show|why`: look through the record, and take it along."""

import os
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import browse, completions, datasets, export, exports, submissions
from feedback.completions import answered_by
from feedback.errors import HoneError
from feedback.import_cli import import_feedback
from feedback.keys import DEFAULT_PROJECT
from feedback.terminal import actor, console, in_record, show_one, show_rows, writing
from feedback.wanted import Wanted, model_and_version

AGO = {"m": 60, "h": 3600, "d": 86_400, "w": 604_800}
PREVIEW = 60
_SPINNING = (SpinnerColumn(), TextColumn("{task.description}"))
errors = Console(stderr=True, highlight=False)

feedback = typer.Typer(
    no_args_is_help=True, help="List, show, import and export what people said of answers."
)
completion = typer.Typer(no_args_is_help=True, help="List and show answers, and say why a version gave them.")
feedback.command("import")(import_feedback)


class Thumb(StrEnum):
    """A thumb."""

    up = "up"
    down = "down"


Project = Annotated[str, typer.Option(help="Project to work in.", envvar="HONE_PROJECT")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
Model = Annotated[str | None, typer.Option(help="Only of this model; support@7: of this version.")]
Arm = Annotated[str | None, typer.Option(help="Only of this arm of an experiment, such as candidate.")]
Rating = Annotated[Thumb | None, typer.Option(help="Only what got this thumb.")]
Rater = Annotated[str | None, typer.Option(help="Only of this rater, by pseudonym.")]
Session = Annotated[str | None, typer.Option(help="Only of this conversation.")]
Words = Annotated[
    str | None,
    typer.Option(
        "--text",
        help="Only where this was said, in any case. Looks 7 days back unless --since says otherwise.",
    ),
]
Since = Annotated[
    str | None, typer.Option(help="Not before: 2026-05-29, 2026-05-29T13:46, or 90m, 12h, 7d, 2w ago.")
]
Until = Annotated[str | None, typer.Option(help="Before: as --since.")]
Limit = Annotated[int, typer.Option(help="Rows to show.", min=1, max=browse.PAGE_ROWS_MAX)]
After = Annotated[str | None, typer.Option(help="Go on after this id, the last one shown.")]
Id = Annotated[str, typer.Argument(help="Id of the answer.")]


def moment(given: str | None, name: str) -> datetime | None:
    """A time as people type it; local where it names no zone.

    Raises:
        HoneError: it is no time.
    """
    if given is None:
        return None
    try:
        if given[:-1].isdigit() and given[-1] in AGO:
            return datetime.now(UTC) - timedelta(seconds=int(given[:-1]) * AGO[given[-1]])
        return datetime.fromisoformat(given).astimezone()
    except (ValueError, OverflowError) as error:
        raise HoneError(
            f"{name} '{given}' is no time; expected 2026-05-29, 2026-05-29T13:46, or 90m, 12h, 7d, 2w ago."
        ) from error


def wanted(
    project: str, model: str | None, since: str | None, until: str | None, rating: Thumb | None, **given: Any
) -> Wanted:
    """What was asked for on the command line.

    Raises:
        HoneError: a time or version cannot be read.
    """
    name, version = model_and_version(model)
    return Wanted(
        project=project,
        model=name,
        version=version,
        rating=None if rating is None else rating is Thumb.up,
        since=moment(since, "--since"),
        until=moment(until, "--until"),
        **given,
    )


@completion.command("list")
def list_completions(
    model: Model = None,
    arm: Arm = None,
    rating: Rating = None,
    rater: Rater = None,
    session: Session = None,
    text: Words = None,
    since: Since = None,
    until: Until = None,
    limit: Limit = browse.PAGE_ROWS,
    after: After = None,
    project: Project = DEFAULT_PROJECT,
    as_json: AsJson = False,
) -> None:
    """List answers, newest first, with what was asked and what people said."""
    asked = wanted(project, model, since, until, rating, arm=arm, rater=rater, session=session, text=text)
    page = in_record(lambda connection: browse.completions_page(connection, asked, after=after, limit=limit))
    rows = page.rows if as_json else [_completion_line(row) for row in page.rows]
    columns = ("completion_id", "created_at", "version", "arm", "asked", "answered", "said")
    show_rows(rows, columns, as_json=as_json, empty="No answers like that.")
    _say_more(page)


@completion.command("show")
def show_completion(completion_id: Id, project: Project = DEFAULT_PROJECT, as_json: AsJson = False) -> None:
    """Show an answer with all that is recorded of it, and everything said of it."""
    show_one(in_record(lambda connection: whole(connection, project, completion_id)), as_json=as_json)


async def whole(connection: AsyncConnection, project: str, completion_id: str) -> dict[str, Any]:
    """A completion, everything said of it, history included, and the versions that it trained."""
    row = await completions.get(connection, project, completion_id)
    row["feedback"] = await submissions.of_completion(connection, project, completion_id)
    row["trained"] = await datasets.adapters_trained_on(connection, completion_id)
    return row


@completion.command("why")
def why(completion_id: Id, project: Project = DEFAULT_PROJECT, as_json: AsJson = False) -> None:
    """Say why this version gave this answer: who was assigned to it, by what, and what the answer led to."""
    row = in_record(lambda connection: whole(connection, project, completion_id))
    if as_json:
        show_one({name: row[name] for name in WHY}, as_json=True)
        return
    for sentence in reasons(row):
        console.print(sentence)


WHY = (
    "completion_id",
    "model",
    "version",
    "adapter_id",
    "upstream",
    "fallback_for",
    "error_class",
    "error",
    "engine",
    "endpoint",
    "experiment_id",
    "arm",
    "propensity",
    "unit",
    "consent",
    "feedback",
    "trained",
)


def reasons(row: dict[str, Any]) -> list[str]:
    """In sentences, what is recorded of how an answer came about and where it went."""
    name = answered_by(row)
    if row["endpoint"].startswith("import:"):
        said = [f"It was imported ({row['endpoint'].removeprefix('import:')}) and counts as {name}."]
    elif row["upstream"] is not None:
        said = [
            f"The upstream's '{row['upstream']}' answered in the place of {row['model']}@{row['fallback_for']}, as no "
            "engine could: the answer counts for no version."
        ]
    elif row["fallback_for"] is not None:
        said = [
            f"{name} answered in the place of version {row['fallback_for']}, as no engine could with that."
        ]
    elif row["arm"] is None:
        said = [
            f"{name} answered: no experiment ran for it, so it was the champion, or was asked for by version."
        ]
    else:
        said = [
            f"{name} answered as arm '{row['arm']}' of {row['experiment_id']}, "
            f"to which '{row['unit']}' belongs with a chance of {row['propensity'] or 0:.0%}."
        ]
    if row["engine"] and row["adapter_id"]:
        said.append(f"Engine {row['engine']} held it as {row['adapter_id']}.")
    counts = sum(one["effective"] for one in row["feedback"])
    over = len(row["feedback"]) - counts
    if row["error_class"] is not None:
        said.append(f"It did not end well ({row['error_class']}): {row['error']}")
    said.append(f"People said {counts} things of it that count, and {over} that no longer do.")
    if row["trained"]:
        said.append(f"It trained {', '.join(row['trained'])}.")
    else:
        said.append(
            "It trained no version" + (" yet." if row["consent"] else ": there is no consent to that.")
        )
    if row["request"] is None:
        said.append("Its text was deleted.")
    return said


@feedback.command("list")
def list_feedback(
    model: Model = None,
    arm: Arm = None,
    rating: Rating = None,
    rater: Rater = None,
    session: Session = None,
    text: Words = None,
    kind: Annotated[
        str | None, typer.Option(help="Only rating, comment, demonstration, preference or signal.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Only of this metric, such as thumbs.")] = None,
    since: Since = None,
    until: Until = None,
    history: Annotated[
        bool, typer.Option("--history", help="With what was changed or taken back since.")
    ] = False,
    limit: Limit = browse.PAGE_ROWS,
    after: After = None,
    project: Project = DEFAULT_PROJECT,
    as_json: AsJson = False,
) -> None:
    """List what people said, newest first."""
    asked = wanted(
        project,
        model,
        since,
        until,
        rating,
        arm=arm,
        rater=rater,
        session=session,
        text=text,
        kind=kind,
        name=name,
        history=history,
    )
    page = in_record(lambda connection: browse.feedback_page(connection, asked, after=after, limit=limit))
    columns = ("feedback_id", "created_at", "kind", "name", "value", "comment", "version", "arm", "rater")
    show_rows(page.rows, columns, as_json=as_json, empty="Nobody said anything like that.")
    _say_more(page)


@feedback.command("show")
def show_feedback(completion_id: Id, project: Project = DEFAULT_PROJECT, as_json: AsJson = False) -> None:
    """Show a completion, everything said of it, and the versions it trained."""
    show_one(in_record(lambda connection: whole(connection, project, completion_id)), as_json=as_json)


@feedback.command("export")
def export_feedback(
    columns: Annotated[
        str,
        typer.Option(
            help="; ".join(f"{name}: {kind.help}" for name, kind in export.EXPORTS.items())
            + ". All but raw hold only what may be trained on."
        ),
    ] = "raw",
    to: Annotated[
        Path | None,
        typer.Option(help="File to write, .jsonl or .parquet; JSON lines to the terminal if left out."),
    ] = None,
    model: Model = None,
    arm: Arm = None,
    rating: Rating = None,
    rater: Rater = None,
    session: Session = None,
    kind: Annotated[str | None, typer.Option(help="Only this kind of feedback.")] = None,
    since: Since = None,
    until: Until = None,
    history: Annotated[
        bool, typer.Option("--history", help="With what was changed or taken back since.")
    ] = False,
    project: Project = DEFAULT_PROJECT,
) -> None:
    """Write feedback to a file, with TRL's columns or as it is stored. An erasure deletes the file."""
    asked = wanted(
        project,
        model,
        since,
        until,
        rating,
        arm=arm,
        rater=rater,
        session=session,
        kind=kind,
        history=history,
    )
    if to is not None and to.suffix not in (".jsonl", ".parquet"):
        raise HoneError(f"--to '{to}' ends in '{to.suffix}'; expected .jsonl or .parquet.")

    path = (to or Path()).absolute()

    async def work(connection: AsyncConnection) -> int:
        counted = _Counted(export.rows(connection, asked, columns))
        as_parquet = to is not None and to.suffix == ".parquet"
        pieces = export.parquet(counted.rows()) if as_parquet else export.json_lines(counted.rows())
        await (_print(pieces) if to is None else _write(pieces, to, counted))
        return counted.count

    if to is not None:
        # Before the first byte: a file that a crash leaves half written must be found, too.
        in_record(lambda connection: exports.note(connection, project, path, by=actor()))
    count = in_record(work, shows_itself=True)
    if to is not None:
        console.print(f"{count} rows in {to}.")


class _Counted:
    def __init__(self, found: AsyncIterator[dict[str, Any]]) -> None:
        self.found = found
        self.count = 0

    async def rows(self) -> AsyncIterator[dict[str, Any]]:
        async for row in self.found:
            self.count += 1
            yield row


async def _print(pieces: AsyncIterator[bytes]) -> None:
    """Print until the end, or until who reads (`| head`) has seen enough."""
    async for piece in pieces:
        try:
            print(piece.decode(), end="", flush=True)
        except BrokenPipeError:
            # Python writes what is left when it ends, and would complain again.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return


async def _write(pieces: AsyncIterator[bytes], to: Path, counted: _Counted) -> None:
    with writing(to) as write, Progress(*_SPINNING, console=errors, transient=True) as bar:
        task = bar.add_task("0 rows")
        async for piece in pieces:
            write(piece)
            bar.update(task, description=f"{counted.count} rows")


def _completion_line(row: dict[str, Any]) -> dict[str, Any]:
    said = [
        f"{one['name']}={one['value']}" if one["kind"] == "rating" else one["kind"] for one in row["feedback"]
    ]
    return row | {
        "version": answered_by(row),
        "asked": _question(row["request"]),
        "answered": _short(row["output_text"]),
        "said": ", ".join(said) or None,
    }


def _question(request: dict[str, Any] | None) -> str | None:
    if request is None:
        return None
    messages = request.get("messages") or [{"content": request.get("prompt") or request.get("input")}]
    last = messages[-1] if isinstance(messages, list) and isinstance(messages[-1], dict) else {}
    return _short(last.get("content"))


def _short(text: Any) -> str | None:
    if text is None:
        return None
    line = " ".join(str(text).split())
    return line if len(line) <= PREVIEW else f"{line[: PREVIEW - 1]}…"


def _say_more(page: browse.Page) -> None:
    if page.searched_since is not None:
        errors.print(
            f"Looked back to {page.searched_since.astimezone():%Y-%m-%d %H:%M}; --since changes that."
        )
    if page.after is not None:
        errors.print(f"There are more: --after {page.after}")
