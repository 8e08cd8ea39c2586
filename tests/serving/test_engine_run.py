"""`hone engine` starts with what the registry wants, and without what would keep it from starting."""

import json
import sys
from functools import partial
from pathlib import Path

import pytest

from feedback import engines, models
from feedback.database import Database
from feedback.errors import HoneError
from feedback.settings import FeedbackSettings
from serving.engine_run import prepare_engine
from serving.settings import ServingSettings
from serving.vllm_process import EngineCommand
from tests.builders import PROJECT
from tests.engine_fixture import small_engine
from tests.ports import free_port
from tests.serving.publishing import copy_of, published
from tests.tiny_model import build_bad_adapter


def settings(**changes: object) -> ServingSettings:
    return small_engine(engine_python=sys.executable, **changes)


def record(database_url: str, state_dir: Path) -> FeedbackSettings:
    return FeedbackSettings.load(database_url=database_url, state_dir=state_dir)


def loaded_at_start(command: EngineCommand) -> dict[str, str]:
    modules = [json.loads(argument) for argument in command.argv if argument.startswith('{"name"')]
    return {module["name"]: module["path"] for module in modules}


async def test_what_the_registry_wants_is_loaded_at_the_start_and_a_bad_version_is_left_out_with_a_reason(
    database: Database, database_url: str, tiny_model: Path, tiny_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    good = await published(database, tiny_model, copy_of(tiny_adapters[0]), tmp_path, state="champion")
    bad = await published(database, tiny_model, partial(build_bad_adapter, "nan", tiny_model), tmp_path)
    chosen = settings()
    command = await prepare_engine(chosen, record(database_url, tmp_path))
    assert command.argv[command.argv.index("--model") + 1] == str(tiny_model)
    assert loaded_at_start(command) == {good.adapter_id: good.path}
    async with database.begin() as connection:
        [engine] = await engines.every(connection)
        [standing] = await engines.standing(connection, bad.adapter_id)
    assert (engine.engine, engine.healthy, engine.detail) == (command.url, False, "It is starting.")
    assert standing.state == "failed" and "NaN" in str(standing.detail)


async def test_versions_of_another_base_model_stay_away(
    database: Database, database_url: str, tiny_model: Path, tiny_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    await published(database, tiny_model, copy_of(tiny_adapters[0]), tmp_path)
    command = await prepare_engine(settings(engine_model="Qwen/Qwen3-0.6B"), record(database_url, tmp_path))
    assert loaded_at_start(command) == {}


async def test_two_base_models_are_one_too_many_to_guess_from(
    database: Database, database_url: str, tmp_path: Path
) -> None:
    async with database.begin() as connection:
        for name in ("one", "two"):
            await models.create(connection, project=PROJECT, model=name, base_model=f"base/{name}", by="test")
    with pytest.raises(HoneError, match=r"2 base models \(base/one, base/two\).*hone engine --model"):
        await prepare_engine(settings(), record(database_url, tmp_path))


async def test_without_a_database_the_engine_starts_with_the_base_model_it_is_told(tmp_path: Path) -> None:
    nowhere = record(f"postgresql://nobody@127.0.0.1:{free_port()}/nothing", tmp_path)
    command = await prepare_engine(settings(engine_model=str(tmp_path)), nowhere)
    assert command.argv[command.argv.index("--model") + 1] == str(tmp_path)
    assert loaded_at_start(command) == {}
    with pytest.raises(HoneError, match=r"Which base model to serve is not known.*--model PATH_OR_NAME"):
        await prepare_engine(settings(), nowhere)
