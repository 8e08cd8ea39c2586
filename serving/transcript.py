"""Make a row for the record of what the gateway asked and the engine's raw bytes.

Runs long after the answer, in the drain, so it may parse. An answer cut short, or one that is not JSON, still makes a
row: with the text that came, and the status that the gateway saw. Of several choices the first is the one recorded.
What came through another API than chat or text is recorded as chat (`serving.dialects`).
"""

from collections.abc import Iterable
from typing import Any

import orjson

from serving.dialects import as_chat
from serving.endpoints import CHAT, TEXT

SEPARATOR = b"\n"
ENDPOINT = b'"endpoint":"'


def read_row(payload: bytes) -> bytes:
    """The row of one spooled completion as a JSON object: the gateway's head (`serving.recorder`), then the answer."""
    head, _, raw = payload.partition(SEPARATOR)
    if head[-1:] != b"}":
        raise ValueError("it has no head")
    if _is_foreign(head):
        return _of_foreign(head, raw)
    answer = _of_whole(raw) if raw[:1] == b"{" else _of_stream(raw)
    return b"%b,%b" % (head[:-1], orjson.dumps(answer)[1:])


def _is_foreign(head: bytes) -> bool:
    # The head's own field comes before the request's, which may have one of the same name.
    at = head.find(ENDPOINT) + len(ENDPOINT)
    return not head.startswith((CHAT.path, TEXT.path), at)


def _of_foreign(head: bytes, raw: bytes) -> bytes:
    known = orjson.loads(head)
    known["request"], answer = as_chat(known["endpoint"], known["request"], raw)
    choice = answer["choices"][0]
    text = choice["message"]["content"]
    return orjson.dumps({**known, **_answer([text], choice["message"], choice, answer)})


def _of_whole(raw: bytes) -> dict[str, Any]:
    try:
        answer = orjson.loads(raw)
        choices = answer["choices"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return _answer([], {}, {}, {})
    choice: dict[str, Any] = next(iter(choices), {})
    message = choice.get("message")
    text = (message or {}).get("content") if message is not None else choice.get("text")
    return _answer([text or ""], message or {}, choice, answer)


def _of_stream(raw: bytes) -> dict[str, Any]:
    texts: list[str] = []
    message: dict[str, Any] = {}
    choice: dict[str, Any] = {"token_ids": []}
    answer: dict[str, Any] = {}
    for event in read_events(raw):
        if event.get("usage"):
            answer["usage"] = event["usage"]
        if event.get("prompt_token_ids"):
            answer["prompt_token_ids"] = event["prompt_token_ids"]
        for piece in event.get("choices") or ():
            if piece.get("index", 0) != 0:
                continue
            choice["token_ids"].extend(piece.get("token_ids") or ())
            if piece.get("finish_reason"):
                choice["finish_reason"] = piece["finish_reason"]
            if piece.get("prompt_token_ids"):
                choice["prompt_token_ids"] = piece["prompt_token_ids"]
            delta = piece.get("delta")
            if delta is None:
                texts.append(piece.get("text") or "")
                continue
            if content := delta.get("content"):
                texts.append(content)
            if len(delta) > 1 or not content:
                _merge(message, delta)
    if message:
        message["content"] = "".join(texts)
    return _answer(texts, message, choice, answer)


def read_events(raw: bytes) -> Iterable[dict[str, Any]]:
    """The JSON objects of a stream; comments, `[DONE]` and a torn end are skipped."""
    data = [event[6:] for event in raw.split(b"\n\n") if event.startswith(b"data: {")]
    try:
        # One call for the whole stream: a call per event costs more than the parsing.
        events: list[dict[str, Any]] = orjson.loads(b"[%b]" % b",".join(data))
    except orjson.JSONDecodeError:
        return _read_one_by_one(data)
    return events


def _read_one_by_one(data: list[bytes]) -> Iterable[dict[str, Any]]:
    for event in data:
        try:
            yield orjson.loads(event)
        except orjson.JSONDecodeError:
            continue


def _merge(message: dict[str, Any], delta: dict[str, Any]) -> None:
    """Add everything but the text of one delta: strings are continued, tool calls by their index."""
    for name, value in delta.items():
        if value is None or name == "content":
            continue
        if name == "tool_calls":
            calls = message.setdefault("tool_calls", [])
            for part in value:
                _merge_tool_call(calls, part)
        elif name != "role" and isinstance(value, str):
            message[name] = message.get(name, "") + value
        else:
            message[name] = value


def _merge_tool_call(calls: list[dict[str, Any]], part: dict[str, Any]) -> None:
    index = part.get("index", 0)
    while len(calls) <= index:
        calls.append({"id": None, "type": "function", "function": {"name": "", "arguments": ""}})
    call, function = calls[index], part.get("function") or {}
    call["id"] = part.get("id") or call["id"]
    call["function"]["name"] += function.get("name") or ""
    call["function"]["arguments"] += function.get("arguments") or ""


def _answer(
    texts: list[str], message: dict[str, Any], choice: dict[str, Any], answer: dict[str, Any]
) -> dict[str, Any]:
    usage = answer.get("usage") or {}
    return {
        "output_text": "".join(texts),
        "message": message or None,
        "finish_reason": choice.get("finish_reason"),
        "prompt_token_ids": answer.get("prompt_token_ids") or choice.get("prompt_token_ids"),
        "output_token_ids": choice.get("token_ids") or None,
        "prompt_tokens": usage.get("prompt_tokens"),
        "output_tokens": usage.get("completion_tokens"),
    }
