"""Errors of the ordinary routes: one sentence with the value, what was expected and what to do.

OpenAI's shape on `/v1`, RFC 9457 problem details on `/admin`, another product's own where its clients send feedback.
While the database is away that is what is said; a mistake of ours is a 500 in the same shape, and its traceback is in
the log.
"""

from typing import Any

import asyncpg
import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from starlette.exceptions import HTTPException

from feedback.database import is_outage, unstorable
from feedback.desk import away
from feedback.errors import Conflict, HoneError, IllegalMove, NotFound, Refused
from feedback.mistakes import explain
from feedback.refusals import ERROR_TYPES, foreign_error
from serving.errors import ApiError, Headers, engine_failed

MEDIA_TYPE = "application/problem+json"
STATUS: tuple[tuple[type[HoneError], int, str], ...] = (
    (NotFound, 404, "Not found"),
    (IllegalMove, 409, "Not allowed in this state"),
    (Conflict, 409, "Conflict"),
    (HoneError, 400, "Bad request"),
)
OF_THE_DATABASE = (ConnectionError, TimeoutError, PoolTimeout, DBAPIError, asyncpg.PostgresError)


class Forbidden(HoneError):
    """The caller's role does not allow this."""


def describe(error: HoneError) -> tuple[int, str]:
    """HTTP status and title of an error."""
    if isinstance(error, Refused):
        return error.status, "Refused"
    if isinstance(error, Forbidden):
        return 403, "Forbidden"
    return next((status, title) for kind, status, title in STATUS if isinstance(error, kind))


def refusal(path: str, error: ApiError, *, title: str = "Refused") -> Response:
    """An error as `path` says it."""
    foreign = foreign_error(path, error.status, error.message, error.code)
    if foreign is not None:
        response = Response(foreign[1], foreign[0], media_type="application/json")
    elif path.startswith("/admin"):
        problem = {"type": "about:blank", "title": title, "status": error.status, "detail": error.message}
        response = Response(orjson.dumps({**problem, "instance": path}), error.status, media_type=MEDIA_TYPE)
    else:
        response = Response(error.body(), error.status, media_type="application/json")
    for name, value in error.headers:
        response.headers[name.decode()] = value.decode()
    return response


def add_error_handlers(app: FastAPI) -> None:
    """Answer whatever a route raises."""

    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        return refusal(request.url.path, error)

    @app.exception_handler(HoneError)
    async def hone_error(request: Request, error: HoneError) -> Response:
        return _refused(request, error)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        return refusal(request.url.path, _unexpected(error))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        return refusal(request.url.path, _no_such_route(request, error), title=error.detail)

    async def from_database(request: Request, error: Exception) -> Response:
        if (mistake := unstorable(error)) is not None:
            return _refused(request, mistake)
        if not is_outage(error):
            raise error
        return _refused(request, away())

    for kind in OF_THE_DATABASE:
        app.add_exception_handler(kind, from_database)

    @app.exception_handler(Exception)
    async def mistake(request: Request, error: Exception) -> Response:
        failed = engine_failed("The gateway failed; its log says why.", code="internal_error", status=500)
        return refusal(request.url.path, failed, title="Internal error")


def _refused(request: Request, error: HoneError) -> Response:
    status, title = describe(error)
    kind = ERROR_TYPES.get(status, "invalid_request_error")
    if not isinstance(error, Refused):
        return refusal(request.url.path, ApiError(status, str(error), type=kind), title=title)
    after: Headers = [] if error.seconds is None else [(b"retry-after", b"%d" % error.seconds)]
    headers = [(b"allow", b"POST"), *after] if status == 405 else after
    said = ApiError(status, str(error), type=kind, param=error.param, code=error.code, headers=headers)
    return refusal(request.url.path, said, title=title)


def _unexpected(error: RequestValidationError) -> ApiError:
    first: dict[str, Any] = error.errors()[0]
    if first["type"] == "json_invalid":
        reason = first.get("ctx", {}).get("error", "")
        return ApiError(
            422, f"The body is not JSON ({reason}, at character {first['loc'][-1]}). Send one JSON object."
        )
    wrong = explain(error.errors(), skip=1)
    if first["type"] == "missing" and not wrong.field:
        return ApiError(
            422, "The request has no body. Send one JSON object, with content-type: application/json."
        )
    return ApiError(422, str(wrong), param=wrong.field or None)


def _no_such_route(request: Request, error: HTTPException) -> ApiError:
    path, allowed = request.url.path, (error.headers or {}).get("Allow")
    kind = ERROR_TYPES.get(error.status_code, "invalid_request_error")
    if error.status_code == 405 and allowed:
        message = f"{path} takes {allowed}, not {request.method}."
        return ApiError(405, message, type=kind, headers=[(b"allow", allowed.encode())])
    message = f"There is nothing at {request.method} {path}: {error.detail}."
    if error.status_code == 404:
        message = (
            f"There is nothing at {request.method} {path}. Clients send requests to /v1, operators to /admin/v1, "
            "and people chat at /chat."
        )
    return ApiError(error.status_code, message, type=kind)
