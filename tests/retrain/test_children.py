"""What the worker starts beside itself ends with it, and leaves nothing behind."""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import psutil
import pytest

from retrain.scratch import scratch, sweep

WORKER = """
import asyncio, os, sys
from pathlib import Path
from retrain.children import start_child

async def work():
    child = await start_child("http.server", "0", log_file=Path(sys.argv[1]), environment=dict(os.environ))
    print(child.pid, flush=True)
    await asyncio.sleep(60)

asyncio.run(work())
"""

CHILD = """
import sys, time
from pathlib import Path
from retrain.children import heed_sigterm
from retrain.scratch import scratch

heed_sigterm()
with scratch(Path(sys.argv[1]), "search") as directory:
    (directory / "adapter.safetensors").write_bytes(b"what people wrote")
    print(directory, flush=True)
    time.sleep(60)
"""


async def started(script: str, argument: Path) -> tuple[asyncio.subprocess.Process, str]:
    """A process of the script, and the first line that it prints."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", script, str(argument)), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    return process, (await process.stdout.readline()).decode().strip()


def is_running(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.skipif(
    sys.platform != "linux", reason="the kernel tells a child of its parent's death on Linux only"
)
async def test_a_child_does_not_outlive_a_worker_that_is_killed(tmp_path: Path) -> None:
    worker, child = await started(WORKER, tmp_path / "child.log")
    assert is_running(int(child))
    worker.kill()
    await worker.wait()
    until = time.monotonic() + 10
    while is_running(int(child)) and time.monotonic() < until:
        await asyncio.sleep(0.05)
    assert not is_running(int(child))


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
async def test_what_was_trained_for_nobody_to_keep_is_gone_however_its_process_ends(
    how: signal.Signals, tmp_path: Path
) -> None:
    process, directory = await started(CHILD, tmp_path)
    sweep(tmp_path)
    assert os.listdir(directory) == ["adapter.safetensors"]
    process.send_signal(how)
    await process.wait()
    left = [Path(directory).name] if how == signal.SIGKILL else []
    assert os.listdir(tmp_path / "scratch") == left
    with scratch(tmp_path, "search") as mine:
        assert os.listdir(tmp_path / "scratch") == [mine.name]
    assert os.listdir(tmp_path / "scratch") == []
