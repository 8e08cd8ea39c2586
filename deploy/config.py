"""`hone config`: every setting, the value that holds, and where it came from.

Promises: it shows what the processes resolve, from the same classes; secrets are masked; a name that no package reads
is an error with the nearest known one, so that a typing mistake never becomes a silent default.
"""

import difflib
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from deploy.settings import CLASSES
from feedback.errors import HoneError
from feedback.settings import config_file, read_config_file

MASK = "********"
OTHER_VARIABLES = {"HONE_CONFIG", "HONE_KEY", "HONE_PROJECT"}
"""Variables that are no settings: where `hone.toml` is, and what some commands take instead of an option."""

_TABLE = re.compile(r"\s*\[([^\[\]]+)\]")
_KEY = re.compile(r"""\s*["']?([A-Za-z0-9_-]+)["']?\s*=""")


@dataclass(frozen=True)
class Resolved:
    """One setting as it holds."""

    table: str
    name: str
    value: Any
    """As JSON would have it; a secret is masked."""
    source: str
    """`default`, `FILE:LINE` or the environment variable."""
    help: str


def main(*, as_json: bool) -> int:
    """Print every setting; the command.

    Raises:
        HoneError: a value or a name is wrong.
    """
    found = list(resolve())
    if as_json:
        print(json.dumps([asdict(one) for one in found], indent=2))
        return 0
    file = config_file().absolute()
    print(f"# {file}{'' if file.exists() else ' does not exist; it need not'}")
    width = max(len(one.name) for one in found)
    table = ""
    for one in found:
        if one.table != table:
            table = one.table
            print(f"\n[{table}]")
        print(f"{one.name:<{width}} = {_shown(one.value):<28} # {one.source}")
    return 0


def resolve() -> Iterator[Resolved]:
    """Every setting of every package, in the order of the import direction.

    Raises:
        HoneError: a value is not what its field expects, or a name is unknown.
    """
    refuse_unknown_names()
    file = config_file()
    lines = key_lines(file)
    for package in CLASSES:
        settings = package.load()
        for name, field in package.model_fields.items():
            yield Resolved(
                table=package.table,
                name=name,
                value=_plain(getattr(settings, name)),
                source=_source(package.table, name, file, lines),
                help=field.description or "",
            )


def refuse_unknown_names() -> None:
    """Look at the names only: every `HONE_*` variable and every key of `hone.toml` must mean something.

    Raises:
        HoneError: one does not; the message has the nearest that does.
    """
    file = config_file()
    tables = read_config_file(file)
    lines = key_lines(file)
    for package in CLASSES:
        for key in tables.get(package.table, {}):
            if key not in package.model_fields:
                raise HoneError(
                    f"{file}, line {lines.get((package.table, key), '?')}: [{package.table}] has no setting '{key}'."
                    + _nearest(key, _all_fields())
                )
    for variable in sorted(os.environ):
        if variable.startswith("HONE_") and variable not in OTHER_VARIABLES:
            field = variable.removeprefix("HONE_").lower()
            if field not in _all_fields():
                known = {f"HONE_{name.upper()}": table for name, table in _all_fields().items()}
                raise HoneError(
                    f"The environment variable {variable} is no setting of Hone." + _nearest(variable, known)
                )


def key_lines(file: Path) -> dict[tuple[str, str], int]:
    """On which line of a TOML file each `(table, key)` is."""
    found: dict[tuple[str, str], int] = {}
    table = ""
    if file.exists():
        for number, line in enumerate(file.read_text().splitlines(), start=1):
            if header := _TABLE.match(line):
                table = header.group(1).strip()
            elif key := _KEY.match(line):
                found.setdefault((table, key.group(1)), number)
    return found


def _all_fields() -> dict[str, str]:
    return {name: package.table for package in CLASSES for name in package.model_fields}


def _nearest(name: str, known: dict[str, str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not close:
        return " `hone config` lists all there are."
    return f" Did you mean '{close[0]}' (table [{known[close[0]]}])? `hone config` lists all there are."


def _source(table: str, name: str, file: Path, lines: dict[tuple[str, str], int]) -> str:
    for variable, value in os.environ.items():
        if variable.upper() == f"HONE_{name.upper()}" and value:
            return variable
    line = lines.get((table, name))
    return f"{file}:{line}" if line is not None else "default"


def _plain(value: Any) -> Any:
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return [_plain(one) for one in value]
    return value


def _shown(value: Any) -> str:
    return "unset" if value is None else json.dumps(value)
