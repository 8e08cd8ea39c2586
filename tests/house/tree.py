"""Which files the house tests look at."""

import ast
import subprocess
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("feedback", "monitoring", "serving", "retrain", "deploy")
Defines = ast.FunctionDef | ast.AsyncFunctionDef
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


def own_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Count the lines of a function without those of functions inside it, which count for themselves."""
    inner = [node for node in ast.walk(function) if node is not function and isinstance(node, Defines)]
    lines = {line for node in inner for line in range(node.lineno, (node.end_lineno or 0) + 1)}
    return len(set(range(function.lineno, (function.end_lineno or 0) + 1)) - lines)
