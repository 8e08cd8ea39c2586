"""The embedded PostgreSQL, for real: first start, restart, kill -9, stale files, and running as root."""

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import asyncpg
import psutil
import pytest

from deploy import postgres_home
from deploy.launch import User, spawn
from deploy.postgres import EmbeddedPostgres
from feedback.errors import HoneError

QUICK = {"fsync": "off"}


@pytest.fixture
def directory(reachable_directory: Path) -> Path:
    return reachable_directory / "postgres"


@pytest.fixture
def server(directory: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(directory, settings=QUICK) as running:
        yield running


async def ask(server: EmbeddedPostgres, question: str) -> object:
    connection = await asyncpg.connect(server.url.replace("+asyncpg", ""))
    try:
        return await connection.fetchval(question)
    finally:
        await connection.close()


def postmaster(server: EmbeddedPostgres) -> psutil.Process:
    return psutil.Process(int((server.pgdata / "postmaster.pid").read_text().splitlines()[0]))


async def test_what_was_committed_is_there_after_a_restart(directory: Path) -> None:
    with EmbeddedPostgres(directory, settings=QUICK) as first:
        await ask(first, "create table kept as select 42 as answer")
        address = first.url
    with EmbeddedPostgres(directory, settings=QUICK) as second:
        assert await ask(second, "select answer from kept") == 42
        assert second.url == address


async def test_the_product_keeps_data_through_power_loss(directory: Path) -> None:
    with EmbeddedPostgres(directory) as server:
        for setting in (
            "fsync",
            "synchronous_commit",
            "full_page_writes",
            "data_checksums",
        ):
            assert await ask(server, f"select current_setting('{setting}')") == "on"


async def test_a_wrong_password_is_refused_and_only_loopback_listens(
    server: EmbeddedPostgres,
) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(
            host="127.0.0.1",
            port=server.port,
            user="hone",
            password="guess",
            database="hone",
        )
    listening = [
        c.laddr.ip for c in postmaster(server).net_connections(kind="tcp") if c.status == psutil.CONN_LISTEN
    ]
    assert listening == ["127.0.0.1"]
    for secret in ("password", "port"):
        assert (server.directory / secret).stat().st_mode & 0o077 == 0


async def test_after_kill_9_with_clients_connected_it_starts_again_with_all_data(
    directory: Path,
) -> None:
    server = EmbeddedPostgres(directory)
    server.start()
    try:
        await ask(server, "create table kept as select 42 as answer")
        connection = await asyncpg.connect(server.url.replace("+asyncpg", ""))
        postmaster(server).send_signal(signal.SIGKILL)
        server.start()
        connection.terminate()
        assert await ask(server, "select answer from kept") == 42
    finally:
        server.stop()


def test_a_stale_pid_file_whose_number_another_program_got_does_not_stop_the_start(
    directory: Path,
) -> None:
    with EmbeddedPostgres(directory, settings=QUICK) as server:
        text = (server.pgdata / "postmaster.pid").read_text()
    innocent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        (server.pgdata / "postmaster.pid").write_text(
            "\n".join([str(innocent.pid), *text.splitlines()[1:]]) + "\n"
        )
        stale = server.pgdata / f".s.PGSQL.{server.port}.lock"
        stale.write_text(f"{innocent.pid}\n{server.pgdata}\n")
        server.end_leftovers()
        assert not stale.exists() and not (server.pgdata / "postmaster.pid").exists()
        with EmbeddedPostgres(directory, settings=QUICK) as again:
            assert again.is_ready()
        assert innocent.poll() is None
    finally:
        innocent.communicate(b"\n")


def test_a_server_left_over_on_the_same_data_is_ended_before_the_next_start(
    directory: Path,
) -> None:
    leftover = EmbeddedPostgres(directory, settings=QUICK)
    leftover.start()
    old = postmaster(leftover)
    with EmbeddedPostgres(directory, settings=QUICK) as server:
        assert not old.is_running() or old.status() == psutil.STATUS_ZOMBIE
        assert postmaster(server).pid != old.pid
    leftover.stop()


def test_an_interrupted_first_start_leaves_nothing_that_the_next_one_trips_over(
    directory: Path,
) -> None:
    half = directory / "pgdata.new"
    half.mkdir(parents=True)
    (half / "PG_VERSION").write_text("18\n")
    with EmbeddedPostgres(directory, settings=QUICK) as server:
        assert server.is_ready()


async def test_a_lost_password_file_is_replaced(directory: Path) -> None:
    with EmbeddedPostgres(directory, settings=QUICK) as server:
        (directory / "password").unlink()
    with EmbeddedPostgres(directory, settings=QUICK) as server:
        assert await ask(server, "select 1") == 1


def test_a_port_that_another_program_took_is_given_up_for_a_free_one(
    directory: Path,
) -> None:
    server = EmbeddedPostgres(directory, settings=QUICK)
    server.prepare()
    with socket.create_server(("127.0.0.1", server.port)) as taken:
        server.prepare()
        assert server.port != taken.getsockname()[1]
        with pytest.raises(HoneError, match="taken by another program"):
            EmbeddedPostgres(directory, port=taken.getsockname()[1], settings=QUICK).prepare()


def test_data_of_another_version_is_left_alone_with_a_sentence(directory: Path) -> None:
    server = EmbeddedPostgres(directory, settings=QUICK)
    server.prepare()
    (server.pgdata / "PG_VERSION").write_text("15\n")
    with pytest.raises(HoneError, match=r"made by PostgreSQL 15, but this Hone brings 18\. Dump it"):
        server.prepare()


def test_a_server_that_cannot_start_says_why_with_the_end_of_its_log(
    directory: Path,
) -> None:
    server = EmbeddedPostgres(directory, settings={**QUICK, "shared_buffers": "no-size"})
    with pytest.raises(HoneError, match=r"(?s)ended while starting.*shared_buffers"):
        server.start()


def test_it_dies_with_the_process_that_started_it(directory: Path) -> None:
    program = (
        "import sys, time, pathlib\n"
        "from deploy.postgres import EmbeddedPostgres\n"
        "server = EmbeddedPostgres(pathlib.Path(sys.argv[1]), settings={'fsync': 'off'})\n"
        "server.start()\n"
        "print('up', flush=True)\n"
        "time.sleep(60)\n"
    )
    starter = subprocess.Popen([sys.executable, "-c", program, str(directory)], stdout=subprocess.PIPE)
    assert starter.stdout is not None
    assert starter.stdout.readline() == b"up\n"
    orphan = postmaster(EmbeddedPostgres(directory))
    starter.kill()
    starter.communicate()
    if sys.platform == "linux":
        orphan.wait(timeout=10)
        assert not (directory / "pgdata" / "postmaster.pid").exists(), "it stopped cleanly"


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has to run PostgreSQL as another user")


@as_root
def test_as_root_it_runs_as_another_user_and_that_user_cannot_read_the_password(
    server: EmbeddedPostgres,
) -> None:
    assert postmaster(server).uids().real != 0
    assert postmaster(server).uids().saved != 0
    assert (server.directory / "password").stat().st_uid == 0


@as_root
async def test_as_root_below_a_closed_directory_data_and_binaries_move_where_they_work(
    reachable_directory: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    elsewhere = reachable_directory / "elsewhere"
    monkeypatch.setattr(postgres_home, "ELSEWHERE", elsewhere)
    closed = reachable_directory / "closed"
    closed.mkdir(mode=0o700)
    private = os.umask(0o077)  # as `hone up` does
    installed = postgres_home._installed_binaries()
    package = installed.parent.parent
    for folder in package.parent.glob(f"{package.name}*"):
        (closed / folder.name).symlink_to(folder)
    monkeypatch.setattr(
        postgres_home,
        "_installed_binaries",
        lambda: closed / installed.relative_to(package.parent),
    )
    try:
        for _ in ("first start", "second start"):
            with EmbeddedPostgres(closed / "postgres", settings=QUICK) as server:
                assert await ask(server, "select 1") == 1
                assert elsewhere in server.pgdata.parents
                assert elsewhere in server.home.bin.parents
    finally:
        os.umask(private)
    assert closed.stat().st_mode & 0o777 == 0o700
    assert len(list(elsewhere.glob("postgres-*"))) == 1

    copy = closed.with_name("copy")
    shutil.copytree(closed / "postgres", copy / "postgres")
    with pytest.raises(HoneError, match="is a copy of"):
        postgres_home.find_home(copy / "postgres")
    shutil.rmtree(closed / "postgres")
    (copy / "postgres" / "location").unlink()
    copy.chmod(0o700)
    postgres_home.find_home(copy / "postgres")
    assert len(list(elsewhere.glob("postgres-*"))) == 1, "the data of a temporary directory went with it"


def test_a_child_has_a_session_of_its_own_and_a_missing_program_is_named(
    tmp_path: Path,
) -> None:
    from deploy.launch import Command

    log = tmp_path / "logs" / "child.log"
    child = spawn(Command(("sleep", "60")), log)
    assert os.getsid(child.pid) == child.pid
    child.terminate()
    child.wait()
    missing = spawn(Command(("/no/such/program",)), log)
    assert missing.wait() == 127
    assert "Cannot run '/no/such/program'" in log.read_text()


@as_root
def test_as_root_a_child_may_run_as_somebody_else_without_our_groups(
    tmp_path: Path,
) -> None:
    from deploy.launch import Command

    log = tmp_path / "child.log"
    child = spawn(Command(("/usr/bin/id",), user=User(65534, 65534)), log)
    assert child.wait() == 0
    assert "uid=65534" in log.read_text()
    assert "groups=65534" in log.read_text()
