"""`hone backup` and `hone restore`: the whole service in one file, and back, also on another machine.

Promises: a backup is one consistent moment of the database with the files that it names (adapters, uploaded training
files, a model built here); it is written beside its place and moved there whole; restoring checks every file against
the hash in its list before anything is written, and refuses a place that already holds something.

Refuses: to hold what is not in the database yet (answers of the last seconds are in the gateway's spool, which is not
copied), logs, checkpoints of running trainings, and a base model that came from elsewhere. Whoever was erased after a
backup was made is in it: erase them again after restoring.
"""

import asyncio
import hashlib
import json
import os
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console
from sqlalchemy import text

from deploy import state
from deploy.postgres import EmbeddedPostgres
from deploy.postgres_home import client_program
from deploy.progress import Steps
from deploy.settings import Settings
from feedback.database import Database, parse_url
from feedback.errors import HoneError

FOLDERS = ("adapters", "files", "models")
"""Below the state directory: what the record names and nobody can make again."""
LIST, DUMP = "backup.json", "database.dump"


@dataclass(frozen=True)
class Contents:
    """What a backup holds."""

    made_at: str
    state_dir: str
    files: dict[str, str]
    """Name in the archive -> SHA-256."""


def make(target: Path) -> int:
    """Write a backup of the configured service to `target`; returns the exit status.

    Raises:
        HoneError: the database cannot be read, or the file exists or cannot be written.
    """
    settings = Settings.load()
    directory, url = settings.feedback.absolute_state_dir, settings.feedback.resolve_database_url()
    if target.exists():
        raise HoneError(f"{target} exists. A backup is never written over another: give another name.")
    console = Console()
    with Steps(console) as steps, _scratch(target.absolute().parent) as scratch:
        with steps.step("Database", done="dumped"):
            _run(url, "pg_dump", "--format=custom", "--no-owner", f"--file={scratch / DUMP}")
        with steps.step("Archive", done="written") as step:
            found = dict(_files(directory, scratch))
            contents = Contents(
                datetime.now(UTC).isoformat(timespec="seconds"),
                str(directory),
                {name: _hash_of(path) for name, path in found.items()},
            )
            (scratch / LIST).write_text(json.dumps(asdict(contents), indent=1))
            with tarfile.open(scratch / "archive", "w:gz", compresslevel=3) as archive:
                archive.add(scratch / LIST, LIST)
                for number, (name, path) in enumerate(found.items(), 1):
                    archive.add(path, name)
                    step.update(name, number / len(found))
            _settle(scratch / "archive", target)
    console.print(f"{target}: {len(found)} files, {target.stat().st_size / 1e6:.1f} MB.", highlight=False)
    return 0


def restore(source: Path) -> int:
    """Put a backup into an empty state directory and an empty database; returns the exit status.

    Raises:
        HoneError: the backup is damaged, or there is something in the way.
    """
    settings = Settings.load()
    directory = settings.feedback.absolute_state_dir
    state.make(directory)
    os.umask(0o077)
    with state.held(directory), Steps(Console()) as steps, _scratch(directory) as scratch:
        with steps.step("Backup", done="whole"):
            contents = _unpack(source, scratch)
        taken = [name for name in FOLDERS if (directory / name).exists()]
        if taken:
            raise HoneError(
                f"{directory} already has {', '.join(taken)}. Restore into an empty directory: name one in "
                "HONE_STATE_DIR."
            )
        with steps.step("Database", done="restored"), _database(settings, directory) as url:
            asyncio.run(_refuse_used(url))
            _run(
                url,
                "pg_restore",
                "--no-owner",
                "--exit-on-error",
                "--single-transaction",
                str(scratch / DUMP),
            )
            asyncio.run(_moved(url, contents.state_dir, str(directory)))
        with steps.step("Files", done="restored"):
            for name in FOLDERS:
                if (scratch / name).exists():
                    (scratch / name).rename(directory / name)
    print(f"Restored what was saved at {contents.made_at} into {directory}. Start it with `hone up`.")
    return 0


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A private directory on the target's own disk, so that moving what is in it is atomic."""
    try:
        with tempfile.TemporaryDirectory(dir=parent, prefix=".backup-") as made:
            yield Path(made)
    except OSError as error:
        raise HoneError(f"{parent}: {error.strerror or error}.") from error


@contextmanager
def _database(settings: Settings, directory: Path) -> Iterator[str]:
    """The configured database, or the directory's own one, started for as long as the block runs."""
    if settings.feedback.database_url is not None:
        yield settings.feedback.resolve_database_url()
        return
    with EmbeddedPostgres(directory / "postgres", port=settings.deploy.postgres_port) as postgres:
        yield postgres.url


def _files(directory: Path, scratch: Path) -> Iterator[tuple[str, Path]]:
    yield DUMP, scratch / DUMP
    for folder in FOLDERS:
        for path in sorted((directory / folder).rglob("*")):
            # Names with a leading dot are unfinished: they are published by renaming.
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(directory).parts):
                yield str(path.relative_to(directory)), path


def _unpack(source: Path, scratch: Path) -> Contents:
    try:
        with tarfile.open(source, "r:gz") as archive:
            archive.extractall(scratch, filter="data")
        contents = Contents(**json.loads((scratch / LIST).read_text()))
    except FileNotFoundError as error:
        raise HoneError(f"There is no {error.filename}.") from error
    except (OSError, EOFError, tarfile.TarError, ValueError, TypeError) as error:
        raise HoneError(f"{source} is not a whole backup of Hone: {error}.") from error
    for path in scratch.rglob("*"):
        name = str(path.relative_to(scratch))
        if not path.is_dir() and name != LIST and name not in contents.files:
            raise HoneError(f"{source} was changed: {name} is not in its list. Nothing was restored.")
    for name, expected in contents.files.items():
        path = scratch / name
        if not path.is_file() or _hash_of(path) != expected:
            raise HoneError(f"{source} is damaged: {name} is missing or differs. Nothing was restored.")
    return contents


async def _refuse_used(url: str) -> None:
    async with Database(url) as database, database.begin() as connection:
        tables = await connection.scalar(
            text("SELECT count(*) FROM pg_tables WHERE schemaname = current_schema()")
        )
    if tables:
        raise HoneError(
            f"The database already has {tables} tables. Restore into an empty one: another HONE_DATABASE_URL, or "
            "another state directory."
        )


async def _moved(url: str, before: str, now: str) -> None:
    """Let paths below the earlier state directory name the new one."""
    if before == now:
        return
    async with Database(url) as database, database.begin() as connection:
        for table, column in (("adapters", "path"), ("adapters", "base_model"), ("models", "base_model"),
                              ("files", "location")):  # fmt: skip
            await connection.execute(
                text(
                    f"UPDATE {table} SET {column} = :now || substr({column}, length(:before) + 1) "
                    f"WHERE starts_with({column}, :before || '/')"
                ),
                {"before": before, "now": now},
            )


def _run(url: str, program: str, *arguments: str) -> None:
    parts = parse_url(url)
    environment: dict[str, Any] = {
        "PGHOST": parts.host or "127.0.0.1",
        "PGPORT": str(parts.port or 5432),
        "PGUSER": parts.username,
        "PGPASSWORD": parts.password,
        "PGDATABASE": parts.database,
    }
    if program == "pg_restore":
        arguments = (f"--dbname={parts.database}", *arguments)
    # In the environment: a password among the arguments is there for everybody's eyes.
    done = subprocess.run(
        (str(client_program(program)), *arguments),
        env=os.environ | {name: value for name, value in environment.items() if value},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise HoneError(f"{program} failed: {done.stderr.strip()[-600:]}")


def _settle(written: Path, target: Path) -> None:
    with written.open("rb") as file:
        os.fsync(file.fileno())
    written.chmod(0o600)
    written.rename(target)


def _hash_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
