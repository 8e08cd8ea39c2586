"""Langfuse's scores, and the traces or observations that they are about.

Understood are files of the blob storage export (`scores/`, `observations_v2/`, `observations/`, `traces/`), exports
from the tables in the UI, and pages of the public API, as CSV, JSON or JSON lines; names may be written `trace_id` or
`traceId`. A generation, or a trace with input and output, becomes a completion. Boolean, numeric and categorical scores
become ratings under the score's name, text comments, corrections demonstrations. Scores of evaluators (`source` EVAL)
are left out: a rating here is a person's. Traces or observations come before the scores, or both in one command.
"""

import re
from collections.abc import Iterator
from typing import Any

import orjson

from feedback.errors import HoneError
from feedback.importers.found import (
    Answer,
    Found,
    Said,
    Skipped,
    blocks_text,
    labels,
    moment,
    plain_message,
    plain_messages,
    required,
    text,
)
from feedback.importers.rows import cell

HUMP = re.compile(r"(?<=[a-z0-9])([A-Z])")
TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


class Langfuse:
    """Rows about scores, observations or traces; which one is told by the columns."""

    def recognises(self, fields: dict[str, Any]) -> bool:
        """The columns that Langfuse's tables have."""
        names = _snake(fields).keys()
        return (
            {"trace_id", "data_type"} <= names
            or {"trace_id", "type", "input", "output"} <= names
            or {"timestamp", "input", "output", "session_id", "bookmarked"} <= names
        )

    def read(self, fields: dict[str, Any]) -> Iterator[Found]:
        """The completion or score that a row holds."""
        row = _snake(fields)
        if "data_type" in row:
            yield _score(row)
        elif "input" in row and "output" in row:
            yield _answer(row)
        else:
            raise HoneError("its columns are those of neither scores, observations nor traces")


def _score(row: dict[str, Any]) -> Found:
    if row.get("source") == "EVAL":
        return Skipped("an evaluator said it, not a person")
    about = tuple(
        f"{kind}/{name}" for kind in ("observation", "trace", "session") if (name := text(row, f"{kind}_id"))
    )
    if not about:
        return Skipped("it is about neither a trace, an observation nor a session")
    kind, value = _value(row)
    trace = row.get("trace")
    return Said(
        source_id=required(row, "id"),
        about=about,
        created_at=moment(row.get("updated_at") or row.get("timestamp"), "timestamp"),
        kind=kind,
        value=value,
        name=None if kind == "demonstration" else required(row, "name")[:64],
        comment=text(row, "comment"),
        rater=text(row, "author_user_id", "user_id", "trace_user_id")
        or (text(_snake(trace), "user_id") if isinstance(trace, dict) else None),
    )


def _value(row: dict[str, Any]) -> tuple[str, Any]:
    kind = row.get("data_type")
    words = text(row, "string_value", "long_string_value")
    value = row.get("value")
    if kind == "CORRECTION":
        return "demonstration", words or value
    if kind == "TEXT":
        return "comment", words or value
    if kind == "CATEGORICAL":
        return "rating", words
    if kind == "BOOLEAN":
        for given in (words, value):
            if (said := TRUTH.get(str(given).lower())) is not None:
                return "rating", said
    if kind == "NUMERIC":
        try:
            return "rating", float(str(value))
        except ValueError:
            pass
    raise HoneError(
        f"its 'data_type' is {kind!r} and its 'value' {value!r}, which is no score that can be kept"
    )


def _answer(row: dict[str, Any]) -> Found:
    name, trace = required(row, "id"), text(row, "trace_id")
    if trace is not None and row.get("type") not in (None, "GENERATION"):
        return Skipped(f"an observation of type {row.get('type')} is no answer of a model")
    asked, answered = cell(row.get("input")), cell(row.get("output"))
    if answered in (None, "", [], {}):
        return Skipped("it has no output")
    message = _message(answered)
    usage = cell(row.get("usage_details"))
    session = text(row, "session_id")
    model = text(row, "provided_model_name", "model")
    return Answer(
        source_id=f"trace/{name}" if trace is None else f"observation/{name}",
        created_at=moment(row.get("start_time") or row.get("timestamp"), "start_time"),
        messages=_question(asked),
        message=message,
        model=model,
        rater=text(row, "user_id"),
        session=session,
        prompt_tokens=_tokens(usage, "input"),
        output_tokens=_tokens(usage, "output"),
        metadata=labels(imported_model=model, name=text(row, "name"), release=text(row, "release")),
        aliases=tuple(
            f"{kind}/{known}" for kind, known in (("trace", trace), ("session", session)) if known is not None
        ),
    )


def _question(asked: Any) -> list[dict[str, Any]]:
    """The conversation: messages where there are some, else whatever was put in, as one message."""
    try:
        return plain_messages(asked, "input")
    except HoneError:
        if asked in (None, "", [], {}):
            raise
        return [{"role": "user", "content": orjson.dumps(asked).decode()}]


def _message(answered: Any) -> dict[str, Any]:
    """The assistant's message in whatever shape an integration logged it."""
    if isinstance(answered, dict) and isinstance(answered.get("choices"), list) and answered["choices"]:
        answered = answered["choices"][0].get("message", answered)
    if isinstance(answered, list) and answered and isinstance(answered[-1], dict) and "role" in answered[-1]:
        answered = answered[-1]
    if isinstance(answered, dict) and "role" in answered:
        return plain_message(answered | {"role": "assistant"})
    content = blocks_text(answered) or orjson.dumps(answered).decode()
    return {"role": "assistant", "content": content}


def _tokens(usage: Any, name: str) -> int | None:
    value = usage.get(name) if isinstance(usage, dict) else None
    return int(value) if isinstance(value, int | float | str) and str(value).isdigit() else None


def _snake(fields: dict[str, Any]) -> dict[str, Any]:
    return {HUMP.sub(r"_\1", name).lower(): value for name, value in fields.items()}
