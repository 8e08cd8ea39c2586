"""What the pages tell a person to type works, on a real service, as it is written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.house import tree
from tests.house.readme import Block, blocks
from tests.loop.service import Service

pytestmark = [pytest.mark.engine, pytest.mark.slow]

PAGES = [tree.ROOT / "README.md", *sorted((tree.ROOT / "docs/guides").glob("*.md"))]
PYTHON = [(page, block) for page in PAGES for block in blocks(page, "python")]
CURL = [(page, block) for page in PAGES for block in blocks(page, "bash") if block.text.startswith("curl")]


def where(value: object) -> str:
    return (
        tree.name(value)
        if isinstance(value, Path)
        else f"line {value.line}"
        if isinstance(value, Block)
        else ""
    )


def run(command: list[str], service: Service) -> str:
    environment = {**os.environ, "OPENAI_BASE_URL": f"{service.base_url}/v1", "OPENAI_API_KEY": service.key}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize(("page", "block"), PYTHON, ids=where)
def test_a_python_block_runs_as_it_is_written(page: Path, block: Block, tiny_service: Service) -> None:
    run([sys.executable, "-c", block.text], tiny_service)


@pytest.mark.parametrize(("page", "block"), CURL, ids=where)
def test_a_curl_block_gets_an_answer(page: Path, block: Block, tiny_service: Service) -> None:
    said = run(
        ["bash", "-c", block.text.replace("http://127.0.0.1:8000", tiny_service.base_url)], tiny_service
    )
    assert json.loads(said)["model"].startswith("support@")


def test_the_example_application_asks_and_rates(tiny_service: Service) -> None:
    script = "printf 'Hello?\\ny\\n\\n' | " + f"{sys.executable} {tree.ROOT}/examples/rate_answers.py"
    assert "good?" in run(["bash", "-c", script], tiny_service)
