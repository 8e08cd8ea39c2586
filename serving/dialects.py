"""Read what was asked and answered through the Responses and the Messages API as chat: one form for the record.

Training, browsing and redaction know one shape: `messages` in, one assistant's message out. A completion that came
through another API is recorded in that shape: its system text becomes a system message, its tool uses become tool
calls. What has no counterpart in chat (an image, a computer's screen) stays as it was inside a message's content, where
training refuses it with a reason. Reasoning items of earlier turns are dropped, as they are when a chat is rendered.

Runs in the drain, on answers that may have been cut short anywhere.
"""

import re
from collections.abc import Iterable
from typing import Any

import orjson

from serving.endpoints import MESSAGES, RESPONSES

Json = dict[str, Any]

_DATA = re.compile(rb"^data: (\{.*\})$", re.MULTILINE)
_STOPS = {"end_turn": "stop", "stop_sequence": "stop", "max_tokens": "length", "tool_use": "tool_calls"}
_STATUSES = {"completed": "stop", "incomplete": "length"}
_TEXTS = ("text", "input_text", "output_text")


def as_chat(path: str, request: Json, raw: bytes) -> tuple[Json, Json]:
    """The request and the answer as chat would have had them.

    Raises:
        ValueError: `path` is of neither API.
    """
    if path == RESPONSES.path.decode():
        return _asked_response(request), _answered_response(raw)
    if path == MESSAGES.path.decode():
        return _asked_message(request), _answered_message(raw)
    raise ValueError(f"a completion through '{path}' is not recorded")


# Responses.


def _asked_response(request: Json) -> Json:
    fields = {name: value for name, value in request.items() if name not in ("input", "instructions")}
    instructions, given = request.get("instructions"), request.get("input")
    messages: list[Json] = [{"role": "system", "content": instructions}] if instructions else []
    if isinstance(given, list):
        messages += [message for item in given if (message := _item_as_message(item)) is not None]
    else:
        messages.append({"role": "user", "content": given})
    return {**fields, "messages": messages}


def _item_as_message(item: Any) -> Json | None:
    kind = item.get("type", "message") if isinstance(item, dict) else None
    if kind == "message":
        return {"role": item.get("role"), "content": _content(item.get("content"))}
    if kind == "function_call":
        return {"role": "assistant", "content": None, "tool_calls": [_call_of_item(item)]}
    if kind == "function_call_output":
        return {"role": "tool", "tool_call_id": item.get("call_id"), "content": item.get("output")}
    return None if kind == "reasoning" else {"role": "user", "content": [item]}


def _answered_response(raw: bytes) -> Json:
    response: Json = {}
    deltas: list[str] = []
    for event in _objects(raw):
        if event.get("object") == "response":
            response = event
        elif event.get("type") == "response.output_text.delta":
            deltas.append(event.get("delta") or "")
        elif isinstance(event.get("response"), dict):
            response = event["response"]
    items = [item for item in response.get("output") or () if isinstance(item, dict)]
    said = [_text(item.get("content")) for item in items if item.get("type") == "message"]
    calls = [_call_of_item(item) for item in items if item.get("type") == "function_call"]
    # A stream that was cut has no last event with the whole answer in it.
    text = "".join(said) if items else "".join(deltas)
    return _answer(text, calls, _STATUSES.get(response.get("status") or ""), response.get("usage"))


def _call_of_item(item: Json) -> Json:
    return _call(item.get("call_id"), item.get("name"), item.get("arguments"))


# Messages.


def _asked_message(request: Json) -> Json:
    fields = {name: value for name, value in request.items() if name != "system"}
    system, given = request.get("system"), request.get("messages")
    messages: list[Json] = [{"role": "system", "content": _content(system)}] if system else []
    for message in given if isinstance(given, list) else ():
        messages += _turns(message) if isinstance(message, dict) else [{"role": "user", "content": [message]}]
    return {**fields, "messages": messages}


def _turns(message: Json) -> Iterable[Json]:
    """One of Anthropic's messages is several of chat's where it brings the results of tools."""
    role, content = message.get("role"), message.get("content")
    if not isinstance(content, list):
        return [{"role": role, "content": content}]
    blocks = [block for block in content if isinstance(block, dict)]
    results = [
        {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": _content(block.get("content"))}
        for block in blocks
        if block.get("type") == "tool_result"
    ]
    said = [block for block in blocks if block.get("type") not in ("tool_result", "tool_use", "thinking")]
    calls = [_call_of_block(block) for block in blocks if block.get("type") == "tool_use"]
    turn = {"role": role, "content": _content(said)} | ({"tool_calls": calls} if calls else {})
    return [*results, turn] if said or calls or not results else results


def _answered_message(raw: bytes) -> Json:
    message: Json = {}
    blocks: dict[int, Json] = {}
    for event in _objects(raw):
        kind = event.get("type")
        if kind == "message":
            message, blocks = event, dict(enumerate(event.get("content") or ()))
        elif kind == "message_start":
            message = {**event["message"]}
        elif kind == "content_block_start":
            blocks[event["index"]] = {**event["content_block"], "json": ""}
        elif kind == "content_block_delta" and event["index"] in blocks:
            block, delta = blocks[event["index"]], event["delta"]
            block["text"] = (block.get("text") or "") + (delta.get("text") or "")
            block["json"] += delta.get("partial_json") or ""
        elif kind == "message_delta":
            message |= {**event["delta"], "usage": event.get("usage") or message.get("usage")}
    text = "".join(block.get("text") or "" for block in blocks.values() if block.get("type") == "text")
    calls = [_call_of_block(block) for block in blocks.values() if block.get("type") == "tool_use"]
    usage = message.get("usage") or {}
    cached = (usage.get("cache_read_input_tokens") or 0) + (usage.get("cache_creation_input_tokens") or 0)
    usage = {**usage, "input_tokens": (usage.get("input_tokens") or 0) + cached} if usage else None
    return _answer(text, calls, _STOPS.get(message.get("stop_reason") or ""), usage)


def _call_of_block(block: Json) -> Json:
    arguments = block.get("json") or orjson.dumps(block.get("input") or {}).decode()
    return _call(block.get("id"), block.get("name"), arguments)


# Both.


def _answer(text: str, calls: list[Json], finish_reason: str | None, usage: Json | None) -> Json:
    message = {"role": "assistant", "content": text} | ({"tool_calls": calls} if calls else {})
    used = usage or {}
    counts = {"prompt_tokens": used.get("input_tokens"), "completion_tokens": used.get("output_tokens")}
    return {"choices": [{"message": message, "finish_reason": finish_reason}], "usage": counts}


def _call(name_of_call: Any, function: Any, arguments: Any) -> Json:
    return {
        "id": name_of_call,
        "type": "function",
        "function": {"name": function or "", "arguments": arguments or ""},
    }


def _content(content: Any) -> Any:
    """Text where there is only text, else parts as chat has them."""
    if not isinstance(content, list):
        return content
    only_text = all(isinstance(part, dict) and part.get("type") in _TEXTS for part in content)
    return _text(content) if only_text else content


def _text(content: Any) -> str:
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else ()
    return "".join(str(part.get("text") or "") for part in parts if isinstance(part, dict))


def _objects(raw: bytes) -> Iterable[Json]:
    """The answer's JSON object, or those of its events."""
    for data in [raw] if raw[:1] == b"{" else _DATA.findall(raw):
        try:
            found = orjson.loads(data)
        except orjson.JSONDecodeError:
            continue
        if isinstance(found, dict):
            yield found
