"""Run the console as a server until it is told to stop."""

import signal
import socket

import uvicorn

from feedback import keys
from feedback.errors import HoneError
from feedback.settings import FeedbackSettings
from feedback.terminal import in_record
from monitoring.console.app import create_app
from monitoring.settings import MonitoringSettings

DRAIN_SECONDS = 5
"""How long answers under way may take to finish."""


def serve(settings: MonitoringSettings, record: FeedbackSettings) -> None:
    """Listen and answer until SIGTERM or SIGINT.

    Raises:
        HoneError: the database cannot be used, or the address is taken.
    """
    in_record(lambda connection: keys.service_secret(connection, "console_session"))
    listener = listen(settings.console_host, settings.console_port)
    server = configure(settings, record)
    # uvicorn raises the signal that stopped it once more when it has stopped: by then it has been obeyed.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    print(f"Console: http://{settings.console_host}:{listener.getsockname()[1]}", flush=True)
    server.run(sockets=[listener])


def configure(settings: MonitoringSettings, record: FeedbackSettings) -> uvicorn.Server:
    """The server, not yet running."""
    app = create_app(settings, record)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http="httptools",
            loop="uvloop",
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=DRAIN_SECONDS,
        )
    )
    # A stream of events has no end of its own: a server that waits for it would never stop.
    app.state.is_stopping = lambda: server.should_exit
    return server


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        HoneError: the address cannot be used.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise HoneError(
            f"The console cannot listen on {host}:{port}: {error.strerror}. "
            "Stop what uses it, or choose another with --port."
        ) from error
