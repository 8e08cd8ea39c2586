"""The gateway as a web application: which path is answered by what.

Completions are relayed (`serving.chat`); feedback, models and `/admin` are ordinary routes. Every other path is a 404,
the engine's own load, unload and sleep included: nothing is passed through by default. Errors have OpenAI's shape,
under `/admin` they are problem details.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Route

from feedback.aliases import alias_router
from feedback.api import feedback_router
from feedback.desk import Desk
from feedback.door import FeedbackDoor
from feedback.errors import HoneError, Refused
from feedback.refusals import foreign_error
from feedback.settings import FeedbackSettings
from feedback.uploads import FileStore
from monitoring.metrics import CONTENT_TYPE, render
from serving.admin import admin_router
from serving.admin_browse import admin_browse_router
from serving.admin_datasets import admin_datasets_router
from serving.admin_privacy import admin_privacy_router
from serving.admin_runs import admin_runs_router
from serving.admin_watch import admin_watch_router
from serving.endpoints import ENDPOINTS
from serving.errors import ApiError, Headers
from serving.exchange import AsgiRoute
from serving.fast_lane import SWITCH, Relayed
from serving.feedback_desk import open_desk
from serving.files import TuningDeps, files_router
from serving.fine_tuning import fine_tuning_router
from serving.gateway import Gateway
from serving.model_list import list_models, show_model
from serving.operators import AdminDeps
from serving.problems import describe, problem
from serving.settings import ServingSettings
from serving.stored import stored_router
from serving.web import web_router

ERROR_TYPES = {
    403: "permission_error",
    404: "not_found_error",
    409: "conflict_error",
    429: "rate_limit_error",
    503: "server_error",
}


def create_app(settings: ServingSettings, record: FeedbackSettings) -> FastAPI:
    """The application; its lifespan starts and stops the gateway."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[Mapping[str, Any]]:
        gateway = app.state.gateway = await Gateway.start(settings, record)
        app.state.desk = open_desk(gateway, record)
        try:
            yield {SWITCH: Relayed(gateway.relayed, settings.request_bytes_max)}
        finally:
            await gateway.stop()

    app = FastAPI(title="Hone", lifespan=lifespan, docs_url=None, redoc_url=None)
    for path in ENDPOINTS:
        relayed = AsgiRoute(lambda: app.state.gateway.relayed, settings.request_bytes_max)
        app.router.routes.append(Route(path.decode(), relayed, methods=["POST"]))
    app.add_middleware(
        FeedbackDoor,
        origins=lambda: {
            entry for policy in app.state.desk.policies(None).values() for entry in policy.allowed_origins
        },
        body_bytes_max=record.feedback_bytes_max,
    )
    app.include_router(feedback_router(_desk))
    app.include_router(alias_router(_desk))
    app.include_router(stored_router(_admin_deps))
    app.include_router(admin_router(_admin_deps))
    app.include_router(admin_browse_router(_admin_deps))
    app.include_router(admin_watch_router(_admin_deps))
    app.include_router(admin_runs_router(_admin_deps))
    app.include_router(admin_privacy_router(_admin_deps))
    app.include_router(admin_datasets_router(_admin_deps))
    app.include_router(files_router(lambda request: _tuning_deps(request, record)))
    app.include_router(fine_tuning_router(lambda request: _tuning_deps(request, record)))
    app.include_router(web_router())
    _add_models(app)
    _add_operations(app)
    _add_error_handlers(app)
    return app


def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


def _admin_deps(request: Request) -> AdminDeps:
    gateway = _gateway(request)
    return AdminDeps(database=gateway.database, identify=gateway.identify)


def _tuning_deps(request: Request, record: FeedbackSettings) -> TuningDeps:
    gateway = _gateway(request)
    return TuningDeps(gateway.database, gateway.identify, FileStore.of(record), record.file_bytes_max)


def _add_models(app: FastAPI) -> None:
    @app.get("/v1/models", tags=["models"], summary="List the models")
    async def models(request: Request) -> dict[str, Any]:
        gateway = _gateway(request)
        return list_models(gateway.completions.table, gateway.identify(request))

    @app.get("/v1/models/{name}", tags=["models"], summary="Show one model or version")
    async def model(name: str, request: Request) -> dict[str, Any]:
        gateway = _gateway(request)
        return show_model(gateway.completions.table, gateway.identify(request), name)


def _add_operations(app: FastAPI) -> None:
    @app.get("/health", tags=["operations"], summary="Say whether this gateway can answer and record")
    async def health(request: Request, response: Response) -> dict[str, Any]:
        found = await _gateway(request).health()
        response.status_code = 503 if found["status"] == "unready" else 200
        return found

    @app.get("/status", tags=["operations"], summary="Say that this process runs")
    async def status() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/metrics", tags=["operations"], summary="Prometheus metrics")
    async def metrics(request: Request) -> Response:
        return Response(render(_gateway(request).metrics), media_type=CONTENT_TYPE)


def _add_error_handlers(app: FastAPI) -> None:
    @app.exception_handler(ApiError)
    async def api_error(request: Request, error: ApiError) -> Response:
        return _answer_error(request, error)

    @app.exception_handler(HoneError)
    async def hone_error(request: Request, error: HoneError) -> Response:
        status, title = describe(error)
        if isinstance(error, Refused):
            return _answer_error(request, _as_api_error(error), title=title)
        kind = ERROR_TYPES.get(status, "invalid_request_error")
        return _answer_error(request, ApiError(status, str(error), type=kind), title=title)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"] if part != "body")
        message = f"'{field or 'body'}' is {first.get('input')!r:.80}: {first['msg']}."
        return _answer_error(request, ApiError(422, message, param=field or None))

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        message = f"{request.method} {request.url.path}: {error.detail}."
        kind = ERROR_TYPES.get(error.status_code, "invalid_request_error")
        return _answer_error(request, ApiError(error.status_code, message, type=kind), title=error.detail)


def _as_api_error(error: Refused) -> ApiError:
    kind = ERROR_TYPES.get(error.status, "invalid_request_error")
    after: Headers = [] if error.seconds is None else [(b"retry-after", b"%d" % error.seconds)]
    headers = [(b"allow", b"POST"), *after] if error.status == 405 else after
    return ApiError(error.status, str(error), type=kind, param=error.param, code=error.code, headers=headers)


def _answer_error(request: Request, error: ApiError, *, title: str = "Refused") -> Response:
    foreign = foreign_error(request.url.path, error.status, error.message, error.code)
    if foreign is not None:
        response = Response(foreign[1], foreign[0], media_type="application/json")
    elif request.url.path.startswith("/admin"):
        response = problem(error.status, title, error.message, instance=request.url.path)
    else:
        response = Response(error.body(), error.status, media_type="application/json")
    for name, value in error.headers:
        response.headers[name.decode()] = value.decode()
    return response
