"""Turn the engine's bytes into the client's, without parsing what is passed on.

The engine is asked for token ids and usage that the client may not have asked for, and knows an adapter by a name the
client does not. All of that is found by byte patterns: inside JSON strings every quote is escaped, so a pattern that
begins with a bare quote matches keys only, never what a model or a person wrote. Pieces are passed on at event
boundaries and are never split or re-framed; how the network cut the bytes makes no difference to what comes out.
"""

import re
from functools import lru_cache

import orjson

from serving.endpoints import Endpoint

_TOKEN_IDS = re.compile(rb'token_ids":\[[\d,\s]*\]')
_TOKEN_IDS_SHORT = b'token_ids":['
_NO_TOKEN_IDS = b'token_ids":null'
_USAGE_EVENT = re.compile(rb'data: \{[^\n]*"choices":\[\][^\n]*"usage":\{[^\n]*\n\n')
_NO_CHOICES = b'"choices":[]'
_NUMBER = re.compile(rb"\d+")


class Rewriter:
    """Rewrites one answer. Feed it a whole body, or the pieces of a stream in order.

    `held` is the event that ends the stream, once it is here: it is not among what `events` returns.
    """

    __slots__ = ("_hide_token_ids", "_hide_usage", "_last", "_model", "_renamed", "_tail", "held")

    def __init__(
        self, endpoint: Endpoint, *, served_name: str, name: str, hide_token_ids: bool, hide_usage: bool
    ) -> None:
        self._model, self._renamed = _model_field(served_name), _model_field(name)
        self._last = endpoint.last_event
        self._hide_token_ids = hide_token_ids
        self._hide_usage = hide_usage
        self._tail = b""
        self.held = b""

    def whole(self, body: bytes) -> bytes:
        """A complete JSON body."""
        body = body.replace(self._model, self._renamed)
        return _TOKEN_IDS.sub(_NO_TOKEN_IDS, body) if self._hide_token_ids else body

    def events(self, piece: bytes) -> bytes:
        """The events that `piece` completes; the one that ends the stream is held back."""
        if self._tail:
            piece, self._tail = self._tail + piece, b""
        if not piece.endswith(b"\n\n"):
            end = piece.rfind(b"\n\n")
            cut = end + 2 if end >= 0 else 0
            piece, self._tail = piece[:cut], piece[cut:]
        piece = piece.replace(self._model, self._renamed)
        if (end := piece.rfind(self._last)) >= 0:
            piece, self.held = piece[:end], piece[end:]
        if self._hide_token_ids and _TOKEN_IDS_SHORT in piece:
            piece = _TOKEN_IDS.sub(_NO_TOKEN_IDS, piece)
        if self._hide_usage and _NO_CHOICES in piece:
            piece = _USAGE_EVENT.sub(b"", piece)
        return piece


@lru_cache(maxsize=4096)
def _model_field(name: str) -> bytes:
    return b'"model":"%b"' % name.encode()


def gave_up(endpoint: Endpoint, raw: bytes | bytearray) -> bytes | None:
    """The reason to finish that only looks like an end, where the engine gave the answer up under one."""
    if not endpoint.reason:
        status = _own_status(endpoint, raw)
        return status if status in endpoint.given_up else None
    at = raw.rfind(endpoint.reason)
    after = at + len(endpoint.reason)
    return next((one for one in endpoint.given_up if raw.startswith(one, after)), None) if at >= 0 else None


def _own_status(endpoint: Endpoint, raw: bytes | bytearray) -> bytes:
    """The status of a whole response, or of the one that ends a stream.

    It is read, not looked for: a response repeats the caller's schema, in which any name and value may stand.
    """
    if (at := raw.rfind(endpoint.last_event)) >= 0:
        at = raw.find(b"data:", at) + len(b"data:")
        raw = raw[at : raw.find(b"\n", at)]
    try:
        said = orjson.loads(raw)
        return orjson.dumps(said.get("response", said).get("status"))
    except (orjson.JSONDecodeError, AttributeError):
        return b""


def error_said(endpoint: Endpoint, raw: bytes | bytearray) -> bytes | None:
    """The last event of a stream that says a failure, whatever else follows it, if there is one."""
    at = raw.rfind(b"\n\n" + endpoint.error_event) + 2
    if at < 2:
        at = 0
        if not raw.startswith(endpoint.error_event):
            return None
    end = raw.find(b"\n\n", at)
    return bytes(raw[at : end if end >= 0 else len(raw)])


def count_tokens(endpoint: Endpoint, raw: bytes | bytearray) -> tuple[int, int]:
    """The engine's own counts of prompt and generated tokens, at the end of an answer; 0 where it says none."""
    return _count(raw, endpoint.prompt_tokens), _count(raw, endpoint.output_tokens)


def _count(raw: bytes | bytearray, name: bytes) -> int:
    at = raw.rfind(name)
    number = _NUMBER.match(raw, at + len(name)) if at >= 0 else None
    return int(number[0]) if number else 0
