"""Prompts and answers as training compares them: extracted from a recorded request, normalised, grouped.

Only text conversations and plain text prompts become rows. Requests with tools, images or template
arguments are refused with a reason, because training could not render them as they were served.
"""

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from retrain.similar import groups_of

Prompt = str | list[dict[str, str]]
"""Plain text of `/v1/completions`, or messages of {role, content}."""

CHAT_ENDPOINTS = ("/v1/chat/completions", "/v1/responses", "/v1/messages")
"""Whatever came through one of them is in the record as chat."""
TEXT_ENDPOINT = "/v1/completions"


class Unusable(ValueError):
    """This completion cannot become a row; the text is the reason that exclusions are counted under."""


def prompt_of(endpoint: str, request: Mapping[str, Any]) -> Prompt:
    """The prompt of a recorded request.

    Raises:
        Unusable: it is not a text conversation or one plain text.
    """
    if request.get("tools") or request.get("functions"):
        raise Unusable("uses tools")
    if request.get("chat_template_kwargs") or request.get("chat_template"):
        raise Unusable("changes the chat template")
    if endpoint in CHAT_ENDPOINTS:
        messages = request.get("messages")
        if not isinstance(messages, list) or not messages:
            raise Unusable("has no prompt")
        return [_message(message) for message in messages]
    if endpoint == TEXT_ENDPOINT:
        text = request.get("prompt")
        if not isinstance(text, str) or not text:
            raise Unusable("is not one text prompt")
        return text
    raise Unusable(f"came through {endpoint}")


def answer_column(prompt: Prompt, answer: str) -> Any:
    """An answer in the shape that TRL wants beside this prompt."""
    return answer if isinstance(prompt, str) else [{"role": "assistant", "content": answer}]


def answer_text(column: Any) -> str:
    """The text of an answer column."""
    return column if isinstance(column, str) else str(column[-1]["content"])


def normalised(text: str) -> str:
    """Text without the differences that do not matter: Unicode form, case, spaces."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def prompt_key(prompt: Prompt) -> str:
    """Equal for prompts that differ only in Unicode form, case and spaces."""
    return hashlib.sha256(prompt_text(prompt).encode()).hexdigest()


def last_asked(prompt: Prompt) -> str:
    """What was asked last, normalised: what a topic or a language is told from."""
    return normalised(prompt if isinstance(prompt, str) else prompt[-1]["content"])


def prompt_text(prompt: Prompt) -> str:
    """A prompt as one normalised text."""
    if isinstance(prompt, str):
        return normalised(prompt)
    return "\n".join(f"{message['role']}: {normalised(message['content'])}" for message in prompt)


def spoken_text(prompt: Prompt) -> str:
    """A prompt as one normalised text without what an application says to every model: its system messages.

    Two questions are not alike because the same long instruction stands before both. Text is like the same words in a
    chat: a golden question is kept out of training whichever way it was written down.
    """
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    spoken = [message for message in prompt if message["role"] not in ("system", "developer")]
    return "\n".join(f"{message['role']}: {normalised(message['content'])}" for message in spoken or prompt)


def share_of(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64


def group_similar(texts: Iterable[str]) -> dict[str, str]:
    """Each normalised text with the name of its group of near-duplicates, which is its smallest text."""
    ordered = sorted(set(texts))
    named = groups_of(enumerate(ordered))
    return {text: ordered[named.get(number, number)] for number, text in enumerate(ordered)}


def _message(message: Any) -> dict[str, str]:
    if not isinstance(message, dict) or message.get("tool_calls") or message.get("role") == "tool":
        raise Unusable("uses tools")
    content = message.get("content")
    if isinstance(content, list):
        if not all(isinstance(part, dict) and part.get("type") == "text" for part in content):
            raise Unusable("is not only text")
        content = "\n".join(str(part.get("text", "")) for part in content)
    if not isinstance(content, str):
        raise Unusable("is not only text")
    return {"role": str(message.get("role")), "content": content}
