"""`/v1/files`: upload what a fine-tuning job trains on, as OpenAI's SDK does it.

A file travels through a temporary file on this machine's disk, never through memory, and is refused past
`file_bytes_max`. Every line is read once before the file is accepted: one that is not a JSON object is named by its
number. What the rows must hold depends on the method, so that is checked when a job asks for the file.
"""

from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from typing import IO, Annotated, Any, BinaryIO, Literal

import orjson
from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from feedback import uploads
from feedback.database import Database
from feedback.ids import new_id
from feedback.uploads import File, FileStore
from serving.auth import Caller
from serving.errors import ApiError, bad_request
from serving.problems import Forbidden

PATH = "/v1/files"
PURPOSE = uploads.TRAINING_PURPOSE
FORM_BYTES = 64 * 1024
"""Room for the form around the file."""


@dataclass(frozen=True, slots=True)
class TuningDeps:
    """What the routes need from the gateway."""

    database: Database
    identify: Callable[[Request], Caller]
    files: FileStore
    file_bytes_max: int

    def trainer(self, request: Request) -> Caller:
        """The caller, who may train: uploading and training take the machine's disk and time.

        Raises:
            Forbidden: the key's role is app.
        """
        caller = self.identify(request)
        if caller.role not in ("operator", "admin"):
            raise Forbidden(
                f"This key has role '{caller.role}'; files and fine-tuning jobs need a key with role operator or admin "
                "(`hone key create --role operator`)."
            )
        return caller


def files_router(deps: Callable[[Request], TuningDeps]) -> APIRouter:
    """The routes under `/v1/files`."""
    router = APIRouter(tags=["fine-tuning"])

    @router.post(PATH, summary="Upload a file to fine-tune on")
    async def upload(request: Request) -> dict[str, Any]:
        found = deps(request)
        caller = found.trainer(request)
        content = await _uploaded(request, found.file_bytes_max)
        try:
            name = content.filename or "unnamed.jsonl"
            await run_in_threadpool(check_lines, content.file, name)
            file_id = new_id("file")
            stored = await run_in_threadpool(found.files.write, file_id, content.file)
        finally:
            await content.close()
        made = None
        try:
            async with found.database.begin() as connection:
                made = await uploads.create(
                    connection,
                    file_id=file_id,
                    project=caller.project,
                    filename=name,
                    purpose=PURPOSE,
                    stored=stored,
                    by=f"key:{caller.key_id}",
                )
        except BaseException:
            # Nobody would find it again. A commit that broke off may have got through: then the content stays.
            if made is None:
                await run_in_threadpool(uploads.remove_content, stored.location)
            raise
        return file_view(made)

    @router.get("/v1/files", summary="List uploaded files")
    async def list_files(
        request: Request,
        purpose: str | None = None,
        after: str | None = None,
        limit: Annotated[int, Query(ge=1, le=10_000)] = 10_000,
        order: Literal["asc", "desc"] = "desc",
    ) -> dict[str, Any]:
        found = deps(request)
        caller = found.trainer(request)
        async with found.database.begin() as connection:
            page = await uploads.in_project(
                connection,
                caller.project,
                purpose=purpose,
                after=after,
                limit=limit + 1,
                newest_first=order == "desc",
            )
        return listing([file_view(file) for file in page], limit)

    _add_one_file(router, deps)
    return router


def _add_one_file(router: APIRouter, deps: Callable[[Request], TuningDeps]) -> None:
    @router.get("/v1/files/{file_id}", summary="Show a file")
    async def show_file(file_id: str, request: Request) -> dict[str, Any]:
        found = deps(request)
        caller = found.trainer(request)
        async with found.database.begin() as connection:
            return file_view(await uploads.get(connection, caller.project, file_id))

    @router.get("/v1/files/{file_id}/content", summary="Download a file")
    async def read_file(file_id: str, request: Request) -> StreamingResponse:
        found = deps(request)
        caller = found.trainer(request)
        async with found.database.begin() as connection:
            file = await uploads.get(connection, caller.project, file_id)
        content = await run_in_threadpool(uploads.open_content, file.location)
        headers = {"content-length": str(file.bytes)}
        return StreamingResponse(_chunks(content), media_type="application/octet-stream", headers=headers)

    @router.delete("/v1/files/{file_id}", summary="Delete a file; datasets made from it stay")
    async def delete_file(file_id: str, request: Request) -> dict[str, Any]:
        found = deps(request)
        caller = found.trainer(request)
        async with found.database.begin() as connection:
            gone = await uploads.delete(connection, caller.project, file_id, by=f"key:{caller.key_id}")
        await run_in_threadpool(uploads.remove_content, gone.location)
        return {"id": file_id, "object": "file", "deleted": True}


def file_view(file: File) -> dict[str, Any]:
    """A file in OpenAI's shape."""
    return {
        "id": file.file_id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": int(file.created_at.timestamp()),
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
        "expires_at": None,
    }


def listing(data: list[dict[str, Any]], limit: int) -> dict[str, Any]:
    """One page of at most `limit`; `data` may hold one more, which says that there is a next page."""
    page = data[:limit]
    return {
        "object": "list",
        "data": page,
        "has_more": len(data) > limit,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
    }


def check_lines(content: BinaryIO, filename: str) -> None:
    """Read the file to its end and go back to its start.

    Raises:
        ApiError: a line is not a JSON object, or there is none.
    """
    content.seek(0)
    objects = 0
    for number, line in enumerate(content, 1):
        if not line.strip():
            continue
        try:
            value = orjson.loads(line)
        except orjson.JSONDecodeError as error:
            raise _bad_line(filename, number, f"is not JSON ({error})") from error
        if not isinstance(value, dict):
            raise _bad_line(
                filename, number, f"is {line.strip()[:40].decode(errors='replace')!r}, not an object"
            )
        objects += 1
    if not objects:
        raise bad_request(f"'{filename}' is empty; expected JSONL: one JSON object a line.", param="file")
    content.seek(0)


def _bad_line(filename: str, number: int, what: str) -> ApiError:
    return bad_request(
        f"'{filename}', line {number}: it {what}; expected JSONL: one JSON object a line.",
        param="file",
        code="invalid_jsonl",
    )


async def _uploaded(request: Request, bytes_max: int) -> UploadFile:
    """The form's file, on disk where it is long; everything else of the form is checked."""
    if not request.headers.get("content-type", "").startswith("multipart/form-data"):
        raise bad_request("A file is uploaded as multipart/form-data with the fields 'file' and 'purpose'.")
    parser = MultiPartParser(
        request.headers, _limited(request, bytes_max), max_files=1, max_fields=8, max_part_size=FORM_BYTES
    )
    try:
        form = await parser.parse()
    except MultiPartException as error:
        raise bad_request(f"The form cannot be read: {error.message}") from error
    file, purpose = form.get("file"), form.get("purpose")
    if not isinstance(file, UploadFile):
        raise bad_request("The form has no field 'file' with a file in it.", param="file")
    others = sorted(set(form) - {"file", "purpose"})
    if purpose != PURPOSE or others:
        await file.close()
        if others:
            raise bad_request(f"The form has a field '{others[0]}', which is not supported. Leave it out.")
        raise bad_request(f"'purpose' is {purpose!r}; expected '{PURPOSE}'.", param="purpose")
    return file


async def _limited(request: Request, bytes_max: int) -> AsyncGenerator[bytes, None]:
    seen = 0
    async for chunk in request.stream():
        seen += len(chunk)
        if seen > bytes_max + FORM_BYTES:
            raise ApiError(
                413,
                f"The file is longer than {bytes_max} bytes. Split it, or raise [feedback] file_bytes_max.",
                param="file",
                code="file_too_large",
            )
        yield chunk


def _chunks(content: IO[bytes]) -> Iterator[bytes]:
    with content:
        while chunk := content.read(uploads.COPY_BYTES):
            yield chunk
