"""Look at an adapter's files before the engine does: vLLM answers 200 to most of what it then serves wrongly.

`check_adapter` reads the files as numbers only (safetensors and JSON, no torch) and returns every problem it finds,
each as a sentence that says what was found, what was expected and what to do. An adapter without problems fits the
base model in name, keys and shapes, holds finite numbers, scales as its configuration says and uses nothing that
vLLM ignores or refuses.

It cannot know whether an adapter is any good, and it compares shapes only where the base model's files are on this
machine; what it could not compare is listed in `unchecked`. The probe is the second look.
"""

import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, deserialize

from serving.base_files import BaseModel, read_base_model, same_base_model

WEIGHTS = "adapter_model.safetensors"
CONFIGURATION = "adapter_config.json"
RETRAIN = "Train it again with a plain LoRA recipe."

TENSOR = re.compile(
    r"base_model\.model\.(?P<module>.+)\.lora_(?P<embedding>embedding_)?(?P<factor>[AB])(?:\.weight)?"
)
# PEFT writes a copy of the base layer beside an adapter of the embeddings; vLLM skips it.
COPY_OF_BASE = re.compile(r"base_model\.model\..+\.base_layer\.weight")

REFUSED_OPTIONS = {
    "use_dora": "DoRA",
    "lora_bias": "a bias in its LoRA layers",
    "modules_to_save": "whole retrained modules (modules_to_save)",
    "trainable_token_indices": "retrained token embeddings (trainable_token_indices)",
    "layer_replication": "replicated layers",
    "target_parameters": "LoRA on bare parameters (target_parameters)",
    "alora_invocation_tokens": "an activated LoRA (alora_invocation_tokens)",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "arrow_config": "an Arrow router",
}
REFUSED_INITIALISATIONS = ("pissa", "olora", "corda", "loftq", "eva", "lora_ga", "orthogonal")
LARGEST_FLOAT16 = 65504.0
"""Values above become infinite when the engine casts an adapter to float16."""


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. An adapter with problems must not reach an engine.

    `changes_output` is False for an adapter whose B factors are all zero: it may answer exactly as the base model.
    """

    directory: Path
    problems: tuple[str, ...] = ()
    unchecked: tuple[str, ...] = ()
    changes_output: bool = True

    @property
    def passed(self) -> bool:
        """Whether the engine may load it."""
        return not self.problems


@dataclass(frozen=True, slots=True)
class Factor:
    """One LoRA matrix: `A` is (rank, inputs), `B` is (outputs, rank); those of embeddings are transposed."""

    module: str
    factor: str
    embedding: bool
    shape: tuple[int, ...]
    largest: float
    """Largest absolute value; infinite or NaN when a value is not finite."""


def check_adapter(directory: Path, *, base_model: str, max_lora_rank: int) -> Report:
    """Read every byte of an adapter and say what keeps it from being served.

    Args:
        base_model: the model under the adapter, as the engine was given it: a directory or a hub name.
        max_lora_rank: the engine's limit.
    """
    config, problem = _read_configuration(directory)
    if config is None:
        return Report(directory, (problem,))
    problems = list(_problems_of_options(config, base_model))
    factors, found = _read_factors(directory)
    problems += found
    if not factors:
        return Report(directory, tuple(problems))
    base = read_base_model(base_model)
    problems += _problems_of_factors(factors, config, max_lora_rank)
    problems += _problems_of_values(factors, base)
    unchecked: tuple[str, ...] = ()
    if base.shapes:
        problems += _problems_of_shapes(factors, base, base_model)
    else:
        unchecked = (
            f"Keys and shapes were not compared: this machine has no safetensors files of '{base_model}'.",
        )
    changes = any(factor.factor == "B" and factor.largest > 0 for factor in factors)
    return Report(directory, tuple(problems), unchecked, changes)


def _read_configuration(directory: Path) -> tuple[dict[str, Any] | None, str]:
    path = directory / CONFIGURATION
    try:
        config = json.loads(path.read_bytes())
    except OSError as error:
        return None, (
            f"{path} cannot be read ({os.strerror(error.errno or 0)}); an adapter has {CONFIGURATION} and {WEIGHTS}. "
            "Publish the whole directory that PEFT saved."
        )
    except ValueError as error:
        return None, f"{path} is not JSON: {error}. Publish the file that PEFT saved."
    if not isinstance(config, dict):
        return (
            None,
            f"{path} holds a {type(config).__name__}, expected an object. Publish the file that PEFT saved.",
        )
    return config, ""


def _problems_of_options(config: Mapping[str, Any], base_model: str) -> Iterator[str]:
    kind = config.get("peft_type")
    if kind != "LORA":
        yield f"{CONFIGURATION} says peft_type = {kind!r}; the engine serves only 'LORA'. {RETRAIN}"
    for option, meaning in REFUSED_OPTIONS.items():
        if config.get(option):
            found = f"{CONFIGURATION} has {option} = {_short(config[option])}"
            yield f"{found}: the engine cannot serve {meaning}. {RETRAIN}"
    if config.get("bias", "none") != "none":
        yield f"{CONFIGURATION} has bias = {config['bias']!r}; the engine serves only bias = 'none'. {RETRAIN}"
    start = str(config.get("init_lora_weights", "")).lower()
    if start.startswith(REFUSED_INITIALISATIONS):
        yield (
            f"{CONFIGURATION} has init_lora_weights = {start!r}, which changes the base weights that the engine keeps. "
            "Train with init_lora_weights = true, or convert the adapter with PEFT."
        )
    if not config.get("target_modules"):
        yield f"{CONFIGURATION} names no target_modules, so it adapts nothing. Name the linear layers, and train again."
    trained_on = config.get("base_model_name_or_path")
    if trained_on and not same_base_model(str(trained_on), base_model):
        yield (
            f"It was trained on base model '{trained_on}', but the engine serves '{base_model}'. "
            f"Point an engine at '{trained_on}', or train on '{base_model}'."
        )


def _read_factors(directory: Path) -> tuple[list[Factor], list[str]]:
    path = directory / WEIGHTS
    try:
        tensors = _tensors(path)
    except FileNotFoundError:
        others = sorted(file.name for file in directory.glob("*.bin")) + sorted(
            file.name for file in directory.glob("*.pt")
        )
        instead = f" There is {', '.join(others)}, which can run code when it is read." if others else ""
        return [], [f"{path} does not exist.{instead} Save the adapter with safe_serialization=True."]
    except OSError as error:
        return [], [
            f"{path} cannot be read: {os.strerror(error.errno or 0)}. Check the file's owner and disk."
        ]
    except SafetensorError as error:
        return [], [f"{path} is not a whole safetensors file: {error}. Copy or publish it again."]
    factors, strange = [], []
    for name, tensor in tensors:
        match = TENSOR.fullmatch(name)
        if match is not None and len(tensor["shape"]) == 2:
            factors.append(
                Factor(
                    match["module"],
                    match["factor"],
                    bool(match["embedding"]),
                    tuple(tensor["shape"]),
                    largest_value(tensor["data"], tensor["dtype"]),
                )
            )
        elif COPY_OF_BASE.fullmatch(name) is None:
            strange.append(name)
    problems = []
    if strange:
        problems.append(
            f"{WEIGHTS} has {_listed(strange)}, which the engine would ignore or refuse; expected only "
            f"two-dimensional 'base_model.model.<layer>.lora_A.weight' and '...lora_B.weight'. {RETRAIN}"
        )
    if not factors:
        problems.append(f"{WEIGHTS} holds no LoRA matrices. Train again; the run's log says what happened.")
    return factors, problems


def _tensors(path: Path) -> list[tuple[str, dict[str, Any]]]:
    read: Callable[[bytes], list[tuple[str, dict[str, Any]]]] = deserialize  # It comes without annotations.
    return read(path.read_bytes())


def largest_value(data: bytes | bytearray, dtype: str) -> float:
    """Largest absolute value of a safetensors buffer; infinity when one is NaN, infinite, or of no floating type."""
    if dtype == "BF16":
        # The upper half of a float32.
        values = (np.frombuffer(data, dtype="<u2").astype(np.uint32) << 16).view(np.float32)
    elif dtype in ("F16", "F32", "F64"):
        values = np.frombuffer(data, dtype=f"<f{int(dtype[1:]) // 8}")
    else:
        return float("inf")
    if values.size == 0:
        return 0.0
    if not np.isfinite(values).all():
        return float("inf")
    return float(max(values.max(), -values.min()))


def _problems_of_factors(
    factors: list[Factor], config: Mapping[str, Any], max_lora_rank: int
) -> Iterator[str]:
    pairs: dict[str, dict[str, Factor]] = {}
    for factor in factors:
        pairs.setdefault(factor.module, {})[factor.factor] = factor
    alone = [f"{module}.lora_{next(iter(pair))}" for module, pair in pairs.items() if len(pair) == 1]
    if alone:
        yield f"{WEIGHTS} has {_listed(alone)} without the other factor; each layer needs lora_A and lora_B. {RETRAIN}"
    wrong = []
    too_high = 0
    for module, pair in pairs.items():
        ranks = {_rank(factor) for factor in pair.values()}
        expected = expected_rank(module, config)
        if ranks != {expected}:
            wrong.append(f"{module} has {'/'.join(map(str, sorted(ranks)))} instead of {expected}")
        too_high = max(too_high, *(rank for rank in ranks if rank > max_lora_rank), 0)
    if wrong:
        yield (
            f"The ranks in {WEIGHTS} are not those of {CONFIGURATION} ({_listed(wrong)}), so it would be scaled "
            "wrongly. Publish the two files of one training run."
        )
    if too_high:
        yield (
            f"Its rank is {too_high}, but the engine was started for at most {max_lora_rank}. "
            f"Train with r <= {max_lora_rank}, or set [serving] engine_max_lora_rank and restart the engine."
        )
    if not _is_number(config.get("lora_alpha")):
        yield f"{CONFIGURATION} has lora_alpha = {config.get('lora_alpha')!r}; expected a number. {RETRAIN}"


def expected_rank(module: str, config: Mapping[str, Any]) -> int | None:
    """The rank that the configuration gives a layer: the first of `rank_pattern` that names its end, else `r`.

    None when the configuration is not one that PEFT writes.
    """
    patterns = config.get("rank_pattern") or {}
    rank = config.get("r")
    if not isinstance(patterns, dict):
        return None
    for pattern, own_rank in patterns.items():
        try:
            if re.match(rf"(.*\.)?({pattern})$", module):
                rank = own_rank
                break
        except re.error:
            return None
    return rank if isinstance(rank, int) else None


def _problems_of_values(factors: list[Factor], base: BaseModel) -> Iterator[str]:
    broken = [
        f"{factor.module}.lora_{factor.factor}" for factor in factors if not np.isfinite(factor.largest)
    ]
    if broken:
        yield (
            f"{WEIGHTS} has values that are NaN, infinite or no floating-point numbers in {_listed(broken)}. "
            "Train again with a lower learning rate."
        )
    overflow = [
        f"{factor.module}.lora_{factor.factor}"
        for factor in factors
        if np.isfinite(factor.largest) and factor.largest > LARGEST_FLOAT16
    ]
    if overflow and base.dtype == "float16":
        yield (
            f"{WEIGHTS} has values above {LARGEST_FLOAT16:g} in {_listed(overflow)}; the engine casts them to the base "
            "model's float16, where they are infinite. Train again with a lower learning rate."
        )


def _problems_of_shapes(factors: list[Factor], base: BaseModel, base_model: str) -> Iterator[str]:
    unknown, wrong = [], []
    for factor in factors:
        if not base.has_module(factor.module):
            unknown.append(factor.module)
            continue
        shape = base.shape(factor.module)
        if shape is None:
            continue  # A quantised layer: its stored shape is not that of the matrix.
        seen, expected = _outer_size(factor), _expected_size(factor, shape)
        if seen != expected:
            wrong.append(f"{factor.module}.lora_{factor.factor} is made for {seen} instead of {expected}")
    if unknown:
        yield (
            f"{WEIGHTS} names layers that '{base_model}' does not have: {_listed(sorted(set(unknown)))}. The engine "
            "would ignore them and answer as the base model. Train with the model class that is served."
        )
    if wrong:
        yield (
            f"Shapes do not fit '{base_model}': {_listed(wrong)}. "
            "Train on this base model, or serve the one it was trained on."
        )


def _rank(factor: Factor) -> int:
    return factor.shape[0] if factor.factor == "A" else factor.shape[1]


def _outer_size(factor: Factor) -> int:
    return factor.shape[1] if factor.factor == "A" else factor.shape[0]


def _expected_size(factor: Factor, weight: tuple[int, int]) -> int:
    outputs, inputs = weight
    if factor.embedding:
        outputs, inputs = inputs, outputs  # An embedding's weight is (tokens, width): tokens come in.
    return inputs if factor.factor == "A" else outputs


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _listed(names: list[str], shown: int = 3) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return ", ".join(names[:shown]) + more


def _short(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
