"""Become one engine: read from the registry what it should hold, register it, and turn into vLLM.

The process that was `hone engine` is the engine's afterwards, with its process id and signals: a supervisor sees one
process, and every restart reads the registry anew. Versions that fail the pre-flight check are left out, with the
reason in the record: one bad adapter would keep the engine from starting.

Without a database it starts with the base model alone, when it is told which; the adapter watcher loads the rest.
"""

import asyncio
import logging
import os
import sys
from pathlib import Path

from sqlalchemy.exc import SQLAlchemyError

from feedback import adapters, engines, models
from feedback.adapters import Adapter
from feedback.database import Database
from feedback.errors import HoneError
from feedback.settings import FeedbackSettings
from serving.adapter_files import COPIES, AdapterFiles, AdapterRefused
from serving.base_files import same_base_model
from serving.replica import by_urgency
from serving.settings import ServingSettings
from serving.vllm_process import EngineCommand, accelerator, engine_command, find_engine_python

logger = logging.getLogger(__name__)

DATABASE_TIMEOUT_SECONDS = 15.0


def run_engine(settings: ServingSettings, record: FeedbackSettings) -> None:
    """Replace this process by the engine; returns only by an exception.

    Raises:
        HoneError: there is no interpreter with vLLM, or no base model to serve.
    """
    command = asyncio.run(prepare_engine(settings, record))
    logger.info("Starting vLLM on %s.", command.url)
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(command.argv[0], command.argv, {**os.environ, **command.env})


async def prepare_engine(settings: ServingSettings, record: FeedbackSettings) -> EngineCommand:
    """The engine's command with every version it should hold; the engine is registered, not yet healthy."""
    python = find_engine_python(settings)
    model, loadable = settings.engine_model, dict[str, Path]()
    try:
        async with (
            asyncio.timeout(DATABASE_TIMEOUT_SECONDS),
            Database(record.resolve_database_url()) as database,
        ):
            model = model or await _only_base_model(database)
            loadable = await _prepare_adapters(database, settings, record, model)
    except (OSError, TimeoutError, SQLAlchemyError, HoneError) as error:
        if settings.engine_model is None:
            raise HoneError(
                f"Which base model to serve is not known: {str(error) or 'the database does not answer'}. "
                "Give it: `hone engine --model PATH_OR_NAME`."
            ) from error
        logger.warning("The registry cannot be read, so the engine starts without adapters: %s", error)
    assert model is not None
    model = _absolute_if_local(model)
    return engine_command(settings, model, python=python, adapters=loadable, on=accelerator())


async def _only_base_model(database: Database) -> str:
    async with database.begin() as connection:
        found = sorted({model.base_model for model in await models.every(connection)})
    if len(found) != 1:
        listed = ", ".join(found) or "none"
        raise HoneError(
            f"the registry's models have {len(found)} base models ({listed}), and an engine serves one"
        )
    return found[0]


async def _prepare_adapters(
    database: Database, settings: ServingSettings, record: FeedbackSettings, model: str
) -> dict[str, Path]:
    url = f"http://{settings.engine_host}:{settings.engine_port}"
    files = AdapterFiles(
        settings.engine_adapter_dir or record.absolute_state_dir / COPIES,
        max_lora_rank=settings.engine_max_lora_rank,
    )
    async with database.begin() as connection:
        await engines.report(connection, url, base_model=model, healthy=False, detail="It is starting.")
        wanted = await adapters.wanted_on_engines(connection)
    fitting = [adapter for adapter in by_urgency(wanted) if _fits(adapter, model)]
    loadable: dict[str, Path] = {}
    for adapter in fitting[: settings.engine_max_cpu_loras - 1]:
        try:
            loadable[adapter.adapter_id] = (await files.get(adapter, model)).directory
        except AdapterRefused as refusal:
            logger.warning("%s (%s) is left out: %s", adapter.name, adapter.adapter_id, refusal)
            async with database.begin() as connection:
                await engines.report_adapter(
                    connection, url, adapter.adapter_id, state="failed", detail=str(refusal)
                )
    return loadable


def _fits(adapter: Adapter, model: str) -> bool:
    return bool(adapter.version) and same_base_model(adapter.base_model, model)


def _absolute_if_local(model: str) -> str:
    """A path must mean the same in every process."""
    path = Path(model).expanduser()
    return str(path.absolute()) if path.is_dir() else model
