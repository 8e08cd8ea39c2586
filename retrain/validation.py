"""Loss on rows that a training does not learn from: to stop early by, and to end with.

Two different sets. `validation_share` of the run's own rows, by question, are taken out to stop by: when their loss has
not fallen for `patience` looks the training ends, and the best weights seen are the result. The dataset's held-out rows
are only measured, once, at the end: nothing is decided by them here, so that the gate finds them untouched.

The best weights are on disk beside the checkpoints, so a training that is killed still ends with them.
"""

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from retrain.prompts import prompt_text, share_of
from retrain.recipe import Method, Recipe

Row = Mapping[str, Any]

LOOKS = 10
"""Validation losses taken over a whole training."""
COLUMNS: Mapping[Method, tuple[str, ...]] = {
    "sft": ("prompt", "completion"),
    "dpo": ("prompt", "chosen", "rejected"),
    "kto": ("prompt", "completion", "label"),
}


def split_validation(rows: Sequence[Row], recipe: Recipe) -> tuple[list[Row], list[Row]]:
    """Rows to learn from and rows to stop by; repeated questions stay together, replayed rows are learned from."""
    if recipe.patience is None:
        return list(rows), []

    def validates(row: Row) -> bool:
        share = share_of(f"validation:{recipe.seed}:{prompt_text(row['prompt'])}")
        return share < recipe.validation_share and not row.get("replay")

    return [row for row in rows if not validates(row)], [row for row in rows if validates(row)]


def held_out_columns(method: Method, items: Sequence[Row]) -> list[Row]:
    """Evaluation items as rows of a method, those of them that can be."""
    rows: list[Row] = []
    for item in items:
        prompt, right, wrong = item["prompt"], item["completion"], item["rejected"]
        if method == "dpo" and right is not None and wrong is not None:
            rows.append({"prompt": prompt, "chosen": right, "rejected": wrong})
        elif method == "sft" and right is not None:
            rows.append({"prompt": prompt, "completion": right})
        elif method == "kto":
            answers = ((right, True), (wrong, False))
            rows += [
                {"prompt": prompt, "completion": a, "label": label} for a, label in answers if a is not None
            ]
    return rows


def to_dataset(rows: Sequence[Row], method: Method) -> Any:
    """Rows as TRL takes them: its columns, and none of ours."""
    from datasets import Dataset

    return Dataset.from_list([{name: row[name] for name in COLUMNS[method]} for row in rows])


def to_datasets(method: Method, validation: Sequence[Row], held_out: Sequence[Row]) -> dict[str, Any] | None:
    """What a trainer evaluates on, by name; a set too small for a batch of KTO is left out."""
    sets = {"validation": validation, "held_out": held_out}
    found = {name: to_dataset(rows, method) for name, rows in sets.items() if len(rows) >= 2}
    return found or None


class BestWeights:
    """The adapter at the lowest validation loss so far, in a directory that outlives the process."""

    def __init__(self, directory: Path, patience: int) -> None:
        self.directory = directory
        self.patience = patience
        self.losses: list[tuple[int, float]] = []

    def resume(self, step: int) -> None:
        """Forget what came after `step`: it is about to be done again, with the same result."""
        file = self.directory / "losses.json"
        if file.exists():
            self.losses = [(at, loss) for at, loss in orjson.loads(file.read_bytes()) if at <= step]

    @property
    def best(self) -> tuple[int, float] | None:
        """Step and loss of the best weights."""
        return min(self.losses, key=lambda one: one[1], default=None)

    def add(self, step: int, loss: float, model: Any) -> bool:
        """Note a loss, keep the weights if they are the best, and say whether to stop."""
        before = self.best
        self.losses.append((step, loss))
        if before is None or loss < before[1]:
            self._keep(model)
        self._write_losses()
        best = self.best
        assert best is not None
        return sum(at > best[0] for at, _ in self.losses) >= self.patience

    def restore(self, model: Any) -> None:
        """Put the best weights back into the model."""
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        weights = load_file(self.directory / "weights" / "adapter_model.safetensors")
        set_peft_model_state_dict(model, weights, adapter_name="default")

    def _keep(self, model: Any) -> None:
        partial, final = self.directory / "partial", self.directory / "weights"
        shutil.rmtree(partial, ignore_errors=True)
        model.save_pretrained(str(partial), selected_adapters=["default"], save_embedding_layers=False)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(partial, final)

    def _write_losses(self) -> None:
        partial = self.directory / "losses.partial"
        partial.write_bytes(orjson.dumps(self.losses))
        os.replace(partial, self.directory / "losses.json")


def evaluation_steps(steps: int) -> int:
    """Steps between two looks at the validation loss."""
    return max(1, steps // LOOKS)
