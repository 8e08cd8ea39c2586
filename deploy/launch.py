"""Describe a child process and start it so that it cannot outlive us unnoticed.

Every child gets a session of its own (a signal reaches it and what it started, and Ctrl-C in the terminal
reaches only us), appends to a log file, and on Linux is signalled by the kernel when our process dies, even
by `kill -9`.
"""

import os
import signal
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from monitoring.exec_child import bound


@dataclass(frozen=True)
class User:
    """Whom a child runs as; only root can give one."""

    uid: int
    gid: int


@dataclass(frozen=True)
class Command:
    """What to run, and how to ask it to stop."""

    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to our own environment, unless `clean_environment`."""
    clean_environment: bool = False
    directory: Path | None = None
    """Working directory; unset: ours."""
    user: User | None = None
    stop_signal: signal.Signals = signal.SIGTERM
    """Asks for a clean stop; also what the kernel sends when we die."""


def spawn(command: Command, log_file: Path) -> subprocess.Popen[bytes]:
    """Start the command in its own session; its output is appended to `log_file`."""
    user = f"{command.user.uid}:{command.user.gid}" if command.user else "-"
    inherited = {} if command.clean_environment else dict(os.environ)
    log_file.parent.mkdir(parents=True, exist_ok=True)
    # Appended to directly, not through a pipe of ours: a supervisor that is killed or stuck must not take
    # the child's standard output with it.
    with log_file.open("ab") as log:
        return subprocess.Popen(
            bound(*command.argv, death_signal=command.stop_signal, user=user),
            env={**inherited, **command.environment},
            cwd=command.directory,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
