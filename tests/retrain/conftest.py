"""Fixtures that several tests of the worker use."""

import subprocess

import pytest

from retrain.worker import Worker


@pytest.fixture
def trains_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training processes that do nothing until they are told to end."""
    monkeypatch.setattr(Worker, "_spawn", lambda self, run_id: subprocess.Popen(["sleep", "600"]))
