"""The APIs that are relayed, and what is different about each: everything else of the request path is the same.

A relayed API is a row here. What its questions and answers mean, once they are read for the record, is in
`serving.dialects`.
"""

from dataclasses import dataclass

DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One relayed path.

    `question` is the field that holds what is asked; `changed` are the fields that the engine gets differently from
    how the client sent them. `last_event` begins the event that ends a stream, `error_event` one that says a failure,
    and `closing` follows it. The last value of `reason` says why an answer ended, or, where that is empty, the answer's
    own `status`; the engine gave it up where that is one of `given_up`. `output_tokens` and `prompt_tokens` are the
    engine's names of its counts. Token ids and usage can be asked for where `tokens` is set, and what has no answer in
    words is not `recorded`.
    """

    path: bytes
    question: str
    id_prefix: str
    changed: tuple[str, ...] = ("model", "return_token_ids", "stream_options")
    streams: bool = True
    tokens: bool = True
    recorded: bool = True
    last_event: bytes = DONE
    error_event: bytes = b'data: {"error"'
    reason: bytes = b'"finish_reason":'
    given_up: tuple[bytes, ...] = (b'"abort"', b'"error"')
    closing: bytes = DONE
    output_tokens: bytes = b'"completion_tokens":'
    prompt_tokens: bytes = b'"prompt_tokens":'


CHAT = Endpoint(b"/v1/chat/completions", "messages", "chatcmpl")
TEXT = Endpoint(b"/v1/completions", "prompt", "cmpl")
RESPONSES = Endpoint(
    b"/v1/responses",
    "input",
    "resp",
    changed=("model", "request_id", "store"),
    tokens=False,
    last_event=b"event: response.completed\n",
    error_event=b"event: error\n",
    reason=b"",
    given_up=(b'"cancelled"', b'"failed"'),
    closing=b"",
    output_tokens=b'"output_tokens":',
    prompt_tokens=b'"input_tokens":',
)
MESSAGES = Endpoint(
    b"/v1/messages",
    "messages",
    "chatcmpl",  # vLLM's choice: what the client gets as the message's id
    changed=("model",),
    tokens=False,
    last_event=b"event: message_stop\n",
    error_event=b"event: error\n",
    reason=b'"stop_reason":',
    given_up=(b"null",),
    closing=b"",
    output_tokens=b'"output_tokens":',
    prompt_tokens=b'"input_tokens":',
)
EMBEDDINGS = Endpoint(
    b"/v1/embeddings", "input", "embd", changed=("model",), streams=False, tokens=False, recorded=False
)

FAILED = (b'"error"', b'"failed"')
"""Those reasons of `given_up` that say that generation itself failed."""

ENDPOINTS = {endpoint.path: endpoint for endpoint in (CHAT, TEXT, RESPONSES, MESSAGES, EMBEDDINGS)}
