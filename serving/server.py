"""Run the gateway as a server until it is told to stop.

SIGTERM and SIGINT close the listening socket and let answers under way finish, for as long as the settings allow.
"""

import gc
import ipaddress
import signal
import socket

import uvicorn

from feedback import keys
from feedback.errors import HoneError
from feedback.settings import FeedbackSettings
from feedback.terminal import in_record
from serving.app import create_app
from serving.fast_lane import FastLane
from serving.settings import ServingSettings

KEEP_ALIVE_SECONDS = 120
"""Longer than clients keep an idle connection (Go 90 s, the OpenAI SDK 5 s): who closes first must not be us, or a
request that is on its way meets a closed door."""
BACKLOG = 2048


def serve(settings: ServingSettings, record: FeedbackSettings) -> None:
    """Listen and answer; returns when the last answer is out.

    Raises:
        HoneError: the database cannot be used, the address is taken, or is open to others while no key exists.
    """
    known = in_record(keys.active)
    if not is_loopback(settings.gateway_host) and not known:
        raise HoneError(
            f"gateway_host = '{settings.gateway_host}' is open to other machines, but no API key exists. "
            "Make one with `hone key create --role admin` first, or listen on 127.0.0.1."
        )
    listener = listen(settings.gateway_host, settings.gateway_port)
    server = configure(settings, record)
    # What is imported stays: the collector need not look at it again, nor as often as after every 700 new objects.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    # uvicorn raises the signal that stopped it once more when it has stopped: by then it has been obeyed.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    server.run(sockets=[listener])


def configure(settings: ServingSettings, record: FeedbackSettings) -> uvicorn.Server:
    """The server, not yet running."""
    return uvicorn.Server(
        uvicorn.Config(
            create_app(settings, record),
            http=FastLane if settings.gateway_fast_lane else "httptools",
            loop="uvloop",
            ws="none",
            lifespan="on",
            access_log=False,
            log_config=None,
            log_level="warning",
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=round(settings.gateway_drain_seconds),
            backlog=BACKLOG,
        )
    )


def listen(host: str, port: int) -> socket.socket:
    """A listening socket.

    Raises:
        HoneError: the address cannot be used.
    """
    try:
        return socket.create_server((host, port), backlog=BACKLOG, family=_family(host))
    except OSError as error:
        raise HoneError(
            f"The gateway cannot listen on {host}:{port}: {error.strerror}. "
            "Stop what uses it, or choose another with --port."
        ) from error


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _family(host: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in host else socket.AF_INET
