"""The command that runs one vLLM engine for Hone: which interpreter, which flags, which environment.

Everything here but `find_engine_python` and `accelerator` is a pure function of its arguments. Nothing starts a
process: `hone engine` becomes the engine, `hone up` supervises it.

Refuses runtime features that serve wrong weights or let clients reach files: adapter resolvers, loading in place,
development mode. `engine_arguments` can still pass any flag of vLLM; the last occurrence wins.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from feedback.adapters import BASE_ENGINE_NAME
from feedback.errors import HoneError
from serving.base_files import number_format, read_config
from serving.settings import ServingSettings

START_FILE = Path(__file__).with_name("engine_start.py")
ENGINE_ENVIRONMENT = ".venv-engine"
Accelerator = Literal["cuda", "cpu"]


@dataclass(frozen=True, slots=True)
class EngineCommand:
    """How to start one engine. `env` is what to add to the environment, not all of it."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    url: str


def engine_command(
    settings: ServingSettings,
    model: str,
    *,
    python: Path,
    adapters: Mapping[str, Path] | None = None,
    base_name: str = BASE_ENGINE_NAME,
    on: Accelerator = "cpu",
) -> EngineCommand:
    """The command of one engine.

    Args:
        model: the base model, a directory or a hub name.
        python: an interpreter that has vLLM (`find_engine_python`).
        adapters: what to load before the engine is ready, absolute directory by engine name; each must have passed
            the pre-flight check, because one bad adapter here keeps the engine from starting.
        base_name: under which name the base model is served.
        on: what computes.
    """
    argv = [
        *(str(python), str(START_FILE)),
        *("--model", model, "--served-model-name", base_name),
        *("--host", settings.engine_host, "--port", str(settings.engine_port)),
        *("--max-model-len", str(settings.engine_max_model_length_tokens or -1)),
        *("--shutdown-timeout", str(settings.engine_shutdown_timeout_seconds)),
        *("--enable-lora", "--max-lora-rank", str(settings.engine_max_lora_rank)),
        *(
            "--max-loras",
            str(settings.engine_max_loras),
            "--max-cpu-loras",
            str(settings.engine_max_cpu_loras),
        ),
        *("--enable-prompt-tokens-details", "--disable-uvicorn-access-log"),
        *_flags_of_accelerator(settings, model, on),
    ]
    if settings.engine_tool_parser:
        argv += ["--enable-auto-tool-choice", "--tool-call-parser", settings.engine_tool_parser]
    if adapters:
        modules = [json.dumps({"name": name, "path": str(path)}) for name, path in sorted(adapters.items())]
        argv += ["--lora-modules", *modules]
    url = f"http://{settings.engine_host}:{settings.engine_port}"
    return EngineCommand((*argv, *settings.engine_arguments), _environment(settings, model), url)


def _flags_of_accelerator(settings: ServingSettings, model: str, on: Accelerator) -> list[str]:
    if on == "cuda":
        return ["--gpu-memory-utilization", str(settings.engine_gpu_memory_share)]
    # vLLM would round float32 weights to bfloat16, which most CPUs only emulate.
    return ["--dtype", "float32"] if number_format(read_config(Path(model))) == "float32" else []


def _environment(settings: ServingSettings, model: str) -> dict[str, str]:
    env = {
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1",
        "VLLM_HTTP_TIMEOUT_KEEP_ALIVE": str(settings.engine_http_keep_alive_seconds),
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_CPU_KVCACHE_SPACE": str(settings.engine_cpu_kv_cache_gib),
    }
    if settings.engine_cpu_threads is not None:
        env["OMP_NUM_THREADS"] = str(settings.engine_cpu_threads)
    if settings.engine_api_key is not None:
        # Not an argument: those are visible to every user of the machine.
        env["VLLM_API_KEY"] = settings.engine_api_key.get_secret_value()
    if Path(model).is_dir():
        env["HF_HUB_OFFLINE"] = "1"
    return env


def find_engine_python(settings: ServingSettings) -> Path:
    """The interpreter that has vLLM: the configured one, else `.venv-engine` beside our environment, else our own.

    Raises:
        HoneError: none has it; the message says what to run.
    """
    if settings.engine_python is not None:
        if not os.access(settings.engine_python, os.X_OK):
            raise HoneError(
                f"engine_python = '{settings.engine_python}' is not an executable file; expected the Python of an "
                "environment that has vLLM, such as /opt/engine/bin/python."
            )
        return settings.engine_python.absolute()
    beside = Path(sys.prefix).absolute().parent / ENGINE_ENVIRONMENT / "bin" / "python"
    if beside.exists():
        return beside
    if importlib.util.find_spec("vllm") is not None:
        return Path(sys.executable)
    build = "engine-cuda" if accelerator() == "cuda" else "engine-cpu"
    raise HoneError(
        f"No Python with vLLM: {beside} does not exist and this environment has no vLLM. Run `make up`, or "
        f"`python3 -m venv {beside.parent.parent} && {beside} -m pip install -r requirements/{build}.txt`, or set "
        "HONE_ENGINE_PYTHON to an interpreter that has it."
    )


def accelerator() -> Accelerator:
    """What an engine on this machine would compute with, found without importing torch."""
    if os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1"):
        return "cpu"
    if any(Path("/dev").glob("nvidia[0-9]*")):
        return "cuda"
    # Under Windows' Linux subsystem the device has another name; the tool is there all the same.
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return "cpu"
    try:
        listed = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return "cpu"
    return "cuda" if listed.stdout.startswith("GPU ") else "cpu"
