"""What an importer finds in a row: completions, feedback about them, and rows that are none of its business.

Importers only read. Who the rows belong to, under which ids they are stored and whether they may be trained on is
decided where they are stored (`feedback.importers.load`).
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol

import orjson

from feedback.errors import HoneError

MILLISECONDS_FROM = 100_000_000_000
"""Unix times above this are milliseconds: as seconds they would lie past the year 5000."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A completion of another system. `source_id` names it there; `aliases` are other names it goes by."""

    source_id: str
    created_at: datetime
    messages: list[dict[str, Any]]
    message: dict[str, Any]
    model: str | None = None
    rater: str | None = None
    session: str | None = None
    finish_reason: str | None = None
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    duration_seconds: float = 0.0
    metadata: dict[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Said:
    """Feedback of another system about the completion that goes by the first of `about` that is known."""

    source_id: str
    about: tuple[str, ...]
    created_at: datetime
    kind: str
    value: Any
    name: str | None = None
    comment: str | None = None
    rater: str | None = None
    metadata: dict[str, Any] | None = None
    better: str | None = None
    """For a preference: the name of the completion that is better, in place of the value."""


class Skipped(NamedTuple):
    """A row that holds nothing to import, and why; counted, not complained about."""

    reason: str


Found = Answer | Said | Skipped


class Importer(Protocol):
    """One format."""

    def recognises(self, fields: dict[str, Any]) -> bool:
        """Whether a row looks like one of this format's."""

    def read(self, fields: dict[str, Any]) -> Iterable[Found]:
        """What a row holds, completions first.

        Raises:
            HoneError: the row lacks what is needed, or holds what cannot be understood.
        """


def text(fields: dict[str, Any], *names: str) -> str | None:
    """The first of these fields that holds text or a number, as text; None where none does."""
    for name in names:
        value = fields.get(name)
        if isinstance(value, str) and value.strip():
            return value
        if isinstance(value, int | float) and not isinstance(value, bool):
            return str(value)
    return None


def required(fields: dict[str, Any], *names: str) -> str:
    """As `text`, but it must be there.

    Raises:
        HoneError: none of the fields holds anything.
    """
    value = text(fields, *names)
    if value is None:
        raise HoneError(f"'{names[0]}' is {fields.get(names[0])!r}; expected text")
    return value


def moment(value: Any, name: str) -> datetime:
    """A time as exports write it: Unix seconds or milliseconds, or ISO 8601; UTC where it names no zone.

    Raises:
        HoneError: it is no time.
    """
    try:
        if isinstance(value, datetime):
            return value if value.tzinfo else value.replace(tzinfo=UTC)
        if isinstance(value, str) and not value.replace(".", "", 1).isdigit():
            read = datetime.fromisoformat(value.strip())
            return read if read.tzinfo else read.replace(tzinfo=UTC)
        seconds = float(value)
        return datetime.fromtimestamp(seconds / 1000 if seconds > MILLISECONDS_FROM else seconds, UTC)
    except (TypeError, ValueError, OverflowError, OSError) as error:
        raise HoneError(
            f"'{name}' is {value!r}; expected a time, such as 2026-05-29 13:46:19 or 1780062379"
        ) from error


def plain_messages(value: Any, name: str) -> list[dict[str, Any]]:
    """A conversation as OpenAI writes it; content blocks of text become one text.

    Raises:
        HoneError: it is no conversation.
    """
    if isinstance(value, dict) and isinstance(value.get("data"), list):
        value = value["data"]
    elif isinstance(value, dict) and isinstance(value.get("messages"), list):
        value = value["messages"]
    if isinstance(value, str) and value.strip():
        return [{"role": "user", "content": value}]
    messages = value if isinstance(value, list) else []
    if not messages or not all(
        isinstance(one, dict) and isinstance(one.get("role"), str) for one in messages
    ):
        shown = orjson.dumps(value, default=str).decode()[:80]
        raise HoneError(
            f"'{name}' is {shown}; expected a conversation: a list of messages with role and content"
        )
    return [plain_message(one) for one in messages]


def plain_message(message: dict[str, Any]) -> dict[str, Any]:
    """A message with its text in `content`, and its tool calls where it has some."""
    content = message.get("content")
    plain: dict[str, Any] = {"role": message.get("role", "assistant"), "content": blocks_text(content)}
    for name in ("name", "tool_calls", "tool_call_id"):
        if message.get(name):
            plain[name] = message[name]
    return plain


def blocks_text(content: Any) -> str:
    """The text of a message's content, whether it is text or a list of blocks."""
    if isinstance(content, list):
        return "".join(blocks_text(one) for one in content)
    if isinstance(content, dict):
        inner = next((content[name] for name in ("text", "value", "content") if content.get(name)), "")
        return inner if isinstance(inner, str) else orjson.dumps(inner).decode()
    return content if isinstance(content, str) else ""


def labels(**values: Any) -> dict[str, str]:
    """Metadata of a completion: what is there, as text within OpenAI's limits."""
    kept = {
        name: value if isinstance(value, str) else orjson.dumps(value).decode()
        for name, value in values.items()
        if value not in (None, "", [], {})
    }
    return {name[:64]: value[:512] for name, value in list(kept.items())[:16]}
