import pytest
import typer
from typer.testing import CliRunner

from deploy.cli import app
from docs.generate import is_group, sentence, walk, walk_commands

COMMANDS = [path for path, _ in walk_commands()]


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_every_help_answers(path: tuple[str, ...]) -> None:
    answer = CliRunner().invoke(app, [*path[1:], "--help"], prog_name="hone")
    assert answer.exit_code == 0, answer.output
    assert "Usage: hone" in answer.output


def test_help_starts_with_a_verb_and_says_the_effect() -> None:
    unclear = [" ".join(path) for path, command in walk_commands() if not opens_well(sentence(command.help))]
    assert not unclear, f"Help must begin with a capital and end its first sentence: {unclear}"


def opens_well(text: str) -> bool:
    return len(text) > 10 and text[0].isupper() and text.rstrip().endswith((".", ")", "`"))


def test_every_option_says_what_it_does() -> None:
    silent = [
        f"{' '.join(path)} {parameter.name}"
        for path, command in walk_commands()
        if not is_group(command)
        for parameter in command.params
        if not getattr(parameter, "help", None) and not getattr(parameter, "hidden", False)
    ]
    assert not silent


def test_the_commands_that_the_design_names_exist() -> None:
    named = {" ".join(path[1:]) for path, _ in walk(typer.main.get_command(app), ("hone",))}
    promised = [
        "up",
        "gateway",
        "worker",
        "engine",
        "doctor",
        "config",
        "demo",
        "retrain plan",
        "retrain now",
    ]
    promised += ["approve", "canary", "promote", "abort", "rollback"]
    promised += ["model", "adapter", "run", "dataset", "experiment", "key", "feedback"]
    assert sorted(set(promised) - named) == []
