"""Take an adapter out: as a PEFT folder, as a merged model, or as a folder that MLflow can log and load.

| form | holds |
| --- | --- |
| peft | the published files, as they are served |
| merged | the base model with the adapter added to its weights, and the tokenizer |
| mlflow | the merged model in the layout of MLflow's transformers flavor, with an `MLmodel` file |

Each also holds the model card and `lineage.json`. The folder appears whole or not at all; one that is there is not
written over. Weights leave as safetensors only. A merged model is as large as its base, and under the base's licence.
"""

import json
import os
import platform
import shutil
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal, get_args

from feedback.adapters import Adapter
from feedback.errors import Conflict, HoneError
from feedback.files import files_hash
from retrain.checkpoints import sync_directory
from retrain.publish import CARD

Form = Literal["peft", "merged", "mlflow"]
FORMS: tuple[Form, ...] = get_args(Form)
LINEAGE = "lineage.json"


def export(adapter: Adapter, target: Path, form: Form, lineage: Mapping[str, Any]) -> Path:
    """Write the export to `target`, which must not be there yet.

    Raises:
        Conflict: `target` exists.
        HoneError: the adapter has no files, or they are not those that were published.
    """
    if target.exists():
        raise Conflict(f"{target} is already there. Name a folder that is not, or remove that one.")
    if adapter.path is None:
        raise HoneError(
            f"{adapter.name} is the base model '{adapter.base_model}' itself: there is nothing to export."
        )
    partial = target.with_name(f".{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        files = _published(adapter, partial / "adapter")
        {"peft": _as_peft, "merged": _as_merged, "mlflow": _as_mlflow}[form](adapter, files, partial)
        (partial / LINEAGE).write_text(json.dumps(lineage, indent=2, sort_keys=True, default=str) + "\n")
        if (files / CARD).exists() and not (partial / CARD).exists():
            shutil.copyfile(files / CARD, partial / CARD)
        shutil.rmtree(partial / "adapter", ignore_errors=True)
        sync_directory(partial)
        os.replace(partial, target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return target


def _published(adapter: Adapter, copy: Path) -> Path:
    """The published files in a directory here, checked."""
    assert adapter.path is not None
    if "://" in adapter.path:
        from fsspec.core import url_to_fs  # type: ignore[import-untyped]  # it ships no types

        filesystem, path = url_to_fs(adapter.path)
        filesystem.get(path, str(copy), recursive=True)
        directory = copy
    else:
        directory = Path(adapter.path)
    if not directory.is_dir():
        raise HoneError(
            f"The files of {adapter.name} are not at {directory}. Run this where the worker runs."
        )
    found = files_hash(directory)
    if found != adapter.files_hash:
        raise HoneError(
            f"The files of {adapter.name} at {directory} have hash {found[:12]}, published was "
            f"{(adapter.files_hash or '')[:12]}: somebody changed them. Train again, or restore them from a backup."
        )
    return directory


def _as_peft(adapter: Adapter, files: Path, target: Path) -> None:
    for path in sorted(files.iterdir()):
        shutil.copyfile(path, target / path.name)


def _as_merged(adapter: Adapter, files: Path, target: Path) -> None:
    _merge(adapter, files, target, target)


def _merge(adapter: Adapter, files: Path, weights: Path, tokenizer: Path) -> tuple[str, str]:
    """Write the merged model and the tokenizer; returns the names of their classes."""
    if Path(adapter.base_model).is_dir():
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(adapter.base_model, dtype="auto", use_safetensors=True)
    merged = PeftModel.from_pretrained(base, str(files)).merge_and_unload(safe_merge=True)
    merged.save_pretrained(str(weights))
    words = AutoTokenizer.from_pretrained(adapter.base_model)
    words.save_pretrained(str(tokenizer))
    return type(merged).__name__, type(words).__name__


def _as_mlflow(adapter: Adapter, files: Path, target: Path) -> None:
    model, tokenizer = _merge(adapter, files, target / "model", target / "components" / "tokenizer")
    (target / "requirements.txt").write_text("".join(f"{line}\n" for line in _requirements()))
    # JSON is YAML, which is what MLflow reads here.
    (target / "MLmodel").write_text(json.dumps(_mlmodel(adapter, model, tokenizer), indent=2) + "\n")


def _requirements() -> list[str]:
    return [f"{name}=={version(name).partition('+')[0]}" for name in ("torch", "transformers", "accelerate")]


def _mlmodel(adapter: Adapter, model: str, tokenizer: str) -> dict[str, Any]:
    return {
        "artifact_path": "model",
        "flavors": {
            "python_function": {
                "loader_module": "mlflow.transformers",
                "model_binary": "model",
                "python_version": platform.python_version(),
                "env": {"virtualenv": "requirements.txt"},
            },
            "transformers": {
                "task": "text-generation",
                "instance_type": "TextGenerationPipeline",
                "pipeline_model_type": model,
                "source_model_name": adapter.base_model,
                "model_binary": "model",
                "components": ["tokenizer"],
                "tokenizer_type": tokenizer,
                "transformers_version": version("transformers"),
                "code": None,
            },
        },
        "metadata": {"hone.adapter": adapter.adapter_id, "hone.files_hash": adapter.files_hash},
        "model_uuid": (adapter.files_hash or "")[:32],
    }
