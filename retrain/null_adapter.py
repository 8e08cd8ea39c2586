"""Write null adapters: the files of a candidate with every weight a zero, for the base model that it is compared with.

The tensors keep their names, shapes and types, so that an engine does the same work for both. Zeros say nothing of the
candidate, so one null adapter serves every candidate of its shape. A directory that is there is never written again.

Refuses nothing: a version whose files are not on this machine is compared with the bare base model, and its times with
nothing (see `retrain.rollout`).
"""

import asyncio
import hashlib
import os
import shutil
from pathlib import Path

import structlog

from feedback import null_adapters
from feedback.adapters import Adapter
from feedback.database import Database
from feedback.files import files_hash
from retrain.checkpoints import sync_directory
from retrain.publish import CARD, CONFIGURATION, WEIGHTS

log = structlog.get_logger(__name__)

HEADER_BYTES_MAX = 100_000_000
"""As safetensors has it."""


async def tick(database: Database, adapters_dir: Path) -> list[str]:
    """Make the null adapters that are missing; returns what was done, one sentence each."""
    async with database.begin() as connection:
        waiting = await null_adapters.missing(connection)
    done: list[str] = []
    for version in waiting:
        if not _is_here(version):
            continue
        try:
            null_id = await asyncio.to_thread(write, version, adapters_dir)
        except (OSError, ValueError) as error:
            log.warning("a null adapter cannot be written", beside=version.name, error=str(error))
            continue
        path = adapters_dir / null_id
        async with database.begin() as connection:
            null = await null_adapters.enter(
                connection, version, null_id=null_id, path=str(path), files_hash=files_hash(path)
            )
        done.append(
            f"{null.name} stands for the base beside {version.name}: both carry what an adapter costs."
        )
    return done


def _is_here(version: Adapter) -> bool:
    path = version.path or ""
    return "://" not in path and all((Path(path) / name).is_file() for name in (WEIGHTS, CONFIGURATION))


def write(version: Adapter, adapters_dir: Path) -> str:
    """Write the null adapter of a version's shape, unless it is there; returns its id.

    Raises:
        ValueError: the version's weights are no safetensors file.
    """
    source = Path(version.path or "")
    head = read_head(source / WEIGHTS)
    configuration = (source / CONFIGURATION).read_bytes()
    shape = hashlib.sha256(b"\0".join((version.project.encode(), head, configuration))).hexdigest()[:12]
    null_id = f"{version.model}--null-{shape}"
    target = adapters_dir / null_id
    if not target.exists():
        staging = adapters_dir / f".staging-{null_id}"
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        try:
            (staging / CONFIGURATION).write_bytes(configuration)
            (staging / CARD).write_text(_card(null_id, version))
            with (staging / WEIGHTS).open("wb") as file:
                file.write(head)
                # The rest reads as zero bytes, which are zeros in every type of number.
                file.truncate((source / WEIGHTS).stat().st_size)
            sync_directory(staging)
            os.replace(staging, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        sync_directory(adapters_dir, files=False)
    return null_id


def read_head(file: Path) -> bytes:
    """The part of a safetensors file before the numbers: eight bytes that say how long the names and shapes are.

    Raises:
        ValueError: it is not such a file.
    """
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if not 2 <= length <= min(HEADER_BYTES_MAX, file.stat().st_size - 8):
            raise ValueError(f"{file} is no safetensors file: its header would have {length} bytes.")
        return length.to_bytes(8, "little") + opened.read(length)


def _card(null_id: str, version: Adapter) -> str:
    return (
        f"# {null_id}\n\nA null adapter: zeros in the shape of `{version.adapter_id}`. It answers exactly as "
        f"`{version.base_model}` does, at the price of an adapter, so that times are compared like with like. "
        "It was not trained and cannot be shipped.\n"
    )
