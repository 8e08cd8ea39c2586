"""How much memory a training will need, before it starts. An estimate from sizes on disk, not a measurement.

Counted: the base model's weights (twice where a second copy is the reference), the adapter with gradients and Adam's
two moments, the activations of one batch, and what the libraries take. Shapes are read from the headers of the
safetensors files; nothing is loaded. A base model that is not on this disk cannot be estimated.

Activations follow "Reducing Activation Recomputation in Large Transformer Models" (arXiv 2205.05198, eq. 1 and 5):
about 34 bytes at 16 bits per token, layer and hidden unit, or 2 with recomputation, where one layer is whole at a time.
"""

import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from retrain.recipe import Recipe
from retrain.validation import COLUMNS

LIBRARIES_BYTES = {"cpu": 600 * 2**20, "cuda": 900 * 2**20}
"""Python with torch, transformers and TRL; on an accelerator, its context and kernels."""
ADAPTER_BYTES = 16
"""Of each LoRA parameter: weight, gradient and two moments in 32 bits."""
QUANTISED_BYTES = 0.56
"""Of each weight in 4 bits, with its scales."""
CHARACTERS_PER_TOKEN = 2.5
"""A cautious guess for text that is not tokenised yet."""


@dataclass(frozen=True, slots=True)
class MemoryEstimate:
    """Bytes by what takes them."""

    weights: int
    reference: int
    adapter: int
    activations: int
    libraries: int

    @property
    def total(self) -> int:
        """All together."""
        return self.weights + self.reference + self.adapter + self.activations + self.libraries

    def sentence(self, free_bytes: int) -> str:
        """What is needed and what there is."""
        parts = {
            "weights": self.weights,
            "reference": self.reference,
            "adapter": self.adapter,
            "activations": self.activations,
            "libraries": self.libraries,
        }
        told = ", ".join(f"{name} {_size(number)}" for name, number in parts.items() if number)
        return f"Training needs about {_size(self.total)} of memory ({told}); {_size(free_bytes)} are free."


def estimate(recipe: Recipe, rows: Sequence[Mapping[str, Any]], device: str) -> MemoryEstimate | None:
    """What training `rows` with `recipe` takes; None for a base model that is not a directory here."""
    directory = Path(recipe.base_model)
    if not (directory / "config.json").exists():
        return None
    shapes = dict(_shapes(directory))
    if not shapes:
        return None
    config = json.loads((directory / "config.json").read_text())
    width = QUANTISED_BYTES if recipe.quantised else 4 if device == "cpu" else 2
    weights = int(width * sum(_product(shape) for shape in shapes.values()))
    copies = recipe.start_from is not None and recipe.method != "sft" and recipe.reference == "base"
    return MemoryEstimate(
        weights=weights,
        reference=weights if copies else 0,
        adapter=ADAPTER_BYTES * recipe.rank * sum(_lora_width(name, shape) for name, shape in shapes.items()),
        activations=_activations(recipe, rows, config, device),
        libraries=LIBRARIES_BYTES["cpu" if device == "cpu" else "cuda"],
    )


def free_bytes(device: str) -> int:
    """Memory that is free where the training will run; a container's own limit counts."""
    if device != "cpu":
        import torch

        return int(torch.cuda.mem_get_info()[0])
    import psutil

    free = int(psutil.virtual_memory().available)
    limit, used = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current")
    if limit.exists() and used.exists() and (text := limit.read_text().strip()).isdigit():
        # Cached files count as used there, and are given up when memory is short.
        cached = _cached_bytes(Path("/sys/fs/cgroup/memory.stat"))
        free = min(free, int(text) - int(used.read_text()) + cached)
    return free


def _cached_bytes(file: Path) -> int:
    lines = file.read_text().splitlines() if file.exists() else []
    return sum(int(line.split()[1]) for line in lines if line.startswith(("inactive_file ", "active_file ")))


def _activations(
    recipe: Recipe, rows: Sequence[Mapping[str, Any]], config: Mapping[str, Any], device: str
) -> int:
    layers, hidden = config.get("num_hidden_layers", 1), config.get("hidden_size", 1)
    vocabulary = config.get("vocab_size", 0)
    sequences = recipe.batch_size * (2 if recipe.method == "dpo" else 1)
    tokens = sequences * min(recipe.max_length, _longest_tokens(recipe, rows))
    scale = 2 if device == "cpu" else 1  # 32 bits instead of 16
    recomputes = device != "cpu" and recipe.gradient_checkpointing
    per_token = (2 * layers + 34 if recomputes else 34 * layers) * hidden * scale
    # DPO and KTO never build all logits at once; SFT does, with their gradient.
    logits = 2 * 4 * vocabulary if recipe.method == "sft" else 0
    return int(tokens * (per_token + logits))


def _longest_tokens(recipe: Recipe, rows: Sequence[Mapping[str, Any]]) -> int:
    answers = [name for name in COLUMNS[recipe.method] if name not in ("prompt", "label")]
    characters = max(
        (len(str(row["prompt"])) + max(len(str(row[a])) for a in answers) for row in rows), default=0
    )
    return int(characters / CHARACTERS_PER_TOKEN) + 1


def _lora_width(name: str, shape: Sequence[int]) -> int:
    """Rows plus columns of a linear layer that gets matrices; 0 for everything else."""
    linear = name.endswith(".weight") and len(shape) == 2 and ".layers." in name
    return sum(shape) if linear else 0


def _shapes(directory: Path) -> Iterator[tuple[str, Sequence[int]]]:
    for file in sorted(directory.glob("*.safetensors")):
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(length))
        yield from ((name, tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")


def _product(numbers: Iterable[int]) -> int:
    product = 1
    for number in numbers:
        product *= number
    return product


def _size(number: int) -> str:
    return f"{number / 2**30:.1f} GiB" if number >= 2**30 else f"{number / 2**20:.0f} MiB"
