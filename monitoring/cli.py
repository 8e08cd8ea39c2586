"""The command that shows: the console."""

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Watch.")


@app.callback()
def monitoring() -> None:
    """Watch."""


@app.command("console")
def console(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
) -> None:
    """Serve the pages in which operators watch and decide, until stopped."""
    from feedback.settings import FeedbackSettings
    from monitoring.console.server import serve
    from monitoring.logs import set_up
    from monitoring.settings import MonitoringSettings

    given = {"console_host": host, "console_port": port}
    settings = MonitoringSettings.load(**{name: value for name, value in given.items() if value is not None})
    set_up("console", settings)
    serve(settings, FeedbackSettings.load())
