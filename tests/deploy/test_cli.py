"""The `hone` command: its overview is true and quick, and a mistake ends in one sentence."""

import importlib
import subprocess
import sys

import pytest
import typer

from deploy.cli import Commands

HONE = (sys.executable, "-m", "deploy.cli")


def hone(*arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([*HONE, *arguments], capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("application", sorted({entry.app for entry in Commands.mounted.values()}))
def test_the_overview_says_of_each_command_what_its_own_help_says(application: str) -> None:
    module, _, attribute = application.partition(":")
    real = typer.main.get_group(getattr(importlib.import_module(module), attribute)).commands
    shown = {name: entry.help for name, entry in Commands.mounted.items() if entry.app == application}
    assert shown == {name: (command.help or "").strip() for name, command in real.items()}


def test_the_overview_takes_less_than_half_a_second_of_computing() -> None:
    program = (
        "import resource, sys\nsys.argv = ['hone', '--help']\nfrom deploy.cli import main\n"
        "try:\n    main()\nfinally:\n"
        "    used = resource.getrusage(resource.RUSAGE_SELF)\n"
        "    print(used.ru_utime + used.ru_stime, file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert float(done.stderr) < 0.5
    for command in ("up", "gateway", "retrain", "rollback"):
        assert f" {command} " in done.stdout


def test_a_mistyped_command_is_answered_with_the_nearest() -> None:
    done = hone("rolback")
    assert done.returncode == 2
    assert "Did you mean 'rollback'" in done.stderr


def test_a_mounted_command_shows_its_own_help_under_its_full_name() -> None:
    assert "Usage: hone key create" in hone("key", "create", "--help").stdout


def test_a_mistake_ends_with_one_sentence_and_status_2(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HONE_GATEWAY_PORT", "eight thousand")
    done = hone("gateway")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: ")
    assert "HONE_GATEWAY_PORT" in done.stderr
    assert "Traceback" not in done.stderr
