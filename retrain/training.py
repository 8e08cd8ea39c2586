"""What SFT, DPO and KTO share: the base model with its LoRA, checkpoints, progress, the finished adapter.

A training that is killed continues from its last complete checkpoint and ends with the weights it would
have had; one that is told to stop writes a checkpoint first. A checkpoint counts once its marker is on
disk, an adapter once its directory has its final name. Rows that do not fit `max_length` whole are left out
and counted: a cut answer teaches the model not to finish. A loss that is not finite ends the training;
nothing is saved from it.

Nothing here reads the record, and nothing is downloaded when the base model is a directory.
"""

import hashlib
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

from feedback.errors import HoneError
from retrain.checkpoints import last_checkpoint, sync_directory
from retrain.context import TrainingContext, TrainingFailed, memory_bytes
from retrain.recipe import Recipe
from retrain.step_metrics import history_of, last_loss
from retrain.validation import BestWeights
from retrain.watcher import watch

RESULT_FILE = "result.json"

Row = Mapping[str, Any]
"""One training row in TRL's columns; `prompt` is a list of messages, or text for `/v1/completions`."""


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a training made, and what it took."""

    adapter: Path
    rows: int
    rows_left_out: int
    steps: int
    loss: float
    seconds: float
    memory_bytes: int
    device: str
    resumed_from_step: int = 0
    notes: dict[str, float] = field(default_factory=dict)
    """Numbers the method derived from the rows, such as KTO's weights."""
    stages: list[dict[str, Any]] = field(default_factory=list)
    """Of a training in stages: what each took, in order."""
    history: list[dict[str, float]] = field(default_factory=list)
    """What was measured at each step: retrain.step_metrics."""


@dataclass(frozen=True, slots=True)
class Base:
    """A base model ready to be trained: weights, tokenizer, and a new LoRA or one to continue."""

    model: Any
    tokenizer: Any
    lora: Any | None
    reference: Any | None


def template_hash(tokenizer: Any) -> str:
    """SHA-256 of the chat template, or of the empty text for a model without one."""
    template = tokenizer.chat_template or ""
    text = template if isinstance(template, str) else json.dumps(template, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def pick_device(wanted: str) -> str:
    """`cuda` where there is an accelerator and it is not refused, else `cpu`."""
    import torch

    if wanted == "cuda" and not torch.cuda.is_available():
        raise HoneError(
            "training_device is 'cuda', but this machine has no accelerator that torch can use. Set 'auto'."
        )
    return "cuda" if wanted != "cpu" and torch.cuda.is_available() else "cpu"


def load_base(recipe: Recipe, context: TrainingContext) -> Base:
    """Load the base model, in full precision on a CPU and in bfloat16 on an accelerator.

    Raises:
        TrainingFailed: the tokenizer's chat template is not the one that the recipe was made for.
    """
    import torch
    from peft import LoraConfig, PeftModel, prepare_model_for_kbit_training
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed

    _quiet()
    torch.set_num_threads(context.threads)
    set_seed(recipe.seed)
    tokenizer = AutoTokenizer.from_pretrained(recipe.base_model)
    found = template_hash(tokenizer)
    if recipe.template_hash not in (None, found):
        raise TrainingFailed(
            f"The chat template of '{recipe.base_model}' has hash {found[:12]}, the recipe was made for "
            f"{str(recipe.template_hash)[:12]}. Plan the run again: the model was replaced in between."
        )

    if recipe.quantised and context.device == "cpu":
        raise TrainingFailed(
            "The recipe holds the base model in 4 bits, which needs an accelerator. Unset quantised."
        )

    def weights() -> Any:
        dtype = torch.float32 if context.device == "cpu" else torch.bfloat16
        loaded = AutoModelForCausalLM.from_pretrained(
            recipe.base_model, dtype=dtype, use_safetensors=True, **_in_four_bits(recipe)
        )
        return prepare_model_for_kbit_training(loaded) if recipe.quantised else loaded

    if recipe.start_from is None:
        targets = recipe.target_modules
        lora = LoraConfig(
            r=recipe.rank,
            lora_alpha=recipe.alpha,
            lora_dropout=recipe.dropout,
            target_modules=targets if isinstance(targets, str) else list(targets),
            task_type="CAUSAL_LM",
        )
        return Base(weights(), tokenizer, lora, None)
    model = PeftModel.from_pretrained(weights(), recipe.start_from, is_trainable=True)
    needs_base = recipe.method != "sft" and recipe.reference == "base"
    return Base(model, tokenizer, None, weights() if needs_base else None)


def _in_four_bits(recipe: Recipe) -> dict[str, Any]:
    if not recipe.quantised:
        return {}
    import torch
    from transformers import BitsAndBytesConfig

    how = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return {"quantization_config": how, "device_map": {"": 0}}


def fitting_rows(rows: Sequence[Row], tokenizer: Any, max_length: int, answers: Sequence[str]) -> list[Row]:
    """The rows of which every answer column fits `max_length` together with the prompt.

    Raises:
        TrainingFailed: none does.
    """
    fitting = that_fit(rows, tokenizer, max_length, answers)
    if not fitting:
        raise TrainingFailed(
            f"None of the {len(rows)} training rows fits max_length = {max_length} tokens. "
            "Raise training.recipe.max_length in the model's policy."
        )
    return fitting


def that_fit(rows: Sequence[Row], tokenizer: Any, max_length: int, answers: Sequence[str]) -> list[Row]:
    """The same, which may be none."""
    return [row for row in rows if all(_length(row, tokenizer, name) <= max_length for name in answers)]


def _length(row: Row, tokenizer: Any, answer: str) -> int:
    if isinstance(row["prompt"], str):
        return len(tokenizer(row["prompt"] + row[answer])["input_ids"]) + 1
    return len(tokenizer.apply_chat_template(list(row["prompt"]) + list(row[answer]), return_dict=False))


def steps_of(recipe: Recipe, rows: int) -> int:
    """Optimiser steps that training on so many rows takes, up to one for each epoch's last batch."""
    return max(1, math.ceil(rows / recipe.batch_size / recipe.accumulation_steps * recipe.epochs))


def trainer_arguments(recipe: Recipe, context: TrainingContext, rows: int) -> dict[str, Any]:
    """Arguments that TRL's three configurations have in common."""
    accelerated, steps = context.device != "cpu", steps_of(recipe, rows)
    return {
        "output_dir": str(context.directory / "checkpoints"),
        "seed": recipe.seed,
        "data_seed": recipe.seed,
        "learning_rate": recipe.learning_rate,
        "lr_scheduler_type": recipe.schedule if recipe.schedule != "constant" else "constant_with_warmup",
        "warmup_steps": math.ceil(recipe.warmup_share * steps),
        "num_train_epochs": recipe.epochs,
        "per_device_train_batch_size": recipe.batch_size,
        "per_device_eval_batch_size": recipe.batch_size,
        "gradient_accumulation_steps": recipe.accumulation_steps,
        "weight_decay": recipe.weight_decay,
        "max_grad_norm": recipe.gradient_norm_max,
        "max_length": recipe.max_length,
        "gradient_checkpointing": accelerated and recipe.gradient_checkpointing,
        "bf16": accelerated,
        "use_cpu": not accelerated,
        "dataloader_pin_memory": accelerated,
        "save_strategy": "no",
        "save_total_limit": context.checkpoints_kept,
        "logging_steps": 1 if not accelerated else max(1, steps // 100),
        "logging_nan_inf_filter": False,
        "report_to": [],
        "disable_tqdm": True,
    }


def train_to_end(
    trainer: Any,
    context: TrainingContext,
    recipe: Recipe,
    *,
    rows_given: int,
    notes: dict[str, float] | None = None,
) -> TrainingResult | None:
    """Run a TRL trainer from the last complete checkpoint to the end and save the adapter.

    Returns None when it was told to stop: the checkpoint to continue from is on disk.

    Raises:
        TrainingFailed: the loss is not finite.
    """
    sets = dict(trainer.eval_dataset or {})
    trainer.eval_dataset = sets.get("validation")
    best = None
    if recipe.patience is not None and trainer.eval_dataset is not None:
        best = BestWeights(context.directory / "best", recipe.patience)
    watcher = watch(trainer, context, best)
    checkpoint = last_checkpoint(context.directory / "checkpoints")
    started = time.monotonic()
    output = trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if watcher.stopped:
        return None
    watcher.best = None  # what follows is not looked at to stop by
    notes = {**(notes or {}), **_losses(trainer, best, sets.get("held_out"))}
    history = history_of(trainer.state.log_history)
    rows = len(trainer.train_dataset)
    return save_result(
        trainer.model,
        TrainingResult(
            adapter=context.directory / "adapter",
            rows=rows,
            rows_left_out=rows_given - rows,
            steps=trainer.state.global_step,
            loss=last_loss(history, output.training_loss),
            seconds=time.monotonic() - started,
            memory_bytes=memory_bytes(),
            device=context.device,
            resumed_from_step=int(checkpoint.name.rpartition("-")[2]) if checkpoint else 0,
            notes=notes,
            history=history,
        ),
    )


def _losses(trainer: Any, best: BestWeights | None, held_out: Any) -> dict[str, float]:
    """Go back to the best weights, then take the loss on what was held out."""
    found: dict[str, float] = {}
    if best is not None and best.best is not None:
        step, loss = best.best
        best.restore(trainer.model)
        found |= {"best_step": step, "validation_loss": loss}
    if held_out is not None:
        found["held_out_loss"] = float(trainer.evaluate(eval_dataset=held_out)["eval_loss"])
    return found


def save_result(model: Any, result: TrainingResult) -> TrainingResult:
    """Write the adapter beside its final place, then give it that place: it is there whole or not at all."""
    partial = result.adapter.with_suffix(".partial")
    # Naming the adapter keeps out the frozen copy of its parent that DPO and KTO add beside it.
    model.save_pretrained(str(partial), selected_adapters=["default"], save_embedding_layers=False)
    (partial / RESULT_FILE).write_bytes(orjson.dumps(asdict(result), default=str))
    sync_directory(partial)
    os.replace(partial, result.adapter)
    sync_directory(result.adapter.parent, files=False)
    return result


def finished_result(directory: Path) -> TrainingResult | None:
    """What an earlier start of this training already finished, if it did."""
    file = directory / "adapter" / RESULT_FILE
    if not file.exists():
        return None
    values = orjson.loads(file.read_bytes())
    return TrainingResult(**(values | {"adapter": Path(values["adapter"])}))


def _quiet() -> None:
    """Keep the libraries' bars out of the run's log: progress has its own road."""
    import datasets
    from transformers.utils import logging

    datasets.disable_progress_bars()
    logging.disable_progress_bar()
