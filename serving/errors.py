"""Errors on `/v1`, in the shape and with the status codes that OpenAI's SDKs turn into their exceptions.

The SDK picks its exception class by HTTP status (400, 401, 403, 404, 409, 422, 429, 5xx) and shows `message`; programs
branch on `code`. `/v1/messages` says the same in Anthropic's shape. Nothing here is for `/admin`, which answers with
problem details.
"""

import orjson

from monitoring.failures import ErrorClass
from serving.endpoints import MESSAGES, RESPONSES, Endpoint
from serving.failures import classify

Headers = list[tuple[bytes, bytes]]

JSON = (b"content-type", b"application/json")

ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


INTERNAL = "Internal server error"
"""How vLLM begins what it did not foresee."""


class ApiError(Exception):
    """A refusal the client reads: what happened with the value, what was expected, what to do."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Headers | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.type = type
        self.param = param
        self.code = code
        self.headers: Headers = headers or []

    @property
    def error_class(self) -> ErrorClass:
        """Whose failure it is."""
        return classify(self.status, self.code, self.message)

    def with_more(self, sentence: str) -> "ApiError":
        """The same with another sentence."""
        message = f"{self.message} {sentence}"
        return ApiError(
            self.status, message, type=self.type, param=self.param, code=self.code, headers=self.headers
        )

    def body(self, path: bytes = b"") -> bytes:
        """The JSON body: `{"error": {"message", "type", "param", "code"}}`.

        At Anthropic's `path` it is `{"type": "error", "error": {"type", "message"}}`.
        """
        if path == MESSAGES.path:
            kind = ANTHROPIC_TYPES.get(
                self.status, "api_error" if self.status >= 500 else "invalid_request_error"
            )
            return orjson.dumps({"type": "error", "error": {"type": kind, "message": self.message}})
        return orjson.dumps({"error": self._detail()})

    def event(self, endpoint: Endpoint) -> bytes:
        """The same as one server-sent event, for a stream that has already begun."""
        flat = endpoint is RESPONSES
        body = orjson.dumps({**self._detail(), "type": "error"}) if flat else self.body(endpoint.path)
        name = b"event: error\n" if endpoint.error_event.startswith(b"event: ") else b""
        return b"%bdata: %b\n\n" % (name, body)

    def _detail(self) -> dict[str, str | None]:
        return {"message": self.message, "type": self.type, "param": self.param, "code": self.code}


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> ApiError:
    """400: the request cannot be served as it is."""
    return ApiError(400, message, param=param, code=code)


def wrong_key(message: str) -> ApiError:
    """401: no key, or one that does not work."""
    return ApiError(401, message, code="invalid_api_key", headers=[(b"www-authenticate", b"Bearer")])


def unknown_model(message: str) -> ApiError:
    """404: no such model or version in the caller's project."""
    return ApiError(404, message, param="model", code="model_not_found")


def too_large(length_bytes: int, limit_bytes: int) -> ApiError:
    """413: the body is longer than this gateway reads."""
    return ApiError(
        413,
        f"The request body has {length_bytes} bytes; this gateway reads at most {limit_bytes}. "
        "Shorten the conversation, or raise [serving] request_bytes_max.",
        code="request_too_large",
    )


def not_ready(message: str, *, retry_after_seconds: int = 1) -> ApiError:
    """503: nothing can answer now; worth another try after `retry-after`."""
    return ApiError(
        503,
        message,
        type="server_error",
        code="engine_unavailable",
        headers=[(b"retry-after", str(retry_after_seconds).encode())],
    )


def engine_refused(status: int, body: bytes, path: bytes, form: str | None = None) -> ApiError:
    """The engine's own refusal; what it says to us alone (401, 403) stays between us.

    A grammar or schema that it cannot compile is to vLLM a mistake of its own; `form` names the field that asked.
    """
    if status in (401, 403):
        return engine_failed(
            "The engine does not accept this gateway's key. Set [serving] engine_api_key to the engine's.",
            code="engine_key_refused",
        )
    try:
        detail = orjson.loads(body)["error"]
        message, kind, param, code = (
            detail["message"],
            detail.get("type"),
            detail.get("param"),
            detail.get("code"),
        )
    except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
        if status == 404:
            return ApiError(
                404,
                f"The engine of this model does not serve {path.decode()}: its base model is of another kind. "
                "Ask a model that can.",
                type="not_found_error",
                code="unsupported_endpoint",
            )
        return engine_failed(f"The engine answered {status} without saying why. `hone doctor` looks into it.")
    if form is not None and status == 500 and str(message).startswith(INTERNAL):
        sentence = (
            f"The engine failed on a request with '{form}': most often it cannot compile the grammar or schema. "
            "Simplify it, or leave it out."
        )
        return bad_request(sentence, param=form, code="answer_form_failed")
    return ApiError(
        status, message, type=kind or "server_error", param=param, code=None if code is None else str(code)
    )


def engine_failed(message: str, *, code: str = "engine_error", status: int = 502) -> ApiError:
    """5xx: the engine took the request and did not finish it."""
    return ApiError(status, message, type="server_error", code=code)


def read_error(event: bytes) -> ApiError:
    """What an engine said of its failure in one event of a stream; its words are for the record only."""
    try:
        said = orjson.loads(event[event.index(b"data: ") + 6 :])
        detail = said.get("error") if isinstance(said.get("error"), dict) else said
        message = str(detail.get("message") or "")
        code = detail.get("code")
    except (orjson.JSONDecodeError, ValueError, AttributeError):
        message, code = "", None
    status = code if isinstance(code, int) and 400 <= code <= 599 else 500
    return ApiError(status, message or "The engine failed during the answer.", type="server_error")
