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


@pytest.mark.skipif(shutil.which("fish") is None, reason="fish is not installed")
def test_fish_offers_commands_and_options_after_reading_the_script() -> None:
    program = (
        f"set -x PATH {HONE.parent} $PATH; source (hone shell-completion fish | psub); "
        "complete -C 'hone retrain pl'; complete -C 'hone retrain now --from'"
    )
    done = subprocess.run(
        ["fish", "--no-config", "-c", program], capture_output=True, text=True, timeout=120, check=True
    )
    assert [line.split("\t")[0] for line in done.stdout.split("\n") if line.strip()] == [
        "plan",
        "--from-search",
    ]


@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
def test_zsh_completes_a_command_when_tab_is_pressed() -> None:
    # A help text with backticks is evaluated by the shell: it must come out as text.
    program = f"""
        zmodload zsh/zpty && zpty z env PATH={HONE.parent}:$PATH zsh -f -i
        zpty -w z 'PS1=; autoload -Uz compinit; compinit -u -D; source <(hone shell-completion zsh); print READ''Y'
        zpty -r z out '*READY*'
        zpty -w -n z $'hone retrain now --from\t'
        zpty -r z out '*--from-search*' && print completed
        zpty -d z"""
    done = subprocess.run(
        ["zsh", "-f", "-c", program], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.split() == ["completed"], done.stderr
