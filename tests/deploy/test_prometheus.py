"""The rules and dashboards that Hone ships, in a real Prometheus that scrapes a real gateway."""

import asyncio
import re
import shutil
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import orjson
import pytest
import yaml

from docs.generate import all_metrics
from feedback.database import Database
from tests.fakes import fake_engine, refuse
from tests.ports import free_port
from tests.serving.running import running_gateway

DEPLOY = Path(__file__).parents[2] / "deploy"
RULES = DEPLOY / "prometheus/rules.yaml"
DASHBOARD = orjson.loads((DEPLOY / "grafana/hone.json").read_bytes())
NAME = re.compile(r"\bhone_[a-z_]+")

prometheus = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="apt-get install prometheus brings the real one"
)


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def panel_queries() -> list[str]:
    """What the panels ask, for every project and a short window, as Grafana would fill them in."""
    asked = [target["expr"] for panel in DASHBOARD["panels"] for target in panel["targets"]]
    return [query.replace("$project", ".*").replace("[5m]", "[30s]") for query in asked]


def test_rules_and_panels_name_only_metrics_that_exist() -> None:
    known = {metric.name for metric in all_metrics()}
    used = {
        name
        for text in (*panel_queries(), *(rule["expr"] for rule in rules()))
        for name in NAME.findall(text)
    }
    assert {re.sub(r"_(bucket|sum|count)$", "", name) for name in used} <= known


@prometheus
def test_promtool_accepts_the_rules_and_the_configuration() -> None:
    for what, path in (("rules", RULES), ("config", DEPLOY / "prometheus/prometheus.yaml")):
        done = subprocess.run(
            ["promtool", "check", what, str(path)], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stdout + done.stderr


@prometheus
@pytest.mark.parametrize(
    ("failing", "raised"),
    [
        ("model", {"HoneModelFails"}),
        ("unknown", {"HoneModelFails"}),
        ("infrastructure", {"HoneInfrastructureFails"}),
        ("caller", {"HoneCallersFail"}),
    ],
)
def test_each_class_of_failure_raises_the_alert_that_is_its_own(
    tmp_path: Path, failing: str, raised: set[str]
) -> None:
    labels = 'project="shop", model_version="support@7"'
    every = {"HoneModelFails", "HoneInfrastructureFails", "HoneCallersFail"}
    series = [
        {"series": f'hone_requests_total{{{labels}, status="ok"}}', "values": "0+60x60"},
        {"series": f'hone_errors_total{{{labels}, class="{failing}"}}', "values": "0+30x60"},
    ]
    told = [{"labels": f'ALERTS{{alertname="{name}"}}', "value": 1} for name in sorted(raised)]
    query = f'count by (__name__, alertname) (ALERTS{{alertstate="firing", alertname=~"{"|".join(every)}"}})'
    check = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": series,
                "promql_expr_test": [{"expr": query, "eval_time": "50m", "exp_samples": told}],
            }
        ],
    }
    (tmp_path / "check.yaml").write_text(yaml.safe_dump(check))
    command = ["promtool", "test", "rules", str(tmp_path / "check.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@asynccontextmanager
async def a_prometheus(directory: Path, target: str) -> AsyncIterator[httpx.AsyncClient]:
    """Prometheus on the shipped rules and configuration, looking every 200 ms."""
    shipped = yaml.safe_load((DEPLOY / "prometheus/prometheus.yaml").read_text())
    shipped["global"] = {"scrape_interval": "200ms", "evaluation_interval": "200ms"}
    shipped["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    shipped["scrape_configs"] = shipped["scrape_configs"][:1]
    (directory / "prometheus.yaml").write_text(yaml.safe_dump(shipped))
    shutil.copy(RULES, directory / "rules.yaml")
    port = free_port()
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={directory / 'prometheus.yaml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as client:
            await _until_ready(client)
            yield client
    finally:
        process.terminate()
        await process.wait()


async def _until_ready(client: httpx.AsyncClient) -> None:
    """Prometheus refuses connections at first, and then answers 503 until it has loaded its rules."""
    for _ in range(600):
        with suppress(httpx.TransportError):
            if (await client.get("/-/ready")).is_success:
                return
        await asyncio.sleep(0.1)
    raise AssertionError("Prometheus was not ready within a minute.")


async def ask(client: httpx.AsyncClient, query: str) -> list[dict[str, Any]]:
    answer = (await client.get("/api/v1/query", params={"query": query})).json()
    assert answer["status"] == "success", f"{query}: {answer}"
    found: list[dict[str, Any]] = answer["data"]["result"]
    return found


async def until_scraped(client: httpx.AsyncClient, query: str) -> list[dict[str, Any]]:
    for _ in range(300):
        if found := await ask(client, query):
            return found
        await asyncio.sleep(0.1)
    raise AssertionError(f"Prometheus never saw {query}")


@prometheus
async def test_prometheus_scrapes_a_gateway_evaluates_the_rules_and_answers_every_panel(
    database: Database, database_url: str, state_dir: Path, tmp_path: Path
) -> None:
    async with (
        fake_engine() as engine,
        running_gateway(database, database_url, state_dir, engine.url) as running,
        a_prometheus(tmp_path, running.url.removeprefix("http://")) as client,
    ):
        well, engine.behave = engine.behave, refuse(500)
        assert (await running.ask()).status_code >= 500
        engine.behave = well
        await running.ask(stream=True)
        await until_scraped(client, 'hone_requests_total{status="ok"}')
        for _ in range(5):
            await running.ask(stream=True)
            await running.ask()
            await asyncio.sleep(0.3)
        for query in panel_queries():
            assert await until_scraped(client, query), query
        for rule in rules():
            await ask(client, rule["expr"])
        await until_scraped(client, "hone:requests:rate5m")
        state = (await client.get("/api/v1/rules")).json()["data"]["groups"]
    unhealthy = [rule["name"] for group in state for rule in group["rules"] if rule["health"] == "err"]
    assert unhealthy == []
