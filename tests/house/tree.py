"""Which files the house tests look at."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("feedback", "monitoring", "serving", "retrain", "deploy")
TRAINING_STACK = {"accelerate", "datasets", "peft", "tokenizers", "torch", "transformers", "trl"}


def files(*suffixes: str, under: tuple[str, ...] = (".",)) -> list[Path]:
    """Return the files that git knows or would take, so that environments and state are left out."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z", *under],
        cwd=ROOT,
        capture_output=True,
        check=True,
        text=True,
    )
    paths = (ROOT / name for name in sorted(set(listed.stdout.split("\0"))) if name)
    return [path for path in paths if path.suffix in suffixes and path.exists()]


def product() -> list[Path]:
    """Return the Python files of the product."""
    return files(".py", under=PACKAGES)


def name(path: Path) -> str:
    """Return a path as a person would write it."""
    return str(path.relative_to(ROOT))


def parse(path: Path) -> ast.Module:
    """Return the syntax tree of a file."""
    return ast.parse(path.read_text(), filename=str(path))


def functions(tree: ast.Module) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Walk all functions of a file."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node
