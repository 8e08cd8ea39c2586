"""The base model's files as this machine has them: layers and their shapes, and whether two names mean one model.

Reads headers, never weights, and never the network: a hub name is looked up in the local cache of the hub only.
"""

import filecmp
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

FLOATING = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


@dataclass(frozen=True, slots=True)
class BaseModel:
    """What is known of a base model. `shapes` is empty when its safetensors files are not on this machine.

    `shapes` maps a layer such as `model.layers.0.mlp.up_proj` to (outputs, inputs) of its weight, or to None where
    the stored weight is packed (quantised) or is no matrix.
    """

    dtype: str | None = None
    shapes: Mapping[str, tuple[int, int] | None] = field(default_factory=dict)

    def has_module(self, module: str) -> bool:
        """Whether the model has a layer of this name."""
        return module in self.shapes

    def shape(self, module: str) -> tuple[int, int] | None:
        """(outputs, inputs) of a layer, or None if it is not known."""
        return self.shapes[module]


def read_base_model(model: str) -> BaseModel:
    """Read the headers of a base model, given as a directory or a hub name."""
    directory = find_local_files(model)
    if directory is None:
        return BaseModel()
    config = read_config(directory)
    shapes: dict[str, tuple[int, int] | None] = {}
    for file in sorted(directory.glob("*.safetensors")):
        shapes |= _shapes(file)
    if shapes and config.get("tie_word_embeddings") and "model.embed_tokens" in shapes:
        shapes.setdefault("lm_head", shapes["model.embed_tokens"])
    return BaseModel(number_format(config), shapes)


def read_config(directory: Path) -> dict[str, Any]:
    """The model's config.json; empty when it cannot be read."""
    try:
        config = json.loads((directory / "config.json").read_bytes())
    except (OSError, ValueError):
        return {}
    return config if isinstance(config, dict) else {}


def number_format(config: Mapping[str, Any]) -> str | None:
    """The number format that a config.json names, such as `float32`."""
    dtype = config.get("dtype") or config.get("torch_dtype")
    return str(dtype) if dtype else None


def find_local_files(model: str) -> Path | None:
    """The directory of a model that is on this machine: the path itself, else the hub's cache."""
    directory = Path(model).expanduser()
    if directory.is_dir():
        return directory
    folder = hub_cache() / f"models--{model.replace('/', '--')}"
    try:
        revision = (folder / "refs" / "main").read_text().strip()
    except OSError:
        return None
    snapshot = folder / "snapshots" / revision
    return snapshot if snapshot.is_dir() else None


def hub_cache() -> Path:
    """Where huggingface_hub keeps what it downloaded."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or home / "hub")


def same_base_model(one: str, other: str) -> bool:
    """Whether two names mean the same weights: equal names, one directory, or equal files in two.

    Blocks for as long as it takes to read both models when they are two directories of equal sizes.
    """
    if one == other:
        return True
    here, there = find_local_files(one), find_local_files(other)
    if here is None or there is None:
        return False
    if here.samefile(there):
        return True
    names = sorted(file.name for file in here.glob("*.safetensors"))
    if not names or names != sorted(file.name for file in there.glob("*.safetensors")):
        return False
    match, _, _ = filecmp.cmpfiles(here, there, ["config.json", *names], shallow=False)
    return len(match) == len(names) + 1


def _shapes(file: Path) -> dict[str, tuple[int, int] | None]:
    try:
        with safe_open(file, "numpy") as tensors:
            shapes: dict[str, tuple[int, int] | None] = {}
            for name in tensors.keys():  # noqa: SIM118 - not a mapping
                module, _, kind = name.rpartition(".")
                tensor = tensors.get_slice(name)
                shape = tuple(tensor.get_shape())
                is_matrix = kind == "weight" and len(shape) == 2 and tensor.get_dtype() in FLOATING
                if is_matrix or module not in shapes:
                    shapes[module] = (shape[0], shape[1]) if is_matrix else None
            return shapes
    except (OSError, SafetensorError):
        return {}
