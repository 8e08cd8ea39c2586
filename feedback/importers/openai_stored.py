"""OpenAI's stored completions as JSON lines: what `GET /v1/chat/completions` lists, each with its messages.

OpenAI answers the question from another address (`GET /v1/chat/completions/{id}/messages`), so each line needs what
that returned under `messages` (the list, or the whole listing). A line `{"completion": {...}, "messages": [...]}` is
understood too.
"""

from collections.abc import Iterator
from typing import Any

from feedback.errors import HoneError
from feedback.importers.found import (
    Answer,
    Found,
    labels,
    moment,
    plain_message,
    plain_messages,
    required,
    text,
)


class OpenAI:
    """Rows of a dump made with OpenAI's API."""

    def recognises(self, fields: dict[str, Any]) -> bool:
        """A row is a `chat.completion`, or holds one."""
        inside = fields.get("completion")
        completion = inside if isinstance(inside, dict) else fields
        return completion.get("object") == "chat.completion" and isinstance(completion.get("choices"), list)

    def read(self, fields: dict[str, Any]) -> Iterator[Found]:
        """The completion; OpenAI stores no feedback."""
        inside = fields.get("completion")
        completion: dict[str, Any] = inside if isinstance(inside, dict) else fields
        asked = next((fields[name] for name in ("messages", "input") if fields.get(name)), None)
        if asked is None:
            raise HoneError(
                "it has no 'messages', so nobody can tell what was asked; "
                "add what GET /v1/chat/completions/{id}/messages returns"
            )
        choice = next(iter(completion.get("choices") or ()), None)
        if not isinstance(choice, dict) or not isinstance(choice.get("message"), dict):
            raise HoneError("'choices' holds no message")
        usage: dict[str, Any] = completion.get("usage") or {}
        metadata: dict[str, Any] = completion.get("metadata") or {}
        yield Answer(
            source_id=required(completion, "id"),
            created_at=moment(completion.get("created"), "created"),
            messages=plain_messages(asked, "messages"),
            message=plain_message(choice["message"]),
            model=text(completion, "model"),
            rater=text(completion, "input_user", "user", "safety_identifier"),
            finish_reason=text(choice, "finish_reason"),
            prompt_tokens=usage.get("prompt_tokens"),
            output_tokens=usage.get("completion_tokens"),
            metadata=labels(imported_model=text(completion, "model"), **metadata),
        )
