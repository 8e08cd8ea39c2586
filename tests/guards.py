"""What no test may do, whatever it tests.

No socket leaves this machine: a test that needs the network is a test of the network. Child processes are told to stay
offline, and uvloop connects without Python's sockets, so for those two this is a sign, not a wall.
"""

import ipaddress
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest

OFFLINE = {
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "DO_NOT_TRACK": "1",
}
"""For this process and its children: libraries that would otherwise call home."""

_installed = False
_guarding = False


class NetworkRefused(AssertionError):
    """A test reached for another machine."""


@pytest.fixture(scope="session", autouse=True)
def no_network() -> Iterator[None]:
    """Refuse every connection and name look-up that is not of this machine."""
    global _installed, _guarding
    os.environ.update(OFFLINE)
    if not _installed:
        # An audit hook sees what asyncio, httpx and C code built on Python's sockets do, and cannot be patched away.
        sys.addaudithook(_refuse)
        _installed = True
    _guarding = True
    yield
    _guarding = False


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if not _guarding or event not in ("socket.connect", "socket.sendto", "socket.getaddrinfo"):
        return
    host = arguments[0] if event == "socket.getaddrinfo" else arguments[1]
    if isinstance(host, tuple):
        host = host[0]
    if not is_local(host):
        raise NetworkRefused(
            f"A test reached for {host!r} ({event}). Tests talk to this machine only: use a fake."
        )


def is_local(host: object) -> bool:
    """Say whether an address is of this machine. A path is a Unix socket; None and '' are any address of ours."""
    if isinstance(host, bytes):
        host = host.decode()
    if not isinstance(host, str) or not host or host.startswith(("/", "\0")) or host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return False
    return address.is_loopback or address.is_unspecified
