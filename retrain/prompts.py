"""Prompts and answers as training compares them: extracted from a recorded request, normalised, grouped.

Only text conversations and plain text prompts become rows. Requests with tools, images or template
arguments are refused with a reason, because training could not render them as they were served.
"""

import hashlib
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

Prompt = str | list[dict[str, str]]
"""Plain text of `/v1/completions`, or messages of {role, content}."""

CHAT_ENDPOINT = "/v1/chat/completions"
TEXT_ENDPOINT = "/v1/completions"
SHINGLE_LENGTH = 5
SIMILARITY_MIN = 0.8


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
    if endpoint == CHAT_ENDPOINT:
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


def prompt_text(prompt: Prompt) -> str:
    """A prompt as one normalised text."""
    if isinstance(prompt, str):
        return normalised(prompt)
    return "\n".join(f"{message['role']}: {normalised(message['content'])}" for message in prompt)


def share_of(text: str) -> float:
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8]) / 2**64


def group_similar(texts: Iterable[str]) -> dict[str, str]:
    """Each text with the name of its group: texts alike by 0.8 (Jaccard, 5-character shingles), in chains.

    A group is named by its smallest text, so the result does not depend on the order of the texts.
    """
    ordered = sorted(set(texts))
    parent = {text: text for text in ordered}

    def root(text: str) -> str:
        while parent[text] != text:
            parent[text] = parent[parent[text]]
            text = parent[text]
        return text

    for left, right in _similar_pairs(ordered):
        a, b = sorted((root(left), root(right)))
        parent[b] = a
    return {text: root(text) for text in ordered}


def _similar_pairs(texts: list[str]) -> Iterable[tuple[str, str]]:
    from datasketch import MinHash, MinHashLSH

    shingles = {text: _shingles(text) for text in texts}
    index = MinHashLSH(threshold=SIMILARITY_MIN, num_perm=128)
    for text in texts:
        sketch = MinHash(num_perm=128, seed=1)
        sketch.update_batch([shingle.encode() for shingle in shingles[text]])
        for other in index.query(sketch):
            if _jaccard(shingles[text], shingles[other]) >= SIMILARITY_MIN:
                yield text, other
        index.insert(text, sketch)


def _shingles(text: str) -> set[str]:
    return {text[start : start + SHINGLE_LENGTH] for start in range(max(1, len(text) - SHINGLE_LENGTH + 1))}


def _jaccard(left: set[str], right: set[str]) -> float:
    return len(left & right) / len(left | right)


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
