"""Bound the bodies of ordinary routes, before anybody has shown a key.

FastAPI reads a body to its end, and parses it, before a route can ask who sends it: without a bound, whoever reaches
the port fills the gateway's memory, and everybody's answers wait for the parser. Routes with a limit of their own (the
relayed ones, uploads, and feedback, which passes a door) are left to it.
"""

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from serving.errors import ApiError, too_large
from serving.exchange import Message, Receive, Send, read_body
from serving.problems import refusal

BYTES_MAX = 1024 * 1024
"""Longest body of an ordinary route: a policy, a decision, a question with its answer."""

Scope = MutableMapping[str, Any]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]


class BodyLimit:
    """Reads at most `BYTES_MAX` of a body for `app`; `is_bounded` knows the requests that are seen to elsewhere."""

    def __init__(self, app: Application, is_bounded: Callable[[Scope], bool]) -> None:
        self.app = app
        self._is_bounded = is_bounded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with a body that is here and short enough, or answer 413."""
        if scope["type"] != "http" or self._is_bounded(scope):
            await self.app(scope, receive, send)
            return
        said = dict(scope["headers"]).get(b"content-length", b"")
        try:
            if said.isdigit() and int(said) > BYTES_MAX:
                raise too_large(int(said), BYTES_MAX)
            body = await read_body(receive, BYTES_MAX)
        except ApiError as error:
            sentence = f"The body is longer than {BYTES_MAX} bytes, the most that is read here. Shorten it."
            answer = refusal(scope["path"], ApiError(error.status, sentence, code=error.code))
            await answer(scope, receive, send)
            return
        waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def again() -> Message:
            return waiting.pop() if waiting else await receive()

        await self.app(scope, again, send)
