"""A command that a message or a page tells a person to type is one that `hone` understands."""

import re
import shlex
from collections.abc import Iterator
from typing import Any

import typer
from typer._click.exceptions import NoSuchOption, UsageError

from deploy.cli import app
from docs.generate import is_group
from tests.house import tree

QUOTED = re.compile(r"(?:`|<code>)hone ([^`<|]+?)(?:`|</code>)")
JOINED = re.compile(r'"\s*\n\s*f?"')
"""Where a string goes on in the next line."""
FILLED = re.compile(r"\{\{[^}]*\}\}|\{[^}]*\}")
"""What is known only when the message is made."""


def quoted() -> Iterator[tuple[str, str]]:
    """Every command that the product's messages and pages name, and where."""
    for path in tree.files(".py", ".html", under=tree.PACKAGES):
        for words in QUOTED.findall(JOINED.sub("", path.read_text())):
            yield tree.name(path), FILLED.sub("x", words)


def misunderstood(words: str) -> str | None:
    """What `hone` has against these words, but that something is left out or only an example."""
    command: Any = typer.main.get_command(app)
    named, arguments = "hone", shlex.split(words)
    while is_group(command):
        if arguments in ([], ["--help"]):
            return None
        context = command.make_context(named, list(arguments), resilient_parsing=True)
        named, command, arguments = command.resolve_command(context, arguments)
        if command is None:
            return f"{words}: there is no such command"
    parser = command.make_parser(command.make_context(named, [], resilient_parsing=True))
    parser.ctx = None  # With a context it would forgive.
    try:
        _, left, _ = parser.parse_args(args=list(arguments))
    except NoSuchOption as error:
        return f"{words}: {error.message}"
    except UsageError:
        return None
    return f"{words}: nothing takes {left}" if left else None


def test_every_command_that_is_quoted_is_understood() -> None:
    found = list(quoted())
    assert len(found) > 50, "the messages quote commands in another way now"
    assert sorted({f"{where}: {wrong}" for where, words in found if (wrong := misunderstood(words))}) == []


def test_a_command_that_does_not_exist_is_noticed() -> None:
    assert misunderstood("rollback --model support --to support@0") is None
    for words in ("rollback support --to support@0", "model show support", "run show x --nope"):
        assert misunderstood(words)
