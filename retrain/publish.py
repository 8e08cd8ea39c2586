"""Publish a trained adapter: checked, complete, and in its final place in one step.

The files are written beside the final directory, forced to disk and renamed: engines see all of them or nothing,
whatever is killed meanwhile. A directory that is already there is never written again. Published are the weights
as safetensors, PEFT's configuration and a model card; nothing that needs unpickling.

Refuses weights that are not finite, that change nothing, or that are not LoRA matrices.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feedback.errors import HoneError
from feedback.files import files_hash
from retrain.checkpoints import sync_directory

WEIGHTS = "adapter_model.safetensors"
CONFIGURATION = "adapter_config.json"
CARD = "model_card.md"


class BadWeights(HoneError):
    """Training ended, but its weights must not be served."""


@dataclass(frozen=True, slots=True)
class Published:
    """Where an adapter lies, and the hash of its files."""

    path: Path
    files_hash: str
    """Of every file, as engines check them; the card in it names the run, so no two runs share it."""
    weights_hash: str
    """SHA-256 of the weights alone: equal for equal recipes, seeds and rows on one kind of processor."""


def publish(trained: Path, adapters: Path, adapter_id: str, *, base_model: str, card: str) -> Published:
    """Put the adapter in `trained` into `adapters/adapter_id`; doing it again changes nothing.

    Raises:
        BadWeights: the weights are not finite, change nothing, or are not LoRA matrices.
    """
    target = adapters / adapter_id
    if not target.exists():
        staging = adapters / f".staging-{adapter_id}"
        shutil.rmtree(staging, ignore_errors=True)
        try:
            _stage(trained, staging, base_model, card)
            os.replace(staging, target)
        finally:
            shutil.rmtree(staging, ignore_errors=True)
        sync_directory(adapters, files=False)
    with (target / WEIGHTS).open("rb") as weights:
        weights_hash = hashlib.file_digest(weights, "sha256").hexdigest()
    return Published(target, files_hash(target), weights_hash)


def _stage(trained: Path, staging: Path, base_model: str, card: str) -> None:
    staging.mkdir(parents=True)
    shutil.copyfile(trained / WEIGHTS, staging / WEIGHTS)
    configuration = json.loads((trained / CONFIGURATION).read_text())
    configuration |= {"base_model_name_or_path": base_model, "inference_mode": True}
    if isinstance(configuration["target_modules"], list):
        # PEFT writes a set in whatever order it has today; equal adapters should have equal files.
        configuration["target_modules"].sort()
    (staging / CONFIGURATION).write_text(json.dumps(configuration, indent=2, sort_keys=True) + "\n")
    (staging / CARD).write_text(card)
    check_weights(staging / WEIGHTS)
    sync_directory(staging)


def check_weights(file: Path) -> None:
    """Read a LoRA safetensors file and refuse what must not be served.

    Raises:
        BadWeights: see the message.
    """
    tensors = _load(file)
    if not tensors:
        raise BadWeights(f"{file.name} holds no weights. Train again; the run's log says what happened.")
    learned = False
    for name, tensor in tensors.items():
        if ".lora_A." not in name and ".lora_B." not in name:
            raise BadWeights(
                f"{file.name} holds '{name}', which is not a LoRA matrix; the engine cannot serve it."
            )
        if not bool(tensor.isfinite().all()):
            raise BadWeights(
                f"'{name}' has values that are not finite. Lower training.recipe.learning_rate in the model's policy."
            )
        learned |= ".lora_B." in name and bool(tensor.any())
    if not learned:
        raise BadWeights(
            f"{file.name} changes nothing: every lora_B matrix is zero. Raise training.recipe.learning_rate or epochs."
        )


def _load(file: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(file))
    except SafetensorError as error:
        raise BadWeights(f"{file.name} cannot be read: {error}. Train again.") from error
