"""Files that people upload to train on: their rows in the record, their content in a directory or at a URL.

Content is written beside its final place and moved there whole, under the file's own id; what the client called it is
kept as a name only and never becomes a path. A file is there once its row is.
"""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Any, BinaryIO

from sqlalchemy import delete as delete_rows
from sqlalchemy import func, select, tuple_
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import audit
from feedback.errors import Conflict, NotFound
from feedback.settings import FeedbackSettings
from feedback.tables import models
from feedback.tuning_tables import files, fine_tuning_jobs

COPY_BYTES = 1 << 20
TRAINING_PURPOSE, RESULTS_PURPOSE = "fine-tune", "fine-tune-results"
"""What a file is for: to be trained on, or to tell how that went."""


@dataclass(frozen=True, slots=True)
class File:
    """One uploaded file."""

    file_id: str
    project: str
    filename: str
    purpose: str
    bytes: int
    sha256: str
    location: str
    uploaded_by: str
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Stored:
    """Where content lies, and what it is."""

    location: str
    bytes: int
    sha256: str


class FileStore:
    """Content below one directory, or one fsspec URL such as `s3://bucket/files`. Every call blocks."""

    def __init__(self, root: str) -> None:
        self.root = root.rstrip("/")

    @classmethod
    def of(cls, settings: FeedbackSettings) -> "FileStore":
        """The store that the settings name; by default the folder `files` of the state directory."""
        return cls(settings.files_url or str(settings.absolute_state_dir / "files"))

    def write(self, file_id: str, source: BinaryIO) -> Stored:
        """Keep what `source` holds from where it stands."""
        location = f"{self.root}/{file_id}"
        whole, length = hashlib.sha256(), 0
        with _written_whole(location) as target:
            while chunk := source.read(COPY_BYTES):
                whole.update(chunk)
                length += len(chunk)
                target.write(chunk)
        return Stored(location, length, whole.hexdigest())


def open_content(location: str) -> IO[bytes]:
    """The content of a file.

    Raises:
        NotFound: it is gone.
    """
    try:
        if "://" not in location:
            return Path(location).open("rb")
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]  # it ships no types

        filesystem, path = url_to_fs(location)
        opened: IO[bytes] = filesystem.open(path, "rb")
    except FileNotFoundError as error:
        raise NotFound(
            f"The content of {location.rpartition('/')[2]} is gone. Upload the file again."
        ) from error
    return opened


def remove_content(location: str) -> None:
    """Delete the content; safe to repeat."""
    with suppress(FileNotFoundError):
        if "://" not in location:
            Path(location).unlink()
            return
        from fsspec.core import url_to_fs

        filesystem, path = url_to_fs(location)
        filesystem.rm(path)


@contextmanager
def _written_whole(location: str) -> Iterator[IO[bytes]]:
    """A file that has its name once everything is in it."""
    if "://" in location:
        from fsspec.core import url_to_fs

        filesystem, path = url_to_fs(location)
        # Object stores show an object once it is closed; an upload that breaks off leaves none.
        with filesystem.open(path, "wb") as target:
            yield target
        return
    final, partial = Path(location), Path(f"{location}.partial")
    final.parent.mkdir(parents=True, exist_ok=True)
    try:
        with partial.open("wb") as target:
            yield target
            target.flush()
            os.fsync(target.fileno())
        partial.replace(final)
    finally:
        partial.unlink(missing_ok=True)


async def create(
    connection: AsyncConnection,
    *,
    file_id: str,
    project: str,
    filename: str,
    purpose: str,
    stored: Stored,
    by: str,
) -> File:
    """Enter a file whose content is stored."""
    row = (
        await connection.execute(
            files.insert()
            .values(
                file_id=file_id,
                project=project,
                filename=filename,
                purpose=purpose,
                bytes=stored.bytes,
                sha256=stored.sha256,
                location=stored.location,
                uploaded_by=by,
            )
            .returning(files)
        )
    ).one()
    detail = {"filename": filename, "bytes": stored.bytes, "sha256": stored.sha256}
    await audit.write(
        connection, project=project, actor=by, action="file.create", subject=file_id, detail=detail
    )
    return File(**row._mapping)


async def get(connection: AsyncConnection, project: str, file_id: str) -> File:
    """One file.

    Raises:
        NotFound: the project has none of this id.
    """
    query = select(files).where(files.c.project == project, files.c.file_id == file_id)
    row = (await connection.execute(query)).one_or_none()
    if row is None:
        raise NotFound(f"Project '{project}' has no file '{file_id}'. Upload it with purpose 'fine-tune'.")
    return File(**row._mapping)


async def in_project(
    connection: AsyncConnection,
    project: str,
    *,
    purpose: str | None = None,
    after: str | None = None,
    limit: int = 10_000,
    newest_first: bool = True,
) -> list[File]:
    """The files of a project, at most `limit`, from the one after `after` on."""
    place = tuple_(files.c.created_at, files.c.file_id)
    query = select(files).where(files.c.project == project).limit(limit)
    if purpose is not None:
        query = query.where(files.c.purpose == purpose)
    if after is not None:
        last = await get(connection, project, after)
        edge = tuple_(last.created_at, last.file_id)
        query = query.where(place < edge if newest_first else place > edge)
    order: list[Any] = [files.c.created_at, files.c.file_id]
    query = query.order_by(*(column.desc() if newest_first else column for column in order))
    return [File(**row._mapping) for row in await connection.execute(query)]


async def delete(connection: AsyncConnection, project: str, file_id: str, *, by: str) -> File:
    """Take a file's row out of the record; its content is the caller's to remove after the commit.

    Raises:
        NotFound: the project has none of this id.
        Conflict: a job has still to read it, or every run of a model repeats it.
    """
    file = await get(connection, project, file_id)
    waiting = await connection.scalar(
        select(func.min(fine_tuning_jobs.c.job_id)).where(
            (fine_tuning_jobs.c.training_file == file_id) | (fine_tuning_jobs.c.validation_file == file_id),
            fine_tuning_jobs.c.run_id.is_(None),
            fine_tuning_jobs.c.finished_at.is_(None),
        )
    )
    if waiting is not None:
        raise Conflict(f"{file_id} is still to be read by {waiting}. Wait until that runs, or cancel it.")
    repeating = await connection.scalar(
        select(func.min(models.c.model)).where(
            models.c.project == project,
            models.c.policy["training"]["replay_file"].as_string() == file_id,
        )
    )
    if repeating is not None:
        raise Conflict(
            f"{file_id} is what every run of '{repeating}' repeats. Change training.replay_file in its policy first "
            "(null: no file)."
        )
    await connection.execute(delete_rows(files).where(files.c.file_id == file_id))
    await audit.write(connection, project=project, actor=by, action="file.delete", subject=file_id, detail={})
    return file
