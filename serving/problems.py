"""Errors on `/admin`: RFC 9457 problem details, one sentence with the value, what was expected and what to do."""

import orjson
from fastapi import Request, Response

from feedback.errors import Conflict, HoneError, IllegalMove, NotFound, Refused

MEDIA_TYPE = "application/problem+json"
STATUS: tuple[tuple[type[HoneError], int, str], ...] = (
    (NotFound, 404, "Not found"),
    (IllegalMove, 409, "Not allowed in this state"),
    (Conflict, 409, "Conflict"),
    (HoneError, 400, "Bad request"),
)


class Forbidden(HoneError):
    """The caller's role does not allow this."""


def describe(error: HoneError) -> tuple[int, str]:
    """HTTP status and title of an error."""
    if isinstance(error, Refused):
        return error.status, "Refused"
    if isinstance(error, Forbidden):
        return 403, "Forbidden"
    return next((status, title) for kind, status, title in STATUS if isinstance(error, kind))


def problem(status: int, title: str, detail: str, *, instance: str) -> Response:
    """One problem as a response."""
    body = {"type": "about:blank", "title": title, "status": status, "detail": detail, "instance": instance}
    return Response(orjson.dumps(body), status, media_type=MEDIA_TYPE)


async def answer_problem(request: Request, error: Exception) -> Response:
    """The exception handler for `HoneError` under `/admin`."""
    assert isinstance(error, HoneError)
    status, title = describe(error)
    return problem(status, title, str(error), instance=request.url.path)
