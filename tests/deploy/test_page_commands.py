"""What the pages tell a person to type into a terminal does what they say, on a record with a history."""

import asyncio
import re
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from deploy.cli import app
from deploy.postgres import EmbeddedPostgres
from docs.generate import settings_classes, walk_commands
from feedback.database import Database
from tests.conftest import copied_database
from tests.deploy.worlds import World, a_world
from tests.house import tree
from tests.house.readme import MAKE, ON_A_RECORD, SETTINGS, Block, command_lines, proved

RUNS_UNTIL_STOPPED = {
    "up": "tests/deploy/test_up.py",
    "gateway": "tests/serving/test_lanes.py",
    "engine": "tests/serving/test_engine_run.py",
    "worker": "tests/retrain/test_worker.py",
    "console": "tests/monitoring/test_console_story.py",
    "demo": "tests/loop/test_demo.py",
}
"""Commands that end when somebody ends them: only read here, and run by the tests that are named."""
LOOKS = ("doctor",)
"""Commands that find something wrong here: no gateway runs on this record."""
DONE, FOUND = (0,), (0, 1)
FOLLOWS = ("--watch", "--follow")
"""Options that wait for a worker to end a run; the commands are run without them."""
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
TYPED = proved(ON_A_RECORD)


def where(block: Block) -> str:
    return block.name


@pytest.fixture(scope="session")
def history(postgres: EmbeddedPostgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a record with a history, to be copied."""
    with copied_database(postgres.url) as url:
        asyncio.run(fill(url, tmp_path_factory.mktemp("files")))
        yield url


async def fill(url: str, files: Path) -> None:
    async with Database(url) as database:
        await a_world(database, files)


@pytest.fixture(scope="session")
def receiver() -> Iterator[str]:
    """The address of somebody who takes every alert."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Receiver)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/hone"
    server.shutdown()
    server.server_close()


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, format: str, *values: Any) -> None:
        """Say nothing."""


@pytest.fixture
def world(
    history: str, receiver: str, reachable_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[World]:
    """A copy of the history, which is the record of what is typed."""
    with copied_database(history) as url:
        monkeypatch.chdir(reachable_directory)
        monkeypatch.setenv("HONE_DATABASE_URL", url)
        monkeypatch.setenv("HONE_STATE_DIR", str(reachable_directory / "state"))
        monkeypatch.setenv("HONE_ALERT_WEBHOOK_URL", receiver)
        monkeypatch.setenv("HONE_ALERT_WEBHOOK_SECRET", SECRET)
        monkeypatch.setenv("COLUMNS", "200")
        yield World(url, reachable_directory)


@pytest.mark.parametrize("page", sorted({one.page for one in TYPED}), ids=tree.name)
def test_the_commands_of_a_page_work_in_their_order(
    page: Path, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for block in TYPED:
        for line in command_lines(block.text) if block.page == page else ():
            typed = world.read(line)
            words = [word for word in typed.words if word not in FOLLOWS]
            world.get_ready(words)
            if words[1] in RUNS_UNTIL_STOPPED:
                continue
            with monkeypatch.context() as patched:
                for name, value in typed.environment.items():
                    patched.setenv(name, value)
                if "HONE_STATE_DIR" in typed.environment:
                    # Another service than this one: with a record of its own.
                    patched.delenv("HONE_DATABASE_URL")
                done = CliRunner().invoke(app, words[1:], prog_name="hone")
            said = f"{block.name}: {line}\n{done.output}\n{done.exception!r}"
            assert done.exit_code in (FOUND if words[1] in LOOKS else DONE), said


def test_what_is_only_read_here_is_run_elsewhere() -> None:
    assert [test for test in RUNS_UNTIL_STOPPED.values() if not (tree.ROOT / test).exists()] == []
    assert set(RUNS_UNTIL_STOPPED) <= {path[1] for path, _ in walk_commands() if len(path) == 2}


@pytest.mark.parametrize("block", proved(SETTINGS), ids=where)
def test_the_settings_of_a_block_are_accepted(
    block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hone.toml").write_text(block.text)
    monkeypatch.setenv("HONE_CONFIG", str(tmp_path / "hone.toml"))
    for settings in settings_classes():
        settings.load()


@pytest.mark.parametrize("block", proved(MAKE), ids=where)
def test_make_knows_what_a_block_asks_of_it(block: Block) -> None:
    commands = dict(walk_commands())
    for line in command_lines(block.text):
        done = subprocess.run(
            ["bash", "-c", line.replace("make", "make --dry-run", 1)],
            cwd=tree.ROOT,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        for typed in re.findall(r"exec \.venv/bin/hone (\w+)([^\n]*)", done.stdout):
            commands["hone", typed[0]].make_context(typed[0], typed[1].split())
