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
    from monitoring.logs import set_up
    from serving.server import serve
    from serving.settings import ServingSettings

    given = {"gateway_host": host, "gateway_port": port}
    settings = ServingSettings.load(**{name: value for name, value in given.items() if value is not None})
    set_up("gateway")
    serve(settings, FeedbackSettings.load())


@app.command("engine")
def engine(
    model: Annotated[
        str | None,
        typer.Option(help="Base model, a directory or a hub name. Default: the registry's only one."),
    ] = None,
    host: Annotated[
        str | None, typer.Option(help="Address to listen on. Only gateways may reach it.")
    ] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
) -> None:
    """Run one vLLM engine in the foreground, with the adapters that the registry wants it to hold."""
    from feedback.settings import FeedbackSettings
    from serving.engine_run import run_engine
    from serving.settings import ServingSettings

    given = {"engine_model": model, "engine_host": host, "engine_port": port}
    settings = ServingSettings.load(**{name: value for name, value in given.items() if value is not None})
    run_engine(settings, FeedbackSettings.load())
