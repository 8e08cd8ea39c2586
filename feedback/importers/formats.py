"""Which formats there are, and which one a file has."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from feedback.errors import HoneError
from feedback.importers.found import Answer, Found, Importer
from feedback.importers.langfuse import Langfuse
from feedback.importers.open_webui import OpenWebui
from feedback.importers.openai_stored import OpenAI
from feedback.importers.rows import Row, read_rows
from feedback.importers.tensorzero import TensorZero

FORMATS: dict[str, Importer] = {
    "open-webui": OpenWebui(),
    "langfuse": Langfuse(),
    "tensorzero": TensorZero(),
    "openai": OpenAI(),
}

LOOKED_AT = 100


def chosen(wanted: str | None, path: Path) -> str:
    """The format asked for, else the one that the file's first row has.

    Raises:
        HoneError: the format is unknown; or none, or more than one, recognises the row.
    """
    if wanted is not None and wanted not in FORMATS:
        raise HoneError(f"Format '{wanted}' is unknown; expected one of {', '.join(FORMATS)}.")
    if wanted is not None:
        return wanted
    row = next(iter(_first(path, 1)), None)
    names = [
        name for name, importer in FORMATS.items() if row is not None and importer.recognises(row.fields)
    ]
    if len(names) != 1:
        columns = "no row" if row is None else f"the columns {', '.join(list(row.fields)[:8])}"
        raise HoneError(
            f"{path} begins with {columns}, which is {'more than one' if names else 'none'} of the known formats. "
            f"Say which with --format {'|'.join(FORMATS)}."
        )
    return names[0]


def in_order(paths: Sequence[Path], wanted: str | None) -> list[Path]:
    """Files with completions first: feedback is about what is there."""
    return sorted(paths, key=lambda path: not _holds_answers(path, wanted))


def _holds_answers(path: Path, wanted: str | None) -> bool:
    importer = FORMATS[chosen(wanted, path)]
    return any(
        isinstance(one, Answer) for row in _first(path, LOOKED_AT) for one in _found(importer, row.fields)
    )


def _found(importer: Importer, fields: dict[str, Any]) -> list[Found]:
    try:
        return list(importer.read(fields))
    except HoneError:
        return []


def _first(path: Path, count: int) -> list[Row]:
    return list(islice((row for row in read_rows(path) if isinstance(row, Row)), count))
