"""Commands about drift: what the last windows showed, and look now."""

from dataclasses import asdict
from typing import Annotated, Any

import typer

from feedback import models
from feedback.keys import DEFAULT_PROJECT
from feedback.settings import FeedbackSettings
from feedback.terminal import console, in_record, patience, show_rows

Model = Annotated[str, typer.Option(help="Model alias.")]
Project = Annotated[str, typer.Option(help="Project to work in.", envvar="HONE_PROJECT")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, one object a line.")]

app = typer.Typer(no_args_is_help=True, help="Watch.")
drift = typer.Typer(no_args_is_help=True, help="Show whether traffic still looks as it did.")
app.add_typer(drift, name="drift")

COLUMNS = ("kind", "window_to", "rows", "drifted", "alarm", "sentence", "page")


@app.callback()
def watch() -> None:
    """Watch."""


@drift.command("status")
def status(
    model: Model = "support",
    limit: Annotated[int, typer.Option(help="Windows to show.")] = 9,
    project: Project = DEFAULT_PROJECT,
    as_json: AsJson = False,
) -> None:
    """Show the windows compared last, newest first."""
    from monitoring.drift import newest

    async def work(connection: Any) -> list[dict[str, Any]]:
        await models.get(connection, project, model)
        return [asdict(one) for one in await newest(connection, project, model, limit=limit)]

    show_rows(in_record(work), COLUMNS, as_json=as_json, empty=_too_early(model))


@drift.command("report")
def report(model: Model = "support", project: Project = DEFAULT_PROJECT, as_json: AsJson = False) -> None:
    """Compare every whole window that was not compared yet, now. Changes nothing that answers."""
    import asyncio

    from feedback.database import Database
    from feedback.watch_tables import DRIFT_KINDS
    from monitoring.drift import Report, look_at

    settings = FeedbackSettings.load()

    async def work() -> list[Report]:
        async with Database(settings.resolve_database_url(), pool_size=1) as database:
            async with database.begin() as connection:
                found = await models.get(connection, project, model)
            return [
                one
                for kind in DRIFT_KINDS
                for one in await look_at(database, found, kind, settings.absolute_state_dir)
            ]

    with patience():
        compared = asyncio.run(work())
    show_rows([asdict(one) for one in compared], COLUMNS, as_json=as_json, empty=_too_early(model))
    for one in compared:
        if one.page and not as_json:
            console.print(f"{settings.absolute_state_dir / one.page}")


def _too_early(model: str) -> str:
    return (
        f"No new window of '{model}' to compare: the policy's drift.reference_rows and drift.window_rows say how many "
        "completions a promotion takes first."
    )
