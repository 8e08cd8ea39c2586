"""`hone doctor`: right about what is there, and about what is not; changes nothing."""

import asyncio
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy import doctor, state
from deploy.findings import Finding
from deploy.process import identity
from feedback.errors import HoneError
from tests.deploy.test_cli import hone
from tests.fakes import fake_engine
from tests.ports import free_port


@pytest.fixture(autouse=True)
def place(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("HONE_STATE_DIR", str(state_dir))
    monkeypatch.setenv("HONE_GATEWAY_PORT", str(free_port()))
    monkeypatch.setenv("HONE_CONFIG", str(state_dir / "hone.toml"))
    state_dir.chmod(0o700)
    yield state_dir


def by_check(findings: list[Finding]) -> dict[str, Finding]:
    return {one.check: one for one in findings}


def test_on_a_machine_where_nothing_runs_it_says_what_to_start(place: Path) -> None:
    done = hone("doctor")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "nothing listens on" in done.stdout
    assert "`hone up`" in done.stdout
    assert not list(place.iterdir()), "it changes nothing"


def test_json_has_the_same_findings() -> None:
    done = hone("doctor", "--json")
    assert done.returncode == 1
    levels = {one["check"]: one["level"] for one in json.loads(done.stdout)}
    assert levels["python"] == "ok"
    assert levels["database"] == "fail"
    assert levels["gateway"] == "fail"


def test_a_database_that_is_well_passes_and_clocks_are_compared(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HONE_DATABASE_URL", database_url)
    found = by_check(doctor.examine())
    assert (found["database"].level, found["clock"].level) == ("ok", "ok")
    password = database_url.split(":")[2].split("@")[0]
    assert password not in found["database"].found


def test_a_database_without_our_tables_is_told_to_be_migrated(
    postgres: object, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HONE_DATABASE_URL", database_url.rpartition("/")[0] + "/postgres")
    found = by_check(doctor.examine())["database"]
    assert found.level == "fail"
    assert "schema" in found.found
    assert "migrates" in found.remedy


def test_a_database_that_does_not_answer_is_a_finding_not_a_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HONE_DATABASE_URL", f"postgresql://hone:x@127.0.0.1:{free_port()}/hone")
    found = by_check(doctor.examine())["database"]
    assert found.level == "fail"
    assert "HONE_DATABASE_URL" in found.remedy


def test_settings_that_are_wrong_are_the_first_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HONE_GATEWAY_PROT", "1")
    assert [(one.check, one.level) for one in doctor.examine()] == [("python", "ok"), ("settings", "fail")]


def test_an_engine_that_does_not_answer_fails(monkeypatch: pytest.MonkeyPatch, place: Path) -> None:
    monkeypatch.setenv("HONE_ENGINE_URLS", json.dumps([f"http://127.0.0.1:{free_port()}"]))
    assert "fail" in [one.level for one in doctor.examine() if one.check == "engine"]


def test_a_stranger_on_the_gateways_port_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        monkeypatch.setenv("HONE_GATEWAY_PORT", str(stranger.getsockname()[1]))
        monkeypatch.setattr("deploy.doctor_service._PATIENCE_SECONDS", 0.3)
        found = by_check(doctor.examine())["gateway"]
    assert found.level == "fail"
    assert "not Hone's gateway" in found.found


def test_secrets_that_others_can_read_are_named(place: Path) -> None:
    (place / "operator.key").write_text("hk_x")
    (place / "operator.key").chmod(0o644)
    [found] = doctor.permissions(place)
    assert found.level == "warn"
    assert found.remedy == f"`chmod go= {place / 'operator.key'}`"


def test_what_another_user_left_is_named(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock = place / "hone.lock"
    lock.mkdir()  # Root, who may run this test, may write every file; nobody writes a directory as one.
    monkeypatch.setattr("os.access", lambda path, mode: path != lock)
    [found] = doctor.permissions(place)
    assert found.level == "fail" and str(lock) in found.found
    with pytest.raises(HoneError, match=r"hone\.lock cannot be written"), state.held(place):
        pass


def test_little_disk_space_is_said_before_it_is_gone(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = []
    for free in (100 * doctor._GIB, 3 * doctor._GIB, doctor._GIB // 2):
        usage = type("Usage", (), {"free": free})
        monkeypatch.setattr("shutil.disk_usage", lambda path, usage=usage: usage)
        levels.append(doctor.disk(place / "not" / "there").level)
    assert levels == ["ok", "warn", "fail"]


def test_parts_left_by_a_killed_hone_up_are_found(place: Path) -> None:
    (place / "run").mkdir()
    us = {"pid": os.getpid(), "command": [], "members": {str(os.getpid()): identity(os.getpid())}}
    (place / "run" / "worker.json").write_text(json.dumps(us))
    [found] = doctor.processes(place)
    assert found.level == "warn"
    assert "its worker" in found.found
    with state.held(place):
        assert state.holder(place) is not None
    assert state.holder(place) is None


async def test_an_engine_elsewhere_is_asked_what_it_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    async with fake_engine() as engine:
        monkeypatch.setenv("HONE_ENGINE_URLS", json.dumps([engine.url]))
        found = [one for one in await asyncio.to_thread(doctor.examine) if one.check == "engine"]
    assert engine.url in found[-1].found
