"""Start vLLM's OpenAI server with the engine environment's own interpreter.

Run by file path (`python .../engine_start.py --model ...`); every argument goes to vLLM unread. Needs the
standard library and vLLM, and nothing of Hone: the engine's environment does not have it.

A CUDA build is started as vLLM starts itself. A CPU build would import everything in four processes one after the
other (API server, model inspection, engine core, worker), which is nearly all of its start: here the model is
inspected in the API server, and the engine core is forked from it and runs the worker inside itself. Values that the
caller put in the environment win.

On a CPU an adapter reaches requests that are not its own in two ways: the kernels answer for the base model with an
adapter's weights, once every slot is taken and both meet in a batch; and a NaN stays in the memory that the next
request is given. Both are put right before the first request.

On Linux no process of the engine outlives the one that started it, not even a `kill -9` of the API server: an orphaned
engine core would keep the weights in memory and, forked, the port.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from typing import Any

PR_SET_PDEATHSIG = 1  # linux/prctl.h
CPU_ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # Binding threads to cores fails in containers that hide part of the machine.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # OpenMP threads spin while they wait: as many as cores starve the API server and each other.
    "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) // 2)),
    # With LoRA nothing but one log-probability helper would be compiled, for nine seconds, during a request.
    "TORCH_COMPILE_DISABLE": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",
}


def main() -> None:
    """Serve until SIGTERM or SIGINT."""
    if not is_cpu_build():
        import_module("vllm.entrypoints.launchers.api_server.entry").main()
        return
    for name, value in CPU_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    if sys.platform == "linux":
        multiprocessing.get_context = fork_instead_of_spawn(multiprocessing.get_context)
        os.register_at_fork(after_in_child=die_with_parent)
    # vLLM inspects a model class it has not seen in a process of its own, to keep CUDA out of this one.
    registry = import_module("vllm.model_executor.models.registry")
    setattr(registry, "_run_in_subprocess", run_here)  # noqa: B010 - no type checker here knows the module
    kernels = import_module("vllm.lora.ops.torch_ops")
    base_is_no_adapter(kernels, import_module("vllm.lora.ops.torch_ops.lora_ops"))
    requests_start_clean(import_module("vllm.v1.kv_cache_interface").KVCacheConfig)
    import_module("vllm.entrypoints.launchers.api_server.entry").main()
    # The engine core has ended by now. An ordinary exit would print pages about objects that triton leaks.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def is_cpu_build() -> bool:
    """Whether the vLLM of this environment computes on the CPU."""
    try:
        return "cpu" in version("vllm")
    except PackageNotFoundError:
        return True  # The CPU build is published as `vllm-cpu`.


def fork_instead_of_spawn(get_context: Callable[..., Any]) -> Callable[..., Any]:
    """Return `get_context` with "spawn", on which vLLM's CPU platform insists, answered by "fork"."""

    def get(method: str | None = None) -> Any:
        return get_context("fork" if method == "spawn" else method)

    return get


def run_here(inspect: Callable[[], Any]) -> Any:
    """Inspect a model class in this process."""
    return inspect()


def base_is_no_adapter(*modules: Any) -> None:
    """Make a token of the base model, whose adapter's slot is -1, take nothing from any adapter.

    The CPU kernels read -1 as the last slot (vllm-project/vllm#48421); here they see the other rows only, as on CUDA.
    """
    for name in ("bgmv_shrink", "bgmv_expand", "bgmv_expand_slice"):
        put_right = with_adapters_only(getattr(modules[0], name))
        for module in modules:
            setattr(module, name, put_right)


def with_adapters_only(kernel: Callable[..., None]) -> Callable[..., None]:
    """Run `kernel` on the rows that have an adapter, and leave the output's other rows as they are."""

    def run(inputs: Any, weights: Any, output: Any, slots: Any, *options: Any, **named: Any) -> None:
        rows = slots != -1
        if rows.all():
            kernel(inputs, weights, output, slots, *options, **named)
        elif rows.any():
            part = output[rows]
            kernel(inputs[rows], weights, part, slots[rows], *options, **named)
            output[rows] = part

    return run


def requests_start_clean(cache: Any) -> None:
    """Have every block of the key-value cache zeroed before a request gets it, as vLLM does for some models.

    Attention weighs what lies behind a request's last token with zero, and zero times another request's NaN is NaN.
    """
    cache.needs_kv_cache_zeroing = property(lambda self: True)


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the thread that started it is gone."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
elif __name__ == "__mp_main__":  # A process that vLLM spawned: multiprocessing imports the main file there.
    die_with_parent()
