"""Shells complete `hone`, without importing what the completed command would."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.cli import Shell

HONE = Path(sys.executable).with_name("hone")


def completed(typed: str) -> list[str]:
    """What bash is told when Tab is pressed after `typed`."""
    environment = {**os.environ, "_HONE_COMPLETE": "complete_bash", "COMP_WORDS": typed}
    done = subprocess.run(
        [HONE],
        env=environment | {"COMP_CWORD": str(typed.count(" "))},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "Traceback" not in done.stderr, done.stderr
    return done.stdout.split()


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("hone roll", {"rollout", "rollback"}),
        ("hone completion l", {"list"}),
        ("hone feedback list --rati", {"--rating"}),
        ("hone feedback list --rating ", {"up", "down"}),
        ("hone shell-completion ", {"bash", "zsh", "fish"}),
    ],
)
def test_commands_options_and_values_are_offered(typed: str, offered: set[str]) -> None:
    assert set(completed(typed)) == offered


@pytest.mark.parametrize("shell", Shell)
def test_each_shell_gets_a_script_that_asks_hone(shell: Shell) -> None:
    done = subprocess.run([HONE, "shell-completion", shell], capture_output=True, text=True, check=True)
    assert f"_HONE_COMPLETE=complete_{shell}" in done.stdout
    program = shutil.which(shell)
    if program is not None:
        subprocess.run([program, "-n"], input=done.stdout, text=True, check=True, timeout=60)


def test_bash_completes_a_command_after_reading_the_script() -> None:
    program = (
        f'PATH="{HONE.parent}:$PATH"; source <(hone shell-completion bash); '
        "COMP_WORDS=(hone retrain pl); COMP_CWORD=2; _hone_completion hone; echo ${COMPREPLY[@]}"
    )
    done = subprocess.run(["bash", "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == ["plan"]
