"""Read the rows of an export, one at a time: JSON, JSON lines, CSV and Parquet, plain or gzipped.

Memory does not grow with the file. Every row knows the line on which it begins (in Parquet: its number), and a row that
cannot be read is named with the reason while those after it are read on. Only a JSON array that breaks in the middle
ends there: nothing says where its next item would begin.
"""

import ast
import csv
import gzip
import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any
from uuid import UUID

import orjson

from feedback.errors import HoneError

CHUNK_CHARACTERS = 1 << 18
ITEM_CHARACTERS_MAX = 1 << 26
PARQUET_ROWS = 256
PARQUET, GZIP = b"PAR1", b"\x1f\x8b"
NEAR_THE_END = 16
JSON_OPENERS = ("{", "[")
LISTING = {"has_more", "meta"}
SEPARATORS = re.compile(r"[\s,]*")
SURROGATE = re.compile("[\udc80-\udcff]")


@dataclass(frozen=True, slots=True)
class Row:
    """One row as it was exported, and the line on which it begins."""

    line: int
    fields: dict[str, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that cannot be read or used, and why."""

    line: int
    reason: str


def read_rows(path: Path, on_bytes: Callable[[int], None] = lambda _: None) -> Iterator[Row | BadRow]:
    """The rows of a file in order; `on_bytes` is told how many bytes have been read so far.

    Raises:
        HoneError: the file cannot be opened, or is of no known kind.
    """
    try:
        with path.open("rb") as raw:
            head = raw.read(4)
            raw.seek(0)
            if head == PARQUET:
                yield from _parquet_rows(raw, path)
                return
            source: Any = gzip.GzipFile(fileobj=raw) if head[:2] == GZIP else raw
            with io.TextIOWrapper(source, "utf-8-sig", errors="surrogateescape", newline="") as stream:
                for row in _text_rows(stream, path):
                    on_bytes(raw.tell())
                    yield row
    except (OSError, EOFError) as error:
        raise HoneError(
            f"{path} cannot be read: {error}. Expected an export as JSON, CSV or Parquet."
        ) from error


def size_bytes(path: Path) -> int:
    """How long a file is."""
    return path.stat().st_size


def cell(value: Any) -> Any:
    """What a cell holds: JSON or a ClickHouse map written as text becomes its value, anything else stays."""
    if not isinstance(value, str) or not value.lstrip().startswith(JSON_OPENERS):
        return value
    with suppress(orjson.JSONDecodeError):
        return orjson.loads(value)
    with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
        return ast.literal_eval(value)
    return value


def _text_rows(stream: IO[str], path: Path) -> Iterator[Row | BadRow]:
    first = stream.read(1)
    while first.isspace():
        first = stream.read(1)
    if not first:
        raise HoneError(f"{path} is empty. Expected an export as JSON, CSV or Parquet.")
    stream.seek(0)
    if first == "[":
        return _array_rows(stream)
    if first == "{":
        return _line_rows(stream)
    return _csv_rows(stream, path)


def _line_rows(stream: IO[str]) -> Iterator[Row | BadRow]:
    for number, line in enumerate(stream, 1):
        if not line.strip():
            continue
        row = _item(number, line)
        # One page of an API's listing: its rows are inside.
        inside = row.fields.get("data") if isinstance(row, Row) and LISTING & row.fields.keys() else None
        if isinstance(inside, list) and all(isinstance(item, dict) for item in inside):
            yield from (Row(number, item) for item in inside)
        else:
            yield row


def _array_rows(stream: IO[str]) -> Iterator[Row | BadRow]:
    decoder = json.JSONDecoder()
    buffer = stream.read(CHUNK_CHARACTERS)
    at = buffer.index("[") + 1
    line = 1 + buffer.count("\n", 0, at)
    while True:
        found = SEPARATORS.match(buffer, at)
        assert found is not None
        line, at = line + buffer.count("\n", at, found.end()), found.end()
        if at == len(buffer):
            buffer, at = stream.read(CHUNK_CHARACTERS), 0
            if not buffer:
                yield BadRow(line, "the list is not closed: the file ends in the middle")
                return
            continue
        if buffer[at] == "]":
            return
        try:
            _, end = decoder.raw_decode(buffer, at)
        except json.JSONDecodeError as error:
            missing = max(CHUNK_CHARACTERS, len(buffer) - at)
            more = stream.read(missing) if _is_cut(error, len(buffer)) else ""
            if not more:
                yield BadRow(line, f"the list breaks here, and what follows cannot be read: {error.msg}")
                return
            buffer, at = buffer[at:] + more, 0
            continue
        yield _item(line, buffer[at:end])
        line, at = line + buffer.count("\n", at, end), end


def _item(line: int, text: str) -> Row | BadRow:
    try:
        fields = orjson.loads(text.encode(errors="surrogateescape"))
    except ValueError as error:
        return BadRow(line, f"it is not JSON: {error}")
    if not isinstance(fields, dict):
        return BadRow(line, f"it is a JSON {type(fields).__name__}; expected an object")
    return Row(line, fields)


def _is_cut(error: json.JSONDecodeError, length: int) -> bool:
    """Whether an item only goes on behind what has been read, rather than being broken."""
    cut = error.msg.startswith("Unterminated string") or error.pos >= length - NEAR_THE_END
    return cut and length < ITEM_CHARACTERS_MAX


def _csv_rows(stream: IO[str], path: Path) -> Iterator[Row | BadRow]:
    csv.field_size_limit(ITEM_CHARACTERS_MAX)
    reader = csv.reader(stream)
    names = next(reader)
    if any(_is_uuid(name) for name in names):
        raise HoneError(
            f"{path} has no header: its first line holds values such as '{names[0]}'. "
            "Export it with the names of the columns (in ClickHouse: FORMAT CSVWithNames)."
        )
    while True:
        line = reader.line_num + 1
        try:
            values = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield BadRow(line, f"it is not CSV: {error}")
            continue
        if not values:
            continue
        if len(values) != len(names):
            yield BadRow(line, f"it has {len(values)} cells; the header has {len(names)}")
        elif any(SURROGATE.search(value) for value in values):
            yield BadRow(line, "it is not UTF-8")
        else:
            yield Row(line, {name: cell(value) for name, value in zip(names, values, strict=True)})


def _parquet_rows(stream: IO[bytes], path: Path) -> Iterator[Row | BadRow]:
    parquet = require_parquet(path)
    from pyarrow import ArrowException

    number = 0
    try:
        for batch in parquet.ParquetFile(stream).iter_batches(batch_size=PARQUET_ROWS):
            for values in batch.to_pylist(maps_as_pydicts="lossy"):
                number += 1
                yield Row(number, {name: cell(_plain(value)) for name, value in values.items()})
    except ArrowException as error:
        raise HoneError(f"{path} cannot be read: {error} Rows before number {number + 1} were.") from error


def require_parquet(path: Path) -> Any:
    """`pyarrow.parquet`.

    Raises:
        HoneError: it is not installed here.
    """
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise HoneError(
            f"{path} is Parquet, which needs the package pyarrow. Install it with "
            "`pip install 'hone-llm[parquet]'`, or use JSON lines."
        ) from error
    return parquet


def _plain(value: Any) -> Any:
    """ClickHouse writes identifiers as 16 bytes, and text as bytes in older versions."""
    if isinstance(value, bytes):
        return str(UUID(bytes=value)) if len(value) == 16 else value.decode(errors="replace")
    if isinstance(value, UUID):
        return str(value)
    return value


def _is_uuid(text: str) -> bool:
    with suppress(ValueError):
        return bool(UUID(text))
    return False
