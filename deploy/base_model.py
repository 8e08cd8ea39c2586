"""Which base model this machine serves and trains: the one asked for, the record's, or the demonstration model."""

import asyncio
import sys
from pathlib import Path

from deploy import record
from deploy.progress import Steps
from deploy.services import Addresses
from deploy.settings import Settings
from feedback.database import Database
from feedback.errors import HoneError

DEMO_MODEL = Path("models") / "fernway-shop"
_BUILD = """
import sys
from pathlib import Path
from deploy.demo.model import build_demo_model
build_demo_model(Path(sys.argv[1]), progress=lambda done, what: print(done, what, flush=True))
"""


async def choose_base_model(
    settings: Settings, database: Database, state_dir: Path, addresses: Addresses, steps: Steps
) -> str:
    """The base model as a directory's absolute path or a hub name; builds the demonstration model if need be.

    Raises:
        HoneError: engines elsewhere serve we do not know what, or the demonstration model cannot be built.
    """
    asked = settings.serving.engine_model
    if asked is not None:
        return _path_or_name(asked)
    demo = state_dir / DEMO_MODEL
    known = await record.find_base_model(database)
    if known is not None and known != str(demo):
        return known
    if not addresses.local_engine and known is None:
        raise HoneError(
            f"HONE_ENGINE_URLS names engines ({', '.join(addresses.engine_urls)}), but not their base model. "
            "Start once with --model PATH_OR_NAME, the same that the engines were started with."
        )
    await _build_demo_model(demo, steps)
    return str(demo)


def _path_or_name(asked: str) -> str:
    path = Path(asked).expanduser()
    if path.exists():
        return str(path.absolute())
    if asked.startswith(("/", ".", "~")):
        raise HoneError(
            f"There is no model at '{asked}': the directory does not exist. Expected a directory with config.json and "
            "safetensors files, or a name on the Hugging Face hub such as Qwen/Qwen3-0.6B."
        )
    return asked


async def _build_demo_model(directory: Path, steps: Steps) -> None:
    """Build it in a process of its own: torch stays out of the supervisor."""
    from deploy.demo.model import is_built

    if is_built(directory):
        return
    with steps.step("Demonstration model", done=f"built in {directory}") as step:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-c", _BUILD, str(directory)),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
        try:
            errors = asyncio.create_task(_read_all(process.stderr))
            assert process.stdout is not None
            async for line in process.stdout:
                share, _, what = line.decode().strip().partition(" ")
                step.update(what, float(share))
            status = await process.wait()
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if status != 0:
            raise HoneError(
                f"The demonstration model could not be built: {(await errors)[-1000:].strip()}\n"
                "Install what training needs with `pip install 'hone-llm[train]'`, "
                "or serve another model with --model."
            )


async def _read_all(stream: asyncio.StreamReader | None) -> str:
    assert stream is not None
    return (await stream.read()).decode(errors="replace")
