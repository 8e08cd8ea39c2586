"""What the pages tell a person to run works, on a real service and in a real browser, as it is written."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
from openai.types.chat import ChatCompletionChunk
from playwright.async_api import Browser

from docs.generate import anchors
from tests.browser_fixture import watched_page
from tests.house import tree
from tests.house.readme import IN_A_BROWSER, ON_A_SERVICE, SENT, Block, proved
from tests.loop.service import Service

pytestmark = [pytest.mark.engine, pytest.mark.slow]

PYTHON = [block for block in proved(ON_A_SERVICE) if block.language == "python"]
SHELL = [block for block in proved(ON_A_SERVICE) if block.language == "bash"]
SCRIPTS = [block for block in proved(IN_A_BROWSER) if block.language == "js"]
MARKUP = [block for block in proved(IN_A_BROWSER) if block.language == "html"]
GATEWAYS = ("https://gateway.example", "https://llm.example")
"""What pages call a gateway of their reader's."""


def where(block: Block) -> str:
    return block.name


def run(command: list[str], service: Service, folder: Path) -> str:
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {
        **os.environ,
        "PATH": path,
        "OPENAI_BASE_URL": f"{service.base_url}/v1",
        "OPENAI_API_KEY": service.key,
        "HONE_STATE_DIR": str(service.state_dir),
    }
    done = subprocess.run(
        command, env=environment, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("block", PYTHON, ids=where)
def test_a_python_block_runs_as_it_is_written(block: Block, tiny_service: Service, tmp_path: Path) -> None:
    run([sys.executable, "-c", block.text], tiny_service, tmp_path)


@pytest.mark.parametrize("block", SHELL, ids=where)
def test_a_block_with_curl_gets_an_answer(block: Block, tiny_service: Service, tmp_path: Path) -> None:
    typed = block.text.replace("http://127.0.0.1:8000", tiny_service.base_url)
    said = run(
        ["bash", "-euo", "pipefail", "-c", typed.replace("hk_...", tiny_service.key)], tiny_service, tmp_path
    )
    assert "error" not in json.loads(said)


@pytest.mark.parametrize("block", proved(SENT), ids=where)
def test_what_a_page_shows_as_sent_has_the_fields_that_are_sent(block: Block, tiny_service: Service) -> None:
    shown = ChatCompletionChunk.model_construct(**json.loads(block.text)).to_dict()
    lines = httpx.post(
        f"{tiny_service.base_url}/v1/chat/completions",
        headers=tiny_service.headers | {"x-hone-feedback": "chunk"},
        json=question() | {"stream": True},
        timeout=60,
    ).text.split("\n\n")
    real = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")][-1]
    assert fields(shown) <= fields(real)


def fields(value: Any, path: str = "") -> set[str]:
    """The names in a JSON document, with those around them."""
    if not isinstance(value, dict):
        return {path}
    return {inner for name, one in value.items() for inner in fields(one, f"{path}.{name}")}


def question() -> dict[str, Any]:
    asked = [{"role": "user", "content": "May I return a lamp?"}]
    return {"model": "support", "messages": asked, "max_tokens": 4, "safety_identifier": "reader"}


@pytest.mark.parametrize("block", [*MARKUP, *SCRIPTS], ids=where)
async def test_a_block_for_pages_rates_an_answer(
    block: Block, tiny_service: Service, browser: Browser
) -> None:
    async with httpx.AsyncClient(
        base_url=tiny_service.base_url, headers=tiny_service.headers, timeout=60
    ) as client:
        answer = await client.post("/v1/chat/completions", json=question())
    completion_id, token = answer.json()["id"], answer.headers["x-hone-feedback-token"]
    text = block.text.replace("chatcmpl-0199...", completion_id).replace('"..."', f'"{token}"')
    for gateway in GATEWAYS:
        text = text.replace(gateway, tiny_service.base_url)
    page = (await watched_page(browser)).page
    markup = text if block in MARKUP else '<script src="/hone.js"></script><div id="thumbs"></div>'
    await page.route("**/shop", lambda route: route.fulfill(content_type="text/html", body=markup))
    await page.goto(f"{tiny_service.base_url}/shop")
    if block in MARKUP:
        async with page.expect_response("**/v1/feedback") as sent:
            await page.get_by_role("button").first.click()
        assert (await sent.value).ok
        return
    given = {"id": completion_id, "token": token}
    await page.evaluate(f"async (answer) => {{ {GIVEN}\n{text}\n }}", given)


GIVEN = """
const token = answer.token;
const element = document.getElementById("thumbs");
const response = new Response(null, { headers: { "x-hone-feedback-token": token } });
const asked = window.fetch;
const fetch = async (...request) => {
    const said = await asked(...request);
    if (!said.ok) throw new Error(await said.text());
    return said;
};
"""
"""What a page of the reader's has around a block: an answer, and a `fetch` that fails where the gateway refuses."""


def test_every_metric_that_a_gateway_shows_has_a_heading(tiny_service: Service) -> None:
    shown = httpx.get(f"{tiny_service.base_url}/metrics", timeout=30).text
    names = {line.split()[2] for line in shown.splitlines() if line.startswith("# TYPE ")}
    headings = set(anchors((tree.ROOT / "docs/reference/metrics.md").read_text()))
    assert names and names - headings == set()


def test_the_example_application_asks_and_rates(tiny_service: Service, tmp_path: Path) -> None:
    script = "printf 'Hello?\\ny\\n\\n' | " + f"{sys.executable} {tree.ROOT}/examples/rate_answers.py"
    assert "good?" in run(["bash", "-c", script], tiny_service, tmp_path)
