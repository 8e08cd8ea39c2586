"""Which ports the parts get."""

import pytest

from deploy import services
from deploy.settings import Settings


@pytest.mark.parametrize("asked", [8000, 8001, 8002])
def test_no_two_parts_get_one_port(asked: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The defaults of engine and console are free until the gateway is told to have them."""
    monkeypatch.setenv("HONE_GATEWAY_PORT", str(asked))
    monkeypatch.setattr(services, "is_free", lambda host, port: True)
    found = services.choose_addresses(Settings.load())
    assert found.gateway_port == asked
    assert len({found.gateway_port, found.engine_port, found.console_port}) == 3
