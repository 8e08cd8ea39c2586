"""TensorZero's tables, exported from ClickHouse as CSV with names, Parquet or JSON lines, one table a file.

`ChatInference` and `JsonInference` become completions, the episode their session. `BooleanMetricFeedback` and
`FloatMetricFeedback` become ratings under the metric's name, `CommentFeedback` comments, `DemonstrationFeedback`
demonstrations. Feedback on an episode is credited to its last inference. What TensorZero's own evaluators said is left
out: a rating here is a person's. ClickHouse does not keep who rated, unless the application put a `user_id` (or
`rater`, `author`) into `tags`.
"""

import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
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
    required,
    text,
)
from feedback.importers.rows import cell

EVALUATOR = "tensorzero::"
RATER_TAGS = ("user_id", "rater_id", "rater", "author")
TRUTH = {"true": True, "1": True, "false": False, "0": False}


class TensorZero:
    """Rows of one of TensorZero's tables; which one is told by its columns."""

    def recognises(self, fields: dict[str, Any]) -> bool:
        """The columns that only TensorZero's tables have."""
        return (
            {"function_name", "variant_name", "episode_id"} <= fields.keys()
            or {"target_id", "value"} <= fields.keys()
            or {"inference_id", "value"} <= fields.keys()
        )

    def read(self, fields: dict[str, Any]) -> Iterator[Found]:
        """The inference, or the feedback, that a row holds."""
        if "function_name" in fields:
            yield _inference(fields)
        elif "inference_id" in fields:
            yield _demonstration(fields)
        elif "target_id" in fields:
            yield _feedback(fields)
        else:
            raise HoneError("its columns are those of no table with inferences or feedback")


def _inference(fields: dict[str, Any]) -> Found:
    name, episode = required(fields, "id"), text(fields, "episode_id")
    tags = _tags(fields)
    asked, answered = _json(fields, "input"), _json(fields, "output")
    messages = [_message(one) for one in asked.get("messages") or ()] if isinstance(asked, dict) else []
    if not messages:
        raise HoneError("'input' has no messages")
    if system := asked.get("system"):
        content = system if isinstance(system, str) else orjson.dumps(system).decode()
        messages.insert(0, {"role": "system", "content": content})
    variant = text(fields, "variant_name")
    return Answer(
        source_id=name,
        created_at=_when(fields, name),
        messages=messages,
        message=_output(answered),
        model=variant,
        rater=text(tags, *RATER_TAGS),
        session=episode,
        duration_seconds=float(fields.get("processing_time_ms") or 0) / 1000,
        metadata=labels(
            imported_model=variant,
            function=text(fields, "function_name"),
            **{
                key: value
                for key, value in tags.items()
                if key not in RATER_TAGS and not key.startswith(EVALUATOR)
            },
        ),
        aliases=(f"episode/{episode}",) if episode else (),
    )


def _feedback(fields: dict[str, Any]) -> Found:
    tags, metric = _tags(fields), text(fields, "metric_name")
    if (metric or "").startswith(EVALUATOR) or any(key.startswith(EVALUATOR) for key in tags):
        return Skipped("an evaluator said it, not a person")
    name, target = required(fields, "id"), required(fields, "target_id")
    kind, value = (
        ("comment", fields.get("value")) if metric is None else ("rating", _rating(fields.get("value")))
    )
    return Said(
        source_id=name,
        about=(target, f"episode/{target}"),
        created_at=_when(fields, name),
        kind=kind,
        value=value,
        name=metric,
        rater=text(tags, *RATER_TAGS),
        metadata=tags or None,
    )


def _demonstration(fields: dict[str, Any]) -> Found:
    name, tags = required(fields, "id"), _tags(fields)
    return Said(
        source_id=name,
        about=(required(fields, "inference_id"),),
        created_at=_when(fields, name),
        kind="demonstration",
        value=_output(_json(fields, "value"))["content"],
        rater=text(tags, *RATER_TAGS),
        metadata=tags or None,
    )


def _message(message: Any) -> dict[str, Any]:
    if not isinstance(message, dict):
        raise HoneError(f"'input' holds {message!r:.80}, which is no message")
    return plain_message(message)


def _output(value: Any) -> dict[str, Any]:
    """The assistant's message: content blocks of a chat function, or the raw text of a JSON function."""
    if isinstance(value, dict) and isinstance(value.get("raw"), str):
        return {"role": "assistant", "content": value["raw"]}
    blocks = value if isinstance(value, list) else [value]
    message: dict[str, Any] = {
        "role": "assistant",
        "content": blocks_text([b for b in blocks if not _is_call(b)]),
    }
    calls = [
        {
            "id": block.get("id"),
            "type": "function",
            "function": {"name": block.get("raw_name") or block.get("name"), "arguments": _arguments(block)},
        }
        for block in blocks
        if _is_call(block)
    ]
    if calls:
        message["tool_calls"] = calls
    if not message["content"] and not calls:
        raise HoneError("the output is empty")
    return message


def _is_call(block: Any) -> bool:
    return isinstance(block, dict) and block.get("type") == "tool_call"


def _arguments(block: dict[str, Any]) -> str:
    given = block.get("raw_arguments") or block.get("arguments") or "{}"
    return given if isinstance(given, str) else orjson.dumps(given).decode()


def _rating(value: Any) -> bool | float:
    if isinstance(value, bool | int | float):
        return value
    read = TRUTH.get(str(value).lower())
    if read is not None and str(value).lower() not in ("0", "1"):
        return read
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise HoneError(f"'value' is {value!r}; expected true, false or a number") from error


def _json(fields: dict[str, Any], name: str) -> Any:
    value = cell(fields.get(name))
    if value in (None, ""):
        raise HoneError(f"'{name}' is {value!r}; expected JSON")
    return value


def _tags(fields: dict[str, Any]) -> dict[str, str]:
    tags = cell(fields.get("tags"))
    return {str(key): str(value) for key, value in tags.items()} if isinstance(tags, dict) else {}


def _when(fields: dict[str, Any], name: str) -> datetime:
    """ClickHouse leaves `timestamp` out of `SELECT *`: it is the time in the row's own id, a UUID of version 7."""
    if fields.get("timestamp"):
        return moment(fields["timestamp"], "timestamp")
    try:
        given = uuid.UUID(name)
    except ValueError as error:
        raise HoneError(f"'id' is '{name}'; expected a UUID of version 7") from error
    if given.version != 7:
        raise HoneError(f"'id' is '{name}', a UUID of version {given.version}, and there is no 'timestamp'")
    return datetime.fromtimestamp((given.int >> 80) / 1000, UTC)
