"""A command group that knows its commands' names and help, and imports them only to run them.

`hone --help` must not wait for torch, SQLAlchemy or FastAPI. So each command has one line here, and its
module is imported when that command is called; `tests/deploy/test_cli.py` holds the lines equal to the real
help.
"""

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

if TYPE_CHECKING:
    from typer._click import Command, Context


@dataclass(frozen=True)
class Mounted:
    """Where a command is, and what the overview says of it."""

    app: str
    """`module:attribute` of the Typer application that has the command."""
    help: str
    panel: str


class LazyGroup(TyperGroup):
    """Shows `mounted` in help and completion; imports a command when it is called."""

    mounted: ClassVar[dict[str, Mounted]] = {}

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        for name, entry in self.mounted.items():
            self.add_command(_Line(name, help=entry.help, rich_help_panel=entry.panel))

    def resolve_command(
        self, ctx: "Context", args: list[str]
    ) -> tuple[str | None, "Command | None", list[str]]:
        """The command that was called, imported if it is mounted."""
        name, command, rest = super().resolve_command(ctx, args)
        if isinstance(command, _Line):
            assert name is not None
            command = load(name, self.mounted[name])
        return name, command, rest


class _Line(TyperCommand):
    """A command's line in the overview."""


def load(name: str, entry: Mounted) -> "Command":
    """Import the application that has the command, and return the command."""
    module_name, _, attribute = entry.app.partition(":")
    group = typer.main.get_group(getattr(importlib.import_module(module_name), attribute))
    command: Command = group.commands[name]
    return command
