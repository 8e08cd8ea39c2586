"""Adapter files where an engine can read them: complete, unchanged since they were published, and checked.

A version published in a directory is used where it is; one published at a URL (`s3://`, `gs://`, anything fsspec
reads) is copied once, under its own name, complete or not at all. Both are hashed and pre-flighted before an engine
hears of them, once per process.

Nothing here deletes a copy: an engine that lists a version reads its files again whenever it has to, and dies if
they are gone.
"""

import asyncio
import shutil
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

from feedback.adapters import Adapter
from feedback.files import files_hash
from serving.preflight import check_adapter

COPIES = "adapter-copies"
"""Folder of the state directory for versions that were published at a URL."""


class AdapterRefused(Exception):
    """No engine may load this version; the message has every reason."""


@dataclass(frozen=True, slots=True)
class CheckedFiles:
    """Files that passed. `changes_output` is False for an adapter whose weights change nothing."""

    directory: Path
    changes_output: bool


class AdapterFiles:
    """The files of every version, as this process has checked them."""

    def __init__(self, copies: Path, *, max_lora_rank: int) -> None:
        self.copies = copies.absolute()
        self.max_lora_rank = max_lora_rank
        self._checked: dict[tuple[str, str], CheckedFiles] = {}
        # Replicas ask at the same moment; one of them does the work.
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def get(self, adapter: Adapter, base_model: str) -> CheckedFiles:
        """The files of a version for engines that serve `base_model`.

        Raises:
            AdapterRefused: they are missing, changed, or fail the pre-flight check.
        """
        key = (adapter.adapter_id, base_model)
        async with self._locks[adapter.adapter_id]:
            if key not in self._checked:
                self._checked[key] = await asyncio.to_thread(self._check, adapter, base_model)
            return self._checked[key]

    def _check(self, adapter: Adapter, base_model: str) -> CheckedFiles:
        directory = self._locate(adapter)
        if adapter.files_hash is not None:
            found = files_hash(directory)
            if found != adapter.files_hash:
                raise AdapterRefused(
                    f"The files of {adapter.name} in {directory} are not those that were published (SHA-256 "
                    f"{found[:12]}, published {adapter.files_hash[:12]}). Put the published files back, or reject it."
                )
        report = check_adapter(directory, base_model=base_model, max_lora_rank=self.max_lora_rank)
        if not report.passed:
            raise AdapterRefused(" ".join(report.problems))
        return CheckedFiles(directory, report.changes_output)

    def _locate(self, adapter: Adapter) -> Path:
        if adapter.path is None:
            raise AdapterRefused(f"{adapter.name} has no files in the registry. Train it again.")
        if "://" in adapter.path:
            return self._copy(adapter, adapter.path)
        directory = Path(adapter.path)
        if not directory.is_absolute():
            raise AdapterRefused(
                f"The path of {adapter.name} is '{adapter.path}'; engines need an absolute path or a URL. "
                "Publish it again."
            )
        if not directory.is_dir():
            raise AdapterRefused(
                f"The files of {adapter.name} are gone: {directory} does not exist. Put them back."
            )
        return directory

    def _copy(self, adapter: Adapter, url: str) -> Path:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]  # it ships no types

        target = self.copies / adapter.adapter_id
        if target.is_dir():
            return target
        self.copies.mkdir(parents=True, exist_ok=True)
        staging = Path(mkdtemp(prefix=f".{adapter.adapter_id}-", dir=self.copies))
        try:
            filesystem, source = url_to_fs(url)
            filesystem.get(source.rstrip("/") + "/", f"{staging}/", recursive=True)
            staging.chmod(0o755)
            staging.rename(target)
        except Exception as error:
            if target.is_dir():
                return target  # Another process was faster.
            raise AdapterRefused(f"{adapter.name} cannot be copied from {url}: {error}.") from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        return target
