"""Take feedback out of the record, as rows that TRL trains on or as it is, a million in the memory of a few.

`kto`: `prompt`, `completion`, `label`, one row a thumb. `dpo`: `prompt`, `chosen`, `rejected`, from preferences and
from corrected answers. `sft`: `messages`, from corrections and from answers with a thumb up. `raw`: feedback as stored.
Training rows hold only what may be trained on: completions with consent, redacted where a redacted copy is kept. Each
row says which completion and feedback it came from. Rows whose text was deleted are left out.

An export is a copy outside the record. An erasure deletes it where it was written (`feedback.exports` knows where); a
copy of it, and what retention dropped meanwhile, stay as they are.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import orjson
from sqlalchemy import ColumnElement, FromClause, Select, func, literal_column, or_
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.completions import plain
from feedback.errors import HoneError
from feedback.importers.rows import require_parquet
from feedback.tables import completion_redacted, completion_texts, completions, feedback
from feedback.wanted import Wanted, feedback_query

ROWS_A_TIME = 1000
Row = dict[str, Any]


class Columns(NamedTuple):
    """One kind of export."""

    help: str
    about: ColumnElement[bool] | None
    """Which feedback it is made of; None: all of it, as stored."""
    build: Callable[[Row], Row | None]
    compares: bool = False
    """Whether a preference's better completion is needed beside the other."""


def check(columns: str, *, as_parquet: bool = False) -> None:
    """Refuse what cannot be exported, before anything is read or sent.

    Raises:
        HoneError: there is no such kind of export, or pyarrow is not installed.
    """
    if columns not in EXPORTS:
        raise HoneError(f"Columns '{columns}' are unknown; expected one of {', '.join(EXPORTS)}.")
    if as_parquet:
        require_parquet(Path("The export"))


async def rows(connection: AsyncConnection, wanted: Wanted, columns: str) -> AsyncIterator[Row]:
    """The rows of an export, through a cursor on the server.

    Raises:
        HoneError: there is no such kind of export.
    """
    check(columns)
    export = EXPORTS[columns]
    query = feedback_query(wanted)
    if export.about is not None:
        query = _with_text(query.where(export.about, completions.c.consent), completions)
    if export.compares:
        query = _with_better(query)
    result = await connection.stream(query.execution_options(yield_per=ROWS_A_TIME))
    async for some in result.mappings().partitions(ROWS_A_TIME):
        for one in some:
            built = export.build(plain(one))
            if built is not None:
                yield built


def _with_better(query: Select[Any]) -> Select[Any]:
    """Add the completion that a preference prefers, if it may be trained on; its columns begin with `better_`."""
    better = completions.alias("better")
    name = feedback.c.value.op("#>>")(literal_column("'{}'"))
    query = query.outerjoin(
        better,
        (feedback.c.kind == "preference")
        & (better.c.completion_id == name)
        & (better.c.day == func.completion_day(name))
        & (better.c.project == feedback.c.project)
        & better.c.consent,
    )
    return _with_text(query, better, "better_")


def _with_text(query: Select[Any], table: FromClause, prefix: str = "") -> Select[Any]:
    """Add what was said in a completion, redacted where there is a redacted copy."""
    redacted, plain = completion_redacted.alias(f"{prefix}redacted"), completion_texts.alias(f"{prefix}plain")
    for texts in (redacted, plain):
        same = (texts.c.completion_id == table.c.completion_id) & (texts.c.day == table.c.day)
        query = query.outerjoin(texts, same)
    names = ("request", "output_text", "message")
    said = (func.coalesce(redacted.c[name], plain.c[name]).label(f"{prefix}{name}") for name in names)
    return query.add_columns(*said)


def _kto(row: Row) -> Row | None:
    prompt, answer = _prompt(row), _answer(row)
    if prompt is None or answer is None:
        return None
    return {"prompt": prompt, "completion": [answer], "label": row["value"], **_origin(row)}


def _dpo(row: Row) -> Row | None:
    prompt, rejected = _prompt(row), _answer(row)
    chosen = _answer(row, "better_") if row["kind"] == "preference" else _demonstrated(row["value"])
    if prompt is None or rejected is None or chosen is None:
        return None
    return {"prompt": prompt, "chosen": [chosen], "rejected": [rejected], **_origin(row)}


def _sft(row: Row) -> Row | None:
    prompt = _prompt(row)
    answer = _answer(row) if row["kind"] == "rating" else _demonstrated(row["value"])
    return None if prompt is None or answer is None else {"messages": [*prompt, answer], **_origin(row)}


def _prompt(row: Row) -> list[Row] | None:
    request = row["request"] or {}
    if request.get("messages"):
        return list(request["messages"])
    return (
        [{"role": "user", "content": request["prompt"]}] if isinstance(request.get("prompt"), str) else None
    )


def _answer(row: Row, prefix: str = "") -> Row | None:
    if row[f"{prefix}request"] is None:
        return None
    message: Row = row[f"{prefix}message"] or {"content": row[f"{prefix}output_text"]}
    return {
        "role": "assistant",
        **{name: value for name, value in message.items() if value not in (None, [], {})},
    }


def _demonstrated(value: Any) -> Row | None:
    if value is None:
        return None
    return {"role": "assistant", "content": value} if isinstance(value, str) else dict(value[-1])


def _origin(row: Row) -> Row:
    return {name: row[name] for name in ("completion_id", "feedback_id", "model", "version", "rater")}


_THUMB = (feedback.c.kind == "rating") & (func.jsonb_typeof(feedback.c.value) == "boolean")
_THUMB &= feedback.c.name == "thumbs"
_SHOWN = feedback.c.kind == "demonstration"

EXPORTS: Mapping[str, Columns] = {
    "raw": Columns("feedback as stored", None, lambda row: row),
    "kto": Columns("prompt, completion, label", _THUMB, _kto),
    "dpo": Columns(
        "prompt, chosen, rejected", _SHOWN | (feedback.c.kind == "preference"), _dpo, compares=True
    ),
    "sft": Columns(
        "messages", or_(_SHOWN, _THUMB & (feedback.c.value == literal_column("'true'::jsonb"))), _sft
    ),
}


async def json_lines(found: AsyncIterator[Row]) -> AsyncIterator[bytes]:
    """Rows as JSON lines, some at a time."""
    waiting: list[bytes] = []
    async for row in found:
        waiting.append(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
        if len(waiting) == ROWS_A_TIME:
            yield b"".join(waiting)
            waiting.clear()
    if waiting:
        yield b"".join(waiting)


async def parquet(found: AsyncIterator[Row]) -> AsyncIterator[bytes]:
    """Rows as a Parquet file, a piece after each group of rows. Messages are lists of role and content, nothing more.

    Raises:
        HoneError: pyarrow is not installed.
    """
    sink = _Sink()
    writer = None
    group: list[Row] = []
    async for row in found:
        group.append(_flat(row))
        if len(group) == ROWS_A_TIME:
            writer = _write(sink, writer, group)
            group = []
            yield sink.take()
    writer = _write(sink, writer, group) if group or writer is None else writer
    writer.close()
    yield sink.take()


class _Sink:
    """A file that gives away what is written to it."""

    closed = False

    def __init__(self) -> None:
        self.pieces: list[bytes] = []

    def write(self, data: Any) -> int:
        self.pieces.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        taken, self.pieces = b"".join(self.pieces), []
        return taken

    def flush(self) -> None:
        """Nothing waits."""

    def close(self) -> None:
        """Nothing is held."""


MESSAGES = ("prompt", "completion", "chosen", "rejected", "messages")


def _flat(row: Row) -> Row:
    """A row whose columns have the same type in every row: what may be anything travels as JSON."""
    flat: Row = {}
    for name, value in row.items():
        if name in MESSAGES:
            flat[name] = [{part: _text(one.get(part)) for part in ("role", "content")} for one in value]
        else:
            flat[name] = orjson.dumps(value).decode() if name in ("value", "metadata") else value
    return flat


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else orjson.dumps(value).decode()


def _write(sink: _Sink, writer: Any, group: list[Row]) -> Any:
    import pyarrow

    schema = writer.schema if writer is not None else _schema(group)
    if writer is None:
        writer = require_parquet(Path("The export")).ParquetWriter(pyarrow.PythonFile(sink, "w"), schema)
    if group:
        writer.write_table(pyarrow.Table.from_pylist(group, schema=schema))
    return writer


def _schema(group: list[Row]) -> Any:
    """Types by name: the first rows of an export may hold nothing but nulls in a column."""
    import pyarrow

    messages = pyarrow.list_(pyarrow.struct([("role", pyarrow.string()), ("content", pyarrow.string())]))
    types = dict.fromkeys(MESSAGES, messages) | {
        "label": pyarrow.bool_(),
        "effective": pyarrow.bool_(),
        "version": pyarrow.int64(),
    }
    moment = pyarrow.timestamp("us", tz="UTC")
    names = list(group[0]) if group else []
    return pyarrow.schema(
        [(name, types.get(name, moment if name.endswith("_at") else pyarrow.string())) for name in names]
    )
