"""`/v1/fine_tuning/jobs`: OpenAI's fine-tuning calls on your own machine.

A job is checked and written to the record; the worker reads its files, freezes them as a dataset and trains. Methods:
`supervised`, `dpo` and, beyond OpenAI's, `kto`. When a job has succeeded its `ft:` name answers, whatever the gate
said of the version; the gate's words are among the job's events. Only a person promotes a version to its alias.

Refused: reinforcement, integrations, and keys whose role is app.
"""

import secrets
from collections.abc import Callable
from typing import Annotated, Any, Literal

import orjson
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from feedback import fine_tuning, uploads
from feedback.errors import HoneError, NotFound
from feedback.fine_tuning import Job
from feedback.mistakes import explain
from serving.errors import ApiError, bad_request, unknown_model
from serving.files import TuningDeps, listing
from serving.tuning_views import METHOD_NAMES, checkpoints_of, events_of, job_view

SEED_END = 2**32


class Hyperparameters(BaseModel):
    """What OpenAI lets one choose; `auto`, or left out: what the model's policy says."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)
    n_epochs: Literal["auto"] | Annotated[int, Field(ge=1, le=50)] | None = None
    batch_size: Literal["auto"] | Annotated[int, Field(ge=1, le=256)] | None = None
    learning_rate_multiplier: Literal["auto"] | Annotated[float, Field(gt=0, le=1000)] | None = None
    beta: Literal["auto"] | Annotated[float, Field(gt=0, le=2)] | None = None


class MethodOptions(BaseModel):
    """The options of one method."""

    model_config = ConfigDict(extra="forbid")
    hyperparameters: Hyperparameters = Hyperparameters()


class Method(BaseModel):
    """How to train; only the options of the method that `type` names are read."""

    model_config = ConfigDict(extra="forbid")
    type: Literal["supervised", "dpo", "kto"]
    supervised: MethodOptions | None = None
    dpo: MethodOptions | None = None
    kto: MethodOptions | None = None

    @model_validator(mode="after")
    def _has_no_others(self) -> "Method":
        others = [name for name in ("supervised", "dpo", "kto") if name != self.type and getattr(self, name)]
        if others:
            raise ValueError(f"type is '{self.type}', but options of '{others[0]}' are given")
        return self


class NewJob(BaseModel):
    """A job as a client asks for it."""

    model_config = ConfigDict(extra="forbid")
    model: str = Field(min_length=1)
    training_file: str
    validation_file: str | None = None
    method: Method | None = None
    hyperparameters: Hyperparameters | None = None
    suffix: str | None = Field(None, max_length=64, pattern=r"^[A-Za-z0-9._-]*$")
    seed: int | None = Field(None, ge=0, lt=SEED_END)
    metadata: dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]] | None = (
        Field(None, max_length=16)
    )
    integrations: list[Any] | None = None

    @field_validator("integrations")
    @classmethod
    def _has_none(cls, value: list[Any] | None) -> list[Any] | None:
        if value:
            raise ValueError("nothing is sent to other services from here; leave integrations out")
        return value


FIELDS = {name for model in (NewJob, Method, MethodOptions, Hyperparameters) for name in model.model_fields}


def fine_tuning_router(deps: Callable[[Request], TuningDeps]) -> APIRouter:
    """The routes under `/v1/fine_tuning/jobs`, and taking an `ft:` name back."""
    router = APIRouter(tags=["fine-tuning"])
    _add_jobs(router, deps)
    _add_moves(router, deps)
    _add_details(router, deps)
    return router


def _add_jobs(router: APIRouter, deps: Callable[[Request], TuningDeps]) -> None:
    @router.post("/v1/fine_tuning/jobs", summary="Ask for a fine-tuned version of a model")
    async def create_job(request: Request) -> dict[str, Any]:
        found = deps(request)
        caller = found.trainer(request)
        asked = read_job(await request.body())
        method = asked.method.type if asked.method else "supervised"
        options = getattr(asked.method, method) if asked.method else None
        chosen = options.hyperparameters if options else asked.hyperparameters or Hyperparameters()
        if method == "supervised" and chosen.beta is not None:
            raise bad_request(
                "'beta' belongs to the methods dpo and kto; the method is supervised.", param="beta"
            )
        async with found.database.begin() as connection:
            try:
                target = await fine_tuning.resolve(connection, caller.project, asked.model)
            except NotFound as error:
                raise unknown_model(str(error)) from error
            for param in ("training_file", "validation_file"):
                await _check_file(connection, caller.project, getattr(asked, param), param)
            job = await fine_tuning.create(
                connection,
                project=caller.project,
                target=target,
                asked_model=asked.model,
                method=METHOD_NAMES[method],
                hyperparameters=chosen.model_dump(exclude_none=True),
                training_file=asked.training_file,
                validation_file=asked.validation_file,
                suffix=asked.suffix,
                seed=secrets.randbelow(SEED_END) if asked.seed is None else asked.seed,
                metadata=asked.metadata,
                by=f"key:{caller.key_id}",
            )
        return job_view(job)

    @router.get("/v1/fine_tuning/jobs", summary="List fine-tuning jobs, newest first")
    async def list_jobs(
        request: Request,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
    ) -> dict[str, Any]:
        found = deps(request)
        caller = found.trainer(request)
        wanted = {
            name[9:-1]: value
            for name, value in request.query_params.items()
            if name.startswith("metadata[") and name.endswith("]")
        }
        async with found.database.begin() as connection:
            page = await fine_tuning.in_project(
                connection, caller.project, after=after, limit=limit + 1, metadata=wanted
            )
        return listing([job_view(job) for job in page], limit)

    @router.get("/v1/fine_tuning/jobs/{job_id}", summary="Show a fine-tuning job")
    async def show_job(job_id: str, request: Request) -> dict[str, Any]:
        found = deps(request)
        caller = found.trainer(request)
        async with found.database.begin() as connection:
            return job_view(await fine_tuning.get(connection, caller.project, job_id))


def _add_moves(router: APIRouter, deps: Callable[[Request], TuningDeps]) -> None:
    async def moved(request: Request, job_id: str, move: Callable[..., Any]) -> dict[str, Any]:
        found = deps(request)
        caller = found.trainer(request)
        async with found.database.begin() as connection:
            job: Job = await move(connection, caller.project, job_id, by=f"key:{caller.key_id}")
        return job_view(job)

    @router.post("/v1/fine_tuning/jobs/{job_id}/cancel", summary="End a job; what answers stays as it is")
    async def cancel_job(job_id: str, request: Request) -> dict[str, Any]:
        return await moved(request, job_id, fine_tuning.cancel)

    @router.post("/v1/fine_tuning/jobs/{job_id}/pause", summary="Let a job rest at its next checkpoint")
    async def pause_job(job_id: str, request: Request) -> dict[str, Any]:
        return await moved(request, job_id, fine_tuning.pause)

    @router.post("/v1/fine_tuning/jobs/{job_id}/resume", summary="Let a paused job go on")
    async def resume_job(job_id: str, request: Request) -> dict[str, Any]:
        return await moved(request, job_id, fine_tuning.resume)

    @router.delete("/v1/models/{name}", summary="Take an ft: name back; the version stays in the record")
    async def withdraw_name(name: str, request: Request) -> dict[str, Any]:
        found = deps(request)
        caller = found.trainer(request)
        if not name.startswith(fine_tuning.FT_PREFIX):
            raise bad_request(f"'{name}' is not an ft: name; only these can be deleted.", param="model")
        async with found.database.begin() as connection:
            await fine_tuning.withdraw(connection, caller.project, name, by=f"key:{caller.key_id}")
        return {"id": name, "object": "model", "deleted": True}


def _add_details(router: APIRouter, deps: Callable[[Request], TuningDeps]) -> None:
    @router.get("/v1/fine_tuning/jobs/{job_id}/events", summary="List what a job did, newest first")
    async def list_events(
        job_id: str,
        request: Request,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=1000)] = 20,
    ) -> dict[str, Any]:
        found = deps(request)
        caller = found.trainer(request)
        async with found.database.begin() as connection:
            job = await fine_tuning.get(connection, caller.project, job_id)
            return _page(await events_of(connection, job), after, limit)

    @router.get("/v1/fine_tuning/jobs/{job_id}/checkpoints", summary="List the checkpoints that answer")
    async def list_checkpoints(
        job_id: str,
        request: Request,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 10,
    ) -> dict[str, Any]:
        found = deps(request)
        caller = found.trainer(request)
        async with found.database.begin() as connection:
            job = await fine_tuning.get(connection, caller.project, job_id)
            return _page(await checkpoints_of(connection, job), after, limit)


def _page(every: list[dict[str, Any]], after: str | None, limit: int) -> dict[str, Any]:
    start = 0 if after is None else 1 + next((n for n, one in enumerate(every) if one["id"] == after), -1)
    if after is not None and not start:
        raise bad_request(f"'after' is '{after}', which is not in this list.", param="after")
    return listing(every[start : start + limit + 1], limit)


def read_job(body: bytes) -> NewJob:
    """The job that a client asks for.

    Raises:
        ApiError: 400, naming the field.
    """
    try:
        return NewJob.model_validate(orjson.loads(body))
    except orjson.JSONDecodeError as error:
        raise bad_request(f"The body is not JSON: {error}.") from error
    except ValidationError as error:
        # The last one: of "auto" or a number, the number's error says more.
        found = error.errors()[-1]
        place = tuple(part for part in map(str, found["loc"]) if part in FIELDS)
        wrong = explain([{**found, "loc": place}])
        raise bad_request(str(wrong), param=wrong.field or None) from error


async def _check_file(connection: Any, project: str, file_id: str | None, param: str) -> None:
    if file_id is None:
        return
    try:
        file = await uploads.get(connection, project, file_id)
    except HoneError as error:
        raise ApiError(400, str(error), param=param, code="invalid_file") from error
    if file.purpose != uploads.TRAINING_PURPOSE:
        said = f"{file_id} has purpose '{file.purpose}'; expected '{uploads.TRAINING_PURPOSE}'."
        raise ApiError(400, said, param=param, code="invalid_file")
