"""A fake engine, for faults that a real one shows too rarely: slow, silent, dying mid-stream, lying about its end.

It speaks just enough of vLLM's HTTP to be relayed. Ordinary behaviour is tested against real vLLM.
"""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson

Headers = dict[str, str]


@dataclass
class Asked:
    """One request that the fake engine got."""

    path: str
    headers: Headers
    body: dict[str, Any]
    writer: asyncio.StreamWriter

    @property
    def hex_id(self) -> str:
        return self.headers["x-request-id"]


Behaviour = Callable[[Asked], Awaitable[None]]


@dataclass
class FakeEngine:
    """Answers with `behave`; remembers what it was asked and how many clients left before their answer ended."""

    behave: Behaviour
    url: str = ""
    asked: list[Asked] = field(default_factory=list)
    aborted: int = 0
    connections: int = 0

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while (request := await _read_request(reader, writer)) is not None:
                self.asked.append(request)
                answering = asyncio.ensure_future(self.behave(request))
                leaving = asyncio.ensure_future(reader.read(1))
                await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
                if not answering.done():
                    self.aborted += 1
                    answering.cancel()
                    return
                leaving.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await leaving
                answering.result()
                if writer.is_closing():
                    return
        except (ConnectionError, asyncio.IncompleteReadError):
            self.aborted += 1
        finally:
            writer.close()


@asynccontextmanager
async def fake_engine(behave: Behaviour | None = None) -> AsyncIterator[FakeEngine]:
    """A running fake engine on a free loopback port; answers everything well unless told otherwise."""
    engine = FakeEngine(behave or answer_well())
    server = await asyncio.start_server(engine._serve, "127.0.0.1", 0)
    engine.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield engine
    finally:
        server.close()


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Asked | None:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    first, *lines = head.decode().rstrip().split("\r\n")
    headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Asked(first.split(" ")[1], headers, orjson.loads(body or b"{}"), writer)


# What an engine may do.


def answer_well(
    words: tuple[str, ...] = ("Within", " 30", " days."), *, gap_seconds: float = 0.0
) -> Behaviour:
    """Answer as vLLM does, streamed or whole."""

    async def behave(asked: Asked) -> None:
        if not asked.body.get("stream"):
            await asyncio.sleep(gap_seconds)
            send_json(asked, 200, whole_answer(asked, words))
            return
        start_stream(asked)
        for event in stream_events(asked, words):
            send_chunk(asked, event)
            await asyncio.sleep(gap_seconds)
        send_chunk(asked, b"data: [DONE]\n\n")
        end_stream(asked)

    return behave


def answer_foreign(*events: bytes, whole: dict[str, Any]) -> Behaviour:
    """Answer through another API than chat: `whole`, or these events; `%ID` and `%MODEL` are filled in."""

    def filled(asked: Asked, data: bytes) -> bytes:
        named = asked.body.get("request_id") or f"chatcmpl-{asked.hex_id}"
        return data.replace(b"%ID", named.encode()).replace(b"%MODEL", asked.body["model"].encode())

    async def behave(asked: Asked) -> None:
        if not asked.body.get("stream"):
            send_json(asked, 200, orjson.loads(filled(asked, orjson.dumps(whole))))
            return
        start_stream(asked)
        for event in events:
            send_chunk(asked, filled(asked, event))
            await asyncio.sleep(0)
        end_stream(asked)

    return behave


KNOWN_TO_OPENAI = {"model", "messages", "prompt", "stream", "stream_options", "temperature", "max_tokens"}


def answer_like_openai(words: tuple[str, ...] = ("Thirty", " days."), *, key: str | None = None) -> Behaviour:
    """Answer as an API elsewhere does: its own ids and names, spaced JSON, and no fields but those it knows."""

    def head(asked: Asked) -> dict[str, Any]:
        return {
            "id": "chatcmpl-theirs",
            "object": "chat.completion",
            "created": 2,
            "model": "other-2026-01-01",
        }

    def send(asked: Asked, event: dict[str, Any]) -> None:
        send_chunk(asked, b"data: " + json.dumps(event).encode() + b"\r\n\r\n")

    async def behave(asked: Asked) -> None:
        unknown = set(asked.body) - KNOWN_TO_OPENAI
        if key is not None and asked.headers.get("authorization") != f"Bearer {key}":
            await refuse(401, f"Incorrect API key provided: {asked.headers.get('authorization')}")(asked)
        elif unknown:
            await refuse(400, f"Unrecognized request arguments: {sorted(unknown)}")(asked)
        elif not asked.body.get("stream"):
            message = {"role": "assistant", "content": "".join(words), "refusal": None}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            send_json(asked, 200, {**head(asked), "usage": usage(words), "choices": [choice]})
        else:
            start_stream(asked)
            for word in words:
                choice = {"index": 0, "delta": {"content": word}, "finish_reason": None}
                send(asked, {**head(asked), "choices": [choice], "usage": None})
            last = {"index": 0, "delta": {}, "finish_reason": "stop"}
            send(asked, {**head(asked), "choices": [last], "usage": None})
            send(asked, {**head(asked), "choices": [], "usage": usage(words)})
            send_chunk(asked, b"data: [DONE]\r\n\r\n")
            end_stream(asked)

    return behave


def refuse(status: int, message: str = "no") -> Behaviour:
    """Refuse in vLLM's words."""

    async def behave(asked: Asked) -> None:
        send_json(
            asked,
            status,
            {"error": {"message": message, "type": "BadRequestError", "param": None, "code": status}},
        )

    return behave


def forget_adapters(*served: str) -> Behaviour:
    """An engine that restarted: it knows only `served`."""
    well = answer_well()

    async def behave(asked: Asked) -> None:
        if asked.body["model"] in served:
            await well(asked)
        else:
            await refuse(404, f"The model `{asked.body['model']}` does not exist.")(asked)

    return behave


def die_after(events: int) -> Behaviour:
    """Begin a stream, then drop the connection."""

    async def behave(asked: Asked) -> None:
        start_stream(asked)
        for event in stream_events(asked, ("a", "b", "c", "d"))[:events]:
            send_chunk(asked, event)
            await asyncio.sleep(0.01)
        asked.writer.transport.abort()

    return behave


def end_without_done() -> Behaviour:
    """End a stream properly as HTTP, but without its `[DONE]`."""

    async def behave(asked: Asked) -> None:
        start_stream(asked)
        for event in stream_events(asked, ("a",)):
            send_chunk(asked, event)
        end_stream(asked)

    return behave


def fail_in_stream() -> Behaviour:
    """Say an error inside the stream, as vLLM does when its core dies."""

    async def behave(asked: Asked) -> None:
        start_stream(asked)
        send_chunk(asked, stream_events(asked, ("a",))[0])
        error = {
            "error": {
                "message": "EngineCore encountered an issue.",
                "type": "InternalServerError",
                "code": 500,
            }
        }
        send_chunk(asked, b"data: " + orjson.dumps(error) + b"\n\n")
        send_chunk(asked, b"data: [DONE]\n\n")
        end_stream(asked)

    return behave


def fail_and_go_on() -> Behaviour:
    """Say an error inside the stream, and then more of the answer and an ordinary end."""

    async def behave(asked: Asked) -> None:
        start_stream(asked)
        first, second, *_ = stream_events(asked, ("a", "b"))
        said = {"error": {"message": "half a token was lost", "type": "InternalServerError", "code": 500}}
        for event in (first, b"data: " + orjson.dumps(said) + b"\n\n", second, b"data: [DONE]\n\n"):
            send_chunk(asked, event)
            await asyncio.sleep(0.01)
        end_stream(asked)

    return behave


def give_up(reason: str = "abort") -> Behaviour:
    """End with finish_reason `abort`, as vLLM does for requests that a pause throws away, or with another."""

    async def behave(asked: Asked) -> None:
        if not asked.body.get("stream"):
            answer = whole_answer(asked, ("half",))
            answer["choices"][0]["finish_reason"] = reason
            send_json(asked, 200, answer)
            return
        start_stream(asked)
        for event in stream_events(asked, ("a", "b")):
            ended = b'"finish_reason":"%b"' % reason.encode()
            send_chunk(asked, event.replace(b'"finish_reason":"stop"', ended))
        send_chunk(asked, b"data: [DONE]\n\n")
        end_stream(asked)

    return behave


def hang(*, after_events: int | None = None) -> Behaviour:
    """Say nothing for ever, from the start or after some events."""

    async def behave(asked: Asked) -> None:
        if after_events is not None:
            start_stream(asked)
            for event in stream_events(asked, ("a", "b", "c"))[:after_events]:
                send_chunk(asked, event)
        await asyncio.sleep(3600)

    return behave


# Pieces of an answer.


def whole_answer(asked: Asked, words: tuple[str, ...]) -> dict[str, Any]:
    """vLLM's JSON for a whole answer, nulls included."""
    chat = asked.path.endswith("/chat/completions")
    ids = asked.body.get("return_token_ids") is True
    said: dict[str, Any] = (
        {"message": {"role": "assistant", "content": "".join(words), "tool_calls": []}}
        if chat
        else {"text": "".join(words), "prompt_token_ids": [1, 2, 3] if ids else None}
    )
    choice = {
        "index": 0,
        **said,
        "logprobs": None,
        "finish_reason": "stop",
        "token_ids": list(range(10, 10 + len(words))) if ids else None,
    }
    answer = {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{asked.hex_id}",
        "object": "chat.completion" if chat else "text_completion",
        "created": 1,
        "model": asked.body["model"],
        "choices": [choice],
        "usage": usage(words),
    }
    if chat:
        answer["prompt_token_ids"] = [1, 2, 3] if ids else None
    return answer


def stream_events(asked: Asked, words: tuple[str, ...]) -> list[bytes]:
    """vLLM's events for a streamed answer, without `[DONE]`."""
    chat = asked.path.endswith("/chat/completions")
    ids = asked.body.get("return_token_ids") is True
    head = {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{asked.hex_id}",
        "object": "chat.completion.chunk" if chat else "text_completion",
        "created": 1,
        "model": asked.body["model"],
    }
    events: list[dict[str, Any]] = []
    if chat:
        first = {
            "index": 0,
            "delta": {"role": "assistant", "content": ""},
            "logprobs": None,
            "finish_reason": None,
        }
        events.append({**head, "choices": [first], "prompt_token_ids": [1, 2, 3] if ids else None})
    for position, word in enumerate(words):
        choice: dict[str, Any] = {"index": 0, **({"delta": {"content": word}} if chat else {"text": word})}
        choice["logprobs"] = None
        choice["finish_reason"] = "stop" if position == len(words) - 1 else None
        choice["token_ids"] = [10 + position] if ids else None
        if not chat and position == 0:
            choice["prompt_token_ids"] = [1, 2, 3] if ids else None
        events.append({**head, "choices": [choice]})
    if (asked.body.get("stream_options") or {}).get("include_usage"):
        events.append({**head, "choices": [], "usage": usage(words)})
    return [b"data: " + orjson.dumps(event) + b"\n\n" for event in events]


def usage(words: tuple[str, ...]) -> dict[str, Any]:
    """Token counts: one token a word."""
    return {
        "prompt_tokens": 3,
        "total_tokens": 3 + len(words),
        "completion_tokens": len(words),
        "prompt_tokens_details": None,
    }


def send_json(asked: Asked, status: int, value: Any) -> None:
    """A whole response."""
    body = orjson.dumps(value)
    head = f"HTTP/1.1 {status} X\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
    asked.writer.write(head.encode() + body)


def start_stream(asked: Asked) -> None:
    """The head of a stream."""
    asked.writer.write(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\ntransfer-encoding: chunked\r\n\r\n"
    )


def send_chunk(asked: Asked, data: bytes) -> None:
    """One chunk of it."""
    asked.writer.write(b"%x\r\n%b\r\n" % (len(data), data))


def end_stream(asked: Asked) -> None:
    """Its end."""
    asked.writer.write(b"0\r\n\r\n")


def answer_evaluations(say: Callable[[str, str], str], *, adapters_diverge_by: float = 0.5) -> Behaviour:
    """An engine for evaluations: `say(model, prompt)` is the answer, a token is a character.

    Every token has log-probability -1 under `base` and `adapters_diverge_by` more under an adapter.
    """

    def log_probability(model: str) -> float:
        return -1.0 + (0.0 if model == "base" else adapters_diverge_by)

    async def behave(asked: Asked) -> None:
        body = asked.body
        if asked.path == "/tokenize":
            text = body["prompt"] if "prompt" in body else _whole(body["messages"])
            send_json(asked, 200, {"tokens": _characters(text)})
        elif asked.path == "/v1/completions":
            assert len(body["allowed_token_ids"]) == body["max_tokens"] == 1
            scored = {"token_logprobs": [log_probability(body["model"])]}
            send_json(asked, 200, {"choices": [{"logprobs": scored}]})
        else:
            text = say(body["model"], body["messages"][-1]["content"])
            content = [{"logprob": log_probability(body["model"])} for _ in text]
            choice = {
                "message": {"role": "assistant", "content": text},
                "token_ids": _characters(text),
                "logprobs": {"content": content},
                "finish_reason": "stop",
            }
            send_json(
                asked, 200, {"choices": [choice], "prompt_token_ids": _characters(_chat(body["messages"]))}
            )

    return behave


def _chat(messages: list[dict[str, str]]) -> str:
    return "".join(f"{message['role']}: {message['content']}\n" for message in messages) + "assistant: "


def _whole(messages: list[dict[str, str]]) -> str:
    *prompt, answer = messages
    return _chat(prompt) + answer["content"] + "\n"


def _characters(text: str) -> list[int]:
    return [ord(character) for character in text]
