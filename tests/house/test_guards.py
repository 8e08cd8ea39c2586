import asyncio
import socket

import pytest

from tests.guards import NetworkRefused, is_local


def test_a_test_cannot_reach_another_machine() -> None:
    with socket.socket() as reaching, pytest.raises(NetworkRefused, match=r"192\.0\.2\.1"):
        reaching.connect(("192.0.2.1", 80))


async def test_a_test_cannot_look_up_another_machine() -> None:
    with pytest.raises(NetworkRefused, match=r"example\.invalid"):
        await asyncio.get_running_loop().getaddrinfo("example.invalid", 80)


def test_this_machine_can_be_reached() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as client,
    ):
        assert client.getpeername() == server.getsockname()


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "::1", "localhost", "", None, "/run/x.sock", b"127.0.0.2", "0.0.0.0"]
)
def test_addresses_of_this_machine_are_local(host: object) -> None:
    assert is_local(host)


@pytest.mark.parametrize(
    "host", ["10.0.0.1", "example.com", "169.254.169.254", "fe80::1%eth0", "::ffff:8.8.8.8"]
)
def test_addresses_of_other_machines_are_not_local(host: str) -> None:
    assert not is_local(host)
