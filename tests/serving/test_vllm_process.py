"""The engine's command says what the settings say, and the real engine starts, answers and ends by it."""

import json
import os
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from feedback.errors import HoneError
from serving.vllm_process import EngineCommand, accelerator, engine_command, find_engine_python
from tests.engine_fixture import RunningEngine, run_engine, small_engine
from tests.tiny_model import copy_adapter

# The first test of a session waits for the engine to start, which a busy machine draws out.
pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

PYTHON = Path("/opt/engine/bin/python")


def value_of(command: EngineCommand, flag: str) -> str:
    return command.argv[command.argv.index(flag) + 1]


def test_the_command_says_what_the_settings_say() -> None:
    settings = small_engine(engine_port=8123, engine_max_loras=3, engine_max_lora_rank=32)
    command = engine_command(settings, "Qwen/Qwen3-0.6B", python=PYTHON)
    assert command.argv[0] == str(PYTHON)
    assert command.url == "http://127.0.0.1:8123"
    expected = {
        "--model": "Qwen/Qwen3-0.6B",
        "--served-model-name": "base",
        "--port": "8123",
        "--max-loras": "3",
        "--max-cpu-loras": "8",
        "--max-lora-rank": "32",
        "--shutdown-timeout": "10",
    }
    assert {flag: value_of(command, flag) for flag in expected} == expected
    assert command.env["VLLM_HTTP_TIMEOUT_KEEP_ALIVE"] == "120"
    assert command.env["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"


def test_adapters_are_handed_over_with_names_that_need_no_escaping() -> None:
    adapters = {
        "support--v2-bb": Path("/a/support--v2-bb"),
        "support--v1-aa": Path('/a/with "quotes" and space'),
    }
    command = engine_command(small_engine(), "tiny", python=PYTHON, adapters=adapters)
    start = command.argv.index("--lora-modules") + 1
    assert [json.loads(module) for module in command.argv[start : start + 2]] == [
        {"name": "support--v1-aa", "path": '/a/with "quotes" and space'},
        {"name": "support--v2-bb", "path": "/a/support--v2-bb"},
    ]


def test_an_engine_without_adapters_gets_no_empty_list_of_them() -> None:
    assert "--lora-modules" not in engine_command(small_engine(), "tiny", python=PYTHON).argv


def test_extra_arguments_come_last_so_that_they_win() -> None:
    settings = small_engine(engine_arguments=("--max-loras", "9"))
    assert engine_command(settings, "tiny", python=PYTHON).argv[-2:] == ("--max-loras", "9")


def test_tools_are_read_as_the_setting_says_or_not_at_all() -> None:
    assert value_of(engine_command(small_engine(), "tiny", python=PYTHON), "--tool-call-parser") == "hermes"
    without = engine_command(small_engine(engine_tool_parser=""), "tiny", python=PYTHON)
    assert not {"--tool-call-parser", "--enable-auto-tool-choice"} & set(without.argv)


def test_a_key_travels_in_the_environment_and_not_in_the_arguments() -> None:
    command = engine_command(small_engine(engine_api_key="s3cret"), "tiny", python=PYTHON)
    assert command.env["VLLM_API_KEY"] == "s3cret"
    assert not any("s3cret" in argument for argument in command.argv)


def test_a_gpu_leaves_memory_for_training_and_keeps_its_own_number_format(tiny_model: Path) -> None:
    on_gpu = engine_command(small_engine(), str(tiny_model), python=PYTHON, on="cuda")
    assert value_of(on_gpu, "--gpu-memory-utilization") == "0.6"
    assert "--dtype" not in on_gpu.argv


def test_a_cpu_serves_float32_weights_as_they_are(tiny_model: Path) -> None:
    on_cpu = engine_command(small_engine(), str(tiny_model), python=PYTHON, on="cpu")
    assert value_of(on_cpu, "--dtype") == "float32"


def test_a_local_model_is_served_without_asking_the_hub(tiny_model: Path) -> None:
    assert engine_command(small_engine(), str(tiny_model), python=PYTHON).env["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in engine_command(small_engine(), "Qwen/Qwen3-0.6B", python=PYTHON).env


def test_a_configured_interpreter_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(HoneError, match=r"no-python.*expected the Python"):
        find_engine_python(small_engine(engine_python=tmp_path / "no-python"))


def test_without_any_vllm_the_error_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    with pytest.raises(HoneError, match=r"make up.*HONE_ENGINE_PYTHON"):
        find_engine_python(small_engine())


def test_the_environment_beside_ours_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / ".venv-engine" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.symlink_to(sys.executable)
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    assert find_engine_python(small_engine()) == python


def test_a_hidden_gpu_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert accelerator() == "cpu"


def test_the_engine_serves_the_base_model_under_its_name(engine: RunningEngine) -> None:
    served = httpx.get(f"{engine.url}/v1/models").json()["data"]
    assert {"id": "base", "root": str(engine.model)}.items() <= served[0].items()


def test_an_engine_starts_with_adapters_ends_when_asked_and_leaves_nothing_when_killed(
    tiny_model: Path, tiny_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    adapter = copy_adapter(tiny_adapters[0], tmp_path / "support--v1-aaaaaaaa")
    with run_engine(tiny_model, tmp_path, adapters={adapter.name: adapter}) as engine:
        served = {model["id"]: model["root"] for model in httpx.get(f"{engine.url}/v1/models").json()["data"]}
        assert served == {"base": str(tiny_model), adapter.name: str(adapter)}
        assert engine.stop() == 0
        assert "leaked" not in engine.last_words()

        engine.start()
        assert engine.process is not None
        family = psutil.Process(engine.process.pid).children(recursive=True)
        assert family
        engine.kill()
        gone, alive = psutil.wait_procs(family, timeout=60)
        assert not alive, "an orphaned engine core keeps the port and the memory"
        assert os.getpid() not in {process.pid for process in gone}
        started = time.monotonic()
        while engine.is_healthy():
            assert time.monotonic() - started < 60
