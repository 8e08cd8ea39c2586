import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.house import tree

SAYS_WHAT_IS_LOADED = """
import importlib, json, pkgutil, sys
for package in {packages}:
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        if not module.name.endswith("__main__") and ".versions." not in module.name and ".env" not in module.name:
            importlib.import_module(module.name)
print(json.dumps(sorted({{name.partition(".")[0] for name in sys.modules}})))
"""

SAYS_WHAT_HELP_LOADS = """
import io, contextlib, json, sys
sys.argv = ["hone", "--help"]
from deploy.cli import main
with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
    main()
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""

SLOW_TO_IMPORT = {
    *tree.TRAINING_STACK,
    *(
        "alembic",
        "asyncpg",
        "evidently",
        "fastapi",
        "numpy",
        "openai",
        "pandas",
        "scipy",
        "sqlalchemy",
        "uvicorn",
    ),
}


def loaded_by(program: str) -> set[str]:
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tree.ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout.splitlines()[-1]))


def imports_on_load(module: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    """Walk the imports that run when the file is imported: not those in functions, nor those for the type checker."""
    waiting: list[ast.AST] = [module]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting.extend(node.orelse)
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        waiting.extend(ast.iter_child_nodes(node))


def test_imports_run_one_way() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter], cwd=tree.ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_the_training_stack_is_imported_only_inside_functions() -> None:
    early = [
        f"{tree.name(path)}:{node.lineno}: {ast.unparse(node)}"
        for path in tree.product()
        for node in imports_on_load(tree.parse(path))
        for module in (
            [node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names]
        )
        if module.partition(".")[0] in tree.TRAINING_STACK
    ]
    assert not early, "Move these into the functions that need them:\n" + "\n".join(early)


@pytest.mark.parametrize("package", ["feedback", "monitoring", "serving"])
def test_importing_what_answers_requests_loads_no_torch(package: str) -> None:
    assert not loaded_by(SAYS_WHAT_IS_LOADED.format(packages=[package])) & tree.TRAINING_STACK


def test_help_loads_nothing_slow() -> None:
    assert not loaded_by(SAYS_WHAT_HELP_LOADS) & SLOW_TO_IMPORT


@pytest.mark.parametrize("package", tree.PACKAGES)
def test_a_package_exports_little(package: str) -> None:
    start = tree.parse(tree.ROOT / package / "__init__.py")
    assert ast.get_docstring(start), f"{package}/__init__.py has no docstring"
    assert len(start.body) <= 10
