"""`hone privacy` and `hone audit`: forgetting, keeping no longer than said, and proving what was decided."""

from dataclasses import asdict
from typing import Annotated, Any

import typer
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import audit, erasures, retention
from feedback.database import Database
from feedback.errors import Unwell
from feedback.keys import DEFAULT_PROJECT
from feedback.settings import FeedbackSettings
from feedback.terminal import actor, console, in_record, show_one, show_rows, with_database

app = typer.Typer(add_completion=False)
Project = Annotated[str, typer.Option(help="Project to work in.", envvar="HONE_PROJECT")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]
privacy = typer.Typer(no_args_is_help=True, help="Erase people, and keep nothing longer than said.")
trail = typer.Typer(
    no_args_is_help=True, help="Show who decided what, newest first; `verify` proves that nobody changed it."
)
app.add_typer(privacy, name="privacy")
app.add_typer(trail, name="audit")

ERASURE_COLUMNS = ("erasure_id", "kind", "phase", "requested_at", "finished_at", "waits_for")
TAINT_COLUMNS = ("name", "state", "through", "retired_at", "to_do")


@privacy.command("erase")
def erase(
    rater: Annotated[
        str | None, typer.Argument(help="Who, as the application calls them, or the pseudonym (rater-...).")
    ] = None,
    completion: Annotated[str | None, typer.Option(help="Erase this one answer instead of a person.")] = None,
    retire_within_days: Annotated[
        float | None, typer.Option(min=0, help="Retire adapters that learned from it after this many days.")
    ] = None,
    and_future: Annotated[
        bool, typer.Option("--and-future", help="Refuse what this rater does later, too.")
    ] = False,
    rewrite_tables: Annotated[
        bool,
        typer.Option(
            "--rewrite-tables", help="Also write the tables anew, so that no byte stays in their files."
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only count what would go.")] = False,
    project: Project = DEFAULT_PROJECT,
    as_json: AsJson = False,
) -> None:
    """Delete everything of a person, or of one answer, everywhere. Cannot be undone; safe to repeat."""
    settings = FeedbackSettings.load()

    async def work(database: Database) -> dict[str, Any]:
        async with database.begin() as connection:
            asked = await erasures.request(
                connection,
                project,
                rater=rater,
                completion_id=completion,
                retire_within_days=retire_within_days,
                and_future=and_future,
                by=actor(),
            )
            if dry_run:
                counted = await erasures.count(connection, asked)
                await connection.rollback()
                return {"dry_run": True, "would_erase": counted}
        done = await erasures.advance(database, asked.erasure_id, settings.absolute_state_dir)
        if rewrite_tables:
            await erasures.rewrite_tables(database)
        async with database.begin() as connection:
            return await erasures.report(connection, done)

    _show_report(with_database(work), as_json=as_json)


@privacy.command("show")
def show(
    erasure_id: Annotated[str, typer.Argument(help="Id of the erasure.")],
    project: Project = DEFAULT_PROJECT,
    as_json: AsJson = False,
) -> None:
    """Show an erasure: how far it got, the adapters that learned from it, and what to do about each."""

    async def work(connection: AsyncConnection) -> dict[str, Any]:
        return await erasures.report(connection, await erasures.get(connection, project, erasure_id))

    _show_report(in_record(work), as_json=as_json)


@privacy.command("list")
def list_erasures(project: Project = DEFAULT_PROJECT, as_json: AsJson = False) -> None:
    """List the erasures of a project, without whom they were about."""

    async def work(connection: AsyncConnection) -> list[dict[str, Any]]:
        return [one.view() for one in await erasures.in_project(connection, project)]

    show_rows(in_record(work), ERASURE_COLUMNS, as_json=as_json, empty="Nobody asked to be forgotten.")


@privacy.command("retention")
def keep(
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would go.")] = False,
    as_json: AsJson = False,
) -> None:
    """Drop what is over its time; the worker does it every hour. `--dry-run` shows what would go, and when."""
    settings = FeedbackSettings.load()

    async def look(connection: AsyncConnection) -> list[dict[str, Any]]:
        found = await retention.parts(connection, settings)
        texts = await retention.old_texts(connection, settings)
        said = {"partition": "feedback", "goes_on": "comments and corrections", "rows": texts, "bytes": None}
        return [
            {
                "partition": part.partition,
                "goes_on": part.goes_on or "never",
                "rows": part.rows,
                "bytes": part.bytes,
            }
            for part in sorted(
                found, key=lambda part: (part.goes_on is None, part.goes_on or 0, part.partition)
            )
        ] + [said]

    if dry_run:
        rows = in_record(look)
        show_rows(rows, ("partition", "goes_on", "rows", "bytes"), as_json=as_json, empty="There is nothing.")
        return
    done = with_database(lambda database: retention.keep(database, settings))
    show_rows([{"done": one} for one in done], ("done",), as_json=as_json, empty="Nothing is over its time.")


@trail.command("list")
def show_audit(
    subject: Annotated[
        str | None, typer.Option(help="Only what was decided about this, such as support@7.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Entries to show.")] = 30,
    project: Project = DEFAULT_PROJECT,
    as_json: AsJson = False,
) -> None:
    """Show who decided what, newest first."""
    found = in_record(lambda connection: audit.entries(connection, project, subject=subject, limit=limit))
    columns = ("at", "actor", "action", "subject", "detail")
    show_rows([asdict(one) for one in found], columns, as_json=as_json, empty="Nothing was decided yet.")


@trail.command("verify")
def verify(
    newest: Annotated[
        str | None, typer.Option(help="A hash that was printed before; it must still be in the chain.")
    ] = None,
) -> None:
    """Recompute the chain of the audit trail, and say where it is broken."""

    async def work(connection: AsyncConnection) -> tuple[int | None, tuple[int, str], bool]:
        known = newest is None or await audit.has(connection, newest)
        return await audit.verify(connection), await audit.newest(connection), known

    broken, (count, head), known = in_record(work)
    if broken is not None:
        raise Unwell(
            f"The audit trail is broken at entry {broken}: it, or the one before it, was changed or removed. "
            "Restore the table `audit` from a backup, and find out who may write to the database."
        )
    if not known:
        raise Unwell(
            f"The hash '{newest}' is not in the audit trail: entries were cut off since it was printed."
        )
    console.print(f"{count} entries, unbroken. Keep the newest hash somewhere else: {head}")


def _show_report(found: dict[str, Any], *, as_json: bool) -> None:
    tainted = found.get("tainted", [])
    show_one(found if as_json else {k: v for k, v in found.items() if k != "tainted"}, as_json=as_json)
    if not as_json and "tainted" in found:
        console.print()
        show_rows(tainted, TAINT_COLUMNS, as_json=False, empty="No adapter learned from it.")
