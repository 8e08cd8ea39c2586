"""Backup and restore with a real database: what was saved is back, elsewhere, and what is damaged is refused."""

import asyncio
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import backup
from deploy.postgres import EmbeddedPostgres
from feedback import adapters, audit, models
from feedback.database import Database, migrate
from feedback.errors import HoneError
from tests.builders import PROJECT, a_rated_completion, an_adapter

QUICK = {"fsync": "off"}


@pytest.fixture
def service(reachable_directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The state directory of a service with a champion and a rated answer, its database running."""
    directory = reachable_directory / "state"
    weights = directory / "adapters" / "support--v1"
    weights.mkdir(parents=True)
    (weights / "adapter_model.safetensors").write_bytes(b"weights")
    monkeypatch.setenv("HONE_STATE_DIR", str(directory))
    monkeypatch.delenv("HONE_DATABASE_URL", raising=False)
    with EmbeddedPostgres(directory / "postgres", settings=QUICK) as postgres:
        migrate(postgres.url)
        (directory / "postgres.url").write_text(postgres.url)
        asyncio.run(fill(postgres.url, weights))
        yield directory


async def fill(url: str, weights: Path) -> None:
    async with Database(url) as database, database.begin() as connection:
        await an_adapter(connection, state="champion", path=str(weights))
        await a_rated_completion(connection, value=True)


async def test_what_was_saved_is_there_again_in_another_directory(
    service: Path, reachable_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = reachable_directory / "saved.tar.gz"
    await asyncio.to_thread(backup.make, saved)
    assert saved.stat().st_mode & 0o077 == 0

    elsewhere = reachable_directory / "elsewhere"
    monkeypatch.setenv("HONE_STATE_DIR", str(elsewhere))
    await asyncio.to_thread(backup.restore, saved)
    with EmbeddedPostgres(elsewhere / "postgres", settings=QUICK) as postgres:
        async with Database(postgres.url) as database, database.begin() as connection:
            champion = await adapters.champion(connection, PROJECT, "support")
            assert champion.path == str(elsewhere / "adapters" / "support--v1")
            assert (await models.get(connection, PROJECT, "support")).base_model == "tiny"
            assert await audit.verify(connection) is None
            answers = await connection.exec_driver_sql(
                "SELECT count(*) FROM completions JOIN completion_texts USING (completion_id) JOIN feedback "
                "USING (completion_id)"
            )
            assert answers.scalar_one() == 1
    assert (elsewhere / "adapters/support--v1/adapter_model.safetensors").read_bytes() == b"weights"
    assert not [path for path in elsewhere.iterdir() if path.name.startswith(".backup-")]


def test_a_backup_is_never_written_over_another(service: Path, reachable_directory: Path) -> None:
    saved = reachable_directory / "saved.tar.gz"
    saved.write_bytes(b"an older one")
    with pytest.raises(HoneError, match="never written over another"):
        backup.make(saved)
    assert saved.read_bytes() == b"an older one"


def test_a_directory_that_holds_something_is_not_restored_into(
    service: Path, reachable_directory: Path
) -> None:
    saved = reachable_directory / "saved.tar.gz"
    backup.make(saved)
    with pytest.raises(HoneError, match="already has adapters"):
        backup.restore(saved)


@pytest.mark.parametrize("damage", ["cut", "changed", "not a backup"])
def test_a_damaged_backup_restores_nothing(
    damage: str, service: Path, reachable_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = reachable_directory / "saved.tar.gz"
    backup.make(saved)
    if damage == "cut":
        saved.write_bytes(saved.read_bytes()[:-2000])
    elif damage == "changed":
        change(saved, "adapters/support--v1/adapter_model.safetensors", b"forged!")
    else:
        saved.write_bytes(b"hello")
    elsewhere = reachable_directory / "elsewhere"
    monkeypatch.setenv("HONE_STATE_DIR", str(elsewhere))
    with pytest.raises(HoneError, match=r"not a whole backup|is damaged"):
        backup.restore(saved)
    assert not (elsewhere / "adapters").exists() and not (elsewhere / "postgres").exists()


def test_what_was_put_into_a_backup_is_not_restored(
    service: Path, reachable_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved, more = reachable_directory / "saved.tar.gz", reachable_directory / "more"
    backup.make(saved)
    with tarfile.open(saved) as old:
        old.extractall(more, filter="data")
    (more / "adapters" / "put-in.safetensors").write_bytes(b"not in the list")
    with tarfile.open(saved, "w:gz") as new:
        for path in sorted(more.iterdir()):
            new.add(path, path.name)
    monkeypatch.setenv("HONE_STATE_DIR", str(reachable_directory / "elsewhere"))
    with pytest.raises(HoneError, match=r"put-in\.safetensors is not in its list"):
        backup.restore(saved)


def change(archive: Path, name: str, content: bytes) -> None:
    with tarfile.open(archive) as old:
        members = [(one, old.extractfile(one).read()) for one in old.getmembers() if one.isfile()]  # type: ignore[union-attr]
    with tarfile.open(archive, "w:gz") as new:
        for member, data in members:
            data = content if member.name == name else data
            member.size = len(data)
            new.addfile(member, io.BytesIO(data))
