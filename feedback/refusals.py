"""Refusals of the feedback routes, each in the shape that the client of that path expects.

`/v1` speaks OpenAI's shape, `/feedback` TensorZero's, `/api/public` Langfuse's.
"""

from typing import Any

import orjson

TENSORZERO_PATH = "/feedback"
LANGFUSE_PREFIX = "/api/public/"

LANGFUSE_NAMES = {
    401: "UnauthorizedError",
    403: "ForbiddenError",
    404: "LangfuseNotFoundError",
    405: "MethodNotAllowedError",
    409: "LangfuseConflictError",
}
ERROR_TYPES = {
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
    503: "server_error",
}


def foreign_error(path: str, status: int, message: str, code: str | None) -> tuple[int, bytes] | None:
    """Status and body of an error on a path that speaks another product's shape; None on paths of our own."""
    if path == TENSORZERO_PATH:
        status = 404 if code == "metric_not_declared" else 400 if status == 422 else status
        return status, orjson.dumps({"error": message})
    if path.startswith(LANGFUSE_PREFIX):
        status = 400 if status == 422 else status
        return status, orjson.dumps(
            {"message": message, "error": LANGFUSE_NAMES.get(status, "InvalidRequestError")}
        )
    return None


def error_body(
    path: str, status: int, message: str, code: str | None, param: str | None = None
) -> tuple[int, bytes]:
    """Status and body of an error on a feedback path."""
    if (foreign := foreign_error(path, status, message, code)) is not None:
        return foreign
    detail: dict[str, Any] = {
        "message": message,
        "type": ERROR_TYPES.get(status, "invalid_request_error"),
        "param": param,
        "code": code,
    }
    return status, orjson.dumps({"error": detail})
