"""The lines that processes write, and `hone logs`, which reads them back."""

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.logs import Log, Wanted, show
from feedback.database import Database
from feedback.errors import HoneError
from tests import fakes
from tests.fakes import fake_engine
from tests.serving.running import running_gateway

PROGRAM = """
import logging, structlog, warnings
from monitoring.logs import set_up
set_up("gateway")
logging.getLogger("uvicorn.error").warning("Invalid HTTP request from %s.", "ada")
about = {"completion_id": "chatcmpl-1", "arm": "candidate"}
logging.getLogger("serving.telling").info("completion %s", "error", extra=about)
structlog.get_logger("retrain.worker").info("run began", run_id="run-1")
logging.getLogger("httpx").info("GET /")
try:
    1 / 0
except ZeroDivisionError:
    logging.getLogger("serving.chat").exception("It broke")
"""


def lines_of(program: str, **environment: str) -> list[str]:
    """What a process writes to its standard error."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": "", **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stderr.splitlines()


def test_every_line_of_a_process_is_json_of_one_shape() -> None:
    said = [json.loads(line) for line in lines_of(PROGRAM)]
    assert [one["message"] for one in said] == [
        "Invalid HTTP request from ada.", "completion error", "run began", "It broke",
    ]  # fmt: skip
    assert [list(one)[:5] for one in said] == [["time", "level", "process", "logger", "message"]] * 4
    assert {one["process"] for one in said} == {"gateway"}
    assert [one["level"] for one in said] == ["warning", "info", "info", "error"]
    assert (said[1]["completion_id"], said[1]["arm"], said[2]["run_id"]) == (
        "chatcmpl-1",
        "candidate",
        "run-1",
    )
    assert "ZeroDivisionError" in said[3]["exception"]


def test_a_person_may_have_words_and_only_the_important_ones() -> None:
    said = lines_of(PROGRAM, HONE_LOG_FORMAT="text", HONE_LOG_LEVEL="warning")
    assert "Invalid HTTP request from ada." in said[0] and not said[0].startswith("{")
    assert not any("run began" in line for line in said)


async def test_a_failed_completion_has_a_line_with_its_ids_and_without_its_words(
    database: Database, database_url: str, state_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trace = {"traceparent": f"00-{'a' * 32}-{'b' * 16}-01"}
    question = [{"role": "user", "content": "my secret question"}]
    async with (
        fake_engine() as engine,
        running_gateway(database, database_url, state_dir, engine.url) as running,
    ):
        with caplog.at_level(logging.INFO, logger="serving.telling"):
            await running.ask(messages=question)
            engine.behave = fakes.refuse(500, "cannot answer 'my secret question'")
            await running.ask(messages=question, headers=trace)
        rows = await running.rows(2)
    [line] = [record.__dict__ for record in caplog.records if record.name == "serving.telling"]
    assert (line["completion_id"], line["trace_id"]) == (rows[1]["completion_id"], "a" * 32)
    assert (line["error_class"], line["model_version"], line["levelname"]) == (
        "model",
        "support@0",
        "WARNING",
    )
    assert "secret" not in str(line)


async def test_texts_are_in_a_line_for_who_asks_for_them(
    database: Database,
    database_url: str,
    state_dir: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HONE_LOG_COMPLETIONS", "all")
    monkeypatch.setenv("HONE_LOG_TEXTS", "true")
    async with (
        fake_engine() as engine,
        running_gateway(database, database_url, state_dir, engine.url) as running,
    ):
        with caplog.at_level(logging.INFO, logger="serving.telling"):
            await running.ask()
    [line] = [record.__dict__ for record in caplog.records if record.name == "serving.telling"]
    assert "How long?" in line["asked"] and "Within 30 days." in line["answered"]


GATEWAY = (
    '{"time":"2026-11-21T10:00:02.5Z","level":"warning","process":"gateway","logger":"l","message":"completion error",'
    '"completion_id":"chatcmpl-7"}\n'
    '{"time":"2026-11-21T10:00:04Z","level":"info","process":"recorder","logger":"l","message":"back"}\n'
)
POSTGRES = "2026-11-21 10:00:03.123 UTC [7] FATAL:  the disk is full\n\tHINT: make room\n"


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """A state directory with logs."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/gateway.log").write_text(GATEWAY)
    (tmp_path / "logs/postgres.log").write_text(POSTGRES)
    return tmp_path


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        (Wanted(), ["completion error", "the disk is full", "make room", "back"]),
        (Wanted(level="warning"), ["completion error", "the disk is full", "make room"]),
        (Wanted(level="error"), ["the disk is full", "make room"]),
        (Wanted(processes=["gateway"]), ["completion error", "back"]),
        (Wanted(completion_id="chatcmpl-7"), ["completion error"]),
    ],
)
def test_lines_of_all_processes_come_in_order_and_filtered(
    written: Path, capsys: pytest.CaptureFixture[str], wanted: Wanted, said: list[str]
) -> None:
    for as_json in (False, True):
        show(written, wanted, lines=100, follow=False, as_json=as_json)
        shown = capsys.readouterr().out.splitlines()
        assert len(shown) == len(said)
        assert all(words in line for words, line in zip(said, shown, strict=True))
        assert not as_json or all(json.loads(line)["level"] for line in shown)


def test_a_log_is_followed_over_its_rotation(written: Path) -> None:
    path = written / "logs/gateway.log"
    log = Log(path)
    assert len(log.read()) == 2
    with path.open("a") as file:
        file.write('{"half":')
    assert log.read() == []
    path.write_text("")
    path.write_text("after\n")
    assert [line.text for line in log.read()] == ["after"]


def test_a_process_without_a_log_is_named(written: Path) -> None:
    with pytest.raises(HoneError, match=r"no log of 'engin'.*gateway, postgres"):
        show(written, Wanted(processes=["engin"]), lines=1, follow=False, as_json=False)
