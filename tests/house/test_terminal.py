"""What every command owes the person and the program that call it."""

import io
import re
import time
from typing import Any

import pytest
from rich.console import Console

from docs.generate import is_group, sentence, walk_commands
from feedback.settings import FeedbackSettings
from feedback.terminal import patience, show_one, show_rows
from monitoring.console.app import create_app
from monitoring.console.decide import ACTIONS
from monitoring.settings import MonitoringSettings

LISTS = ("List ", "Show ", "Estimate ")
PRINTS_NOTHING_ELSE = ("model policy",)
FOR_BROWSERS_ALONE = ("/sign-in", "/sign-out", "/playground", "/model/compare")
"""A session of the console, and questions, which `/v1/chat/completions` answers by the name of any version."""
COMMAND_OF = {
    "/alerts/silence": "alert silence",
    "/settings/erasures": "privacy erase",
    "/settings/keys": "key create",
    "/settings/keys/{key_id}/revoke": "key revoke",
    "/settings/policy": "model policy",
    "/settings/policy/{section}": "model policy",
    "/decide/canaries": "canary",
    "/training/dataset": "retrain freeze",
    "/training/now": "retrain now",
    "/training/plan": "retrain plan",
    "/training/requests/{request_id}/cancel": "retrain cancel",
    "/training/search": "retrain search",
    "/training/{run_id}/cancel": "run cancel",
    "/training/{run_id}/pause": "run pause",
    "/training/{run_id}/resume": "run resume",
}
"""What the console's forms do, and the command that does the same."""


def commands() -> dict[str, Any]:
    return {" ".join(path[1:]): command for path, command in walk_commands() if not is_group(command)}


def test_every_listing_prints_json_for_programs() -> None:
    silent = [
        name
        for name, command in commands().items()
        if sentence(command.help).startswith(LISTS)
        and "--json" not in options(command)
        and name not in PRINTS_NOTHING_ELSE
    ]
    assert silent == []


def options(command: Any) -> set[str]:
    return {name for parameter in command.params for name in parameter.opts}


def test_whatever_the_console_does_a_command_does_too() -> None:
    paths = create_app(MonitoringSettings(), FeedbackSettings()).openapi()["paths"]
    posts = {path for path, methods in paths.items() if "post" in methods}
    assert posts, "no forms found: this test no longer looks where they are"
    known = set(commands())
    promised = {path: {COMMAND_OF[path]} for path in posts if path in COMMAND_OF}
    promised["/decide/{action}/{what}"] = set(ACTIONS)
    promised["/review/{subject}/{decision}"] = {"review include", "review exclude", "review correct"}
    unknown = [one for one in posts if one not in promised and not one.startswith(FOR_BROWSERS_ALONE)]
    assert unknown == [], "say in COMMAND_OF which command does the same"
    assert {one for ones in promised.values() for one in ones} - known == set()


def test_a_person_who_waits_sees_that_something_is_going_on() -> None:
    shown = io.StringIO()
    with patience(Console(file=shown, force_terminal=True, width=80), after_seconds=0.0):
        for _ in range(200):
            if "working" in shown.getvalue():
                break
            time.sleep(0.05)
    assert "working" in shown.getvalue()


def test_a_pipe_gets_no_control_characters() -> None:
    shown = io.StringIO()
    with patience(Console(file=shown), after_seconds=0.0):
        time.sleep(0.05)
    assert shown.getvalue() == ""


@pytest.mark.parametrize("terminal", [True, False])
def test_what_people_wrote_is_shown_and_does_nothing(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = io.StringIO()
    looked_at = Console(file=shown, force_terminal=terminal, no_color=True, width=200)
    monkeypatch.setattr("feedback.terminal.console", looked_at)
    row = {"comment": "[bold]no[/] \x1b]0;mine\x07 [/]", "number": 1}
    show_rows([row], ("comment", "number"), as_json=False, empty="Nothing.")
    show_one(row, as_json=False)
    said = shown.getvalue()
    assert said.count("[bold]no[/]") == 2
    assert "\x1b]" not in said and "\x07" not in said


def test_a_pipe_gets_one_line_a_row_with_tabs_between(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"adapter_id": "support--v1", "sentence": "It is\nbetter. " * 40}]
    show_rows(rows, ("adapter_id", "sentence"), as_json=False, empty="Nothing.")
    head, line = capsys.readouterr().out.splitlines()
    assert head == "adapter id\tsentence"
    assert line.split("\t") == ["support--v1", " ".join(["It is better."] * 40)]


@pytest.mark.parametrize(("terminal", "coloured"), [(True, True), (False, False)])
def test_colours_are_for_people(terminal: bool, coloured: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    assert is_coloured(terminal) is coloured
    monkeypatch.setenv("NO_COLOR", "1")
    assert not is_coloured(terminal)


def is_coloured(terminal: bool) -> bool:
    shown = io.StringIO()
    Console(file=shown, force_terminal=terminal).print("[green]ok[/]")
    return re.search(r"\x1b\[[0-9;]*3[0-9]m", shown.getvalue()) is not None
