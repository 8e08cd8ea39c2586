"""The gateway as a web application: which path is answered by what.

Completions are relayed (`serving.chat`); feedback, models and `/admin` are ordinary routes. Every other path is a 404,
the engine's own load, unload and sleep included: nothing is passed through by default. Errors have OpenAI's shape,
under `/admin` they are problem details.
"""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.routing import Route

from feedback.aliases import alias_router
from feedback.api import feedback_router
from feedback.desk import Desk
from feedback.door import FeedbackDoor, is_read_at_door
from feedback.settings import FeedbackSettings
from feedback.uploads import FileStore
from monitoring.metrics import CONTENT_TYPE, render
from serving.admin import admin_router
from serving.admin_browse import admin_browse_router
from serving.admin_datasets import admin_datasets_router
from serving.admin_privacy import admin_privacy_router
from serving.admin_runs import admin_runs_router
from serving.admin_watch import admin_watch_router
from serving.body_limit import BodyLimit
from serving.endpoints import ENDPOINTS
from serving.exchange import AsgiRoute
from serving.fast_lane import SWITCH, Relayed
from serving.feedback_desk import open_desk
from serving.files import PATH as UPLOADS
from serving.files import TuningDeps, files_router
from serving.fine_tuning import fine_tuning_router
from serving.gateway import Gateway
from serving.model_list import list_models, show_model
from serving.operators import AdminDeps
from serving.problems import add_error_handlers
from serving.settings import ServingSettings
from serving.stored import stored_router
from serving.web import web_router


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
    bounded = {path.decode() for path in ENDPOINTS} | {UPLOADS}
    app.add_middleware(BodyLimit, is_bounded=lambda scope: scope["path"] in bounded or is_read_at_door(scope))
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
    add_error_handlers(app)
    return app


def _gateway(request: Request) -> Gateway:
    gateway: Gateway = request.app.state.gateway
    return gateway


def _desk(request: Request) -> Desk:
    desk: Desk = request.app.state.desk
    return desk


def _admin_deps(request: Request) -> AdminDeps:
    gateway = _gateway(request)
    return AdminDeps(gateway.database, gateway.identify, gateway.tables.catch_up)


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
