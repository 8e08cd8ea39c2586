"""Commands that serve: the gateway, and an engine behind it."""

from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Serve.")


@app.callback()
def serving() -> None:
    """Serve."""


@app.command("gateway")
def gateway(
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one.")] = None,
) -> None:
    """Serve the OpenAI-compatible API until stopped."""
    from feedback.settings import FeedbackSettings
    from serving.server import serve
    from serving.settings import ServingSettings

    given = {"gateway_host": host, "gateway_port": port}
    settings = ServingSettings.load(**{name: value for name, value in given.items() if value is not None})
    serve(settings, FeedbackSettings.load())
