"""The model card: what an adapter was made from, in Markdown, beside its weights.

It holds counts and hashes, never a prompt, an answer or a name: a card is copied to places where those must not
go. What the evaluation found is in the record with the gate's report, since it is known only after publication.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from feedback.datasets import Dataset
from feedback.runs import Run
from retrain.recipe import Recipe
from retrain.select import said
from retrain.training import TrainingResult

RECIPE_ROWS = (
    "learning_rate", "schedule", "epochs", "batch_size", "accumulation_steps", "rank", "alpha", "dropout", "beta",
    "sft_weight", "seed", "max_length", "patience", "reference",
)  # fmt: skip


def model_card(run: Run, dataset: Dataset, recipe: Recipe, result: TrainingResult) -> str:
    """The card of the adapter that `run` trained."""
    counts = dataset.counts
    sections = [
        f"# {run.adapter_id}",
        f"A LoRA adapter for `{recipe.base_model}`, trained with {said(recipe.methods)} (TRL) from "
        f"{_material(counts)} `{run.model}`. It is served only on that base model, under the base model's licence.",
        "## Data",
        _table(
            [
                ("dataset", f"`{dataset.dataset_id}`"),
                ("content hash", f"`{dataset.content_hash}`"),
                ("training rows", counts.get("train")),
                ("held-out rows", counts.get("held_out")),
                ("people", counts.get("raters")),
                *((f"{source} (training)", n) for source, n in counts.get("train_sources", {}).items()),
                ("repeats of each demonstration", counts.get("demonstration_repeats")),
                ("repeated from the fixed set", counts.get("replayed") or None),
                *_made(counts.get("augmented", {})),
            ]
        ),
        _left_out(counts.get("excluded", {})),
        "## Training",
        _table(
            [
                ("run", f"`{run.run_id}`"),
                ("recipe hash", f"`{run.recipe_hash}`"),
                ("started from", Path(recipe.start_from).name if recipe.start_from else "the base model"),
                ("base model in 4 bits", "yes" if recipe.quantised else None),
                *(() if recipe.then else _numbers(recipe)),
                ("rows too long to fit", result.rows_left_out),
                ("steps", result.steps),
                ("final loss", f"{result.loss:.4f}"),
                ("seconds", f"{result.seconds:.1f}"),
                ("peak memory", f"{result.memory_bytes / 2**20:.0f} MiB"),
                ("device", result.device),
                *(() if recipe.then else result.notes.items()),
            ]
        ),
        *_stages(recipe, result),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _made(augmented: dict[str, Any]) -> list[tuple[str, Any]]:
    """What a hook made of the rows that people gave."""
    if not augmented:
        return []
    return [
        ("rows made by", augmented["origin"]),
        ("rows it added", augmented["added"]),
        ("rows it changed", augmented["replaced"]),
    ]


def _numbers(recipe: Recipe) -> list[tuple[str, Any]]:
    return [(name, getattr(recipe, name)) for name in RECIPE_ROWS if getattr(recipe, name) is not None]


def _stages(recipe: Recipe, result: TrainingResult) -> Iterator[str]:
    """Each stage under a heading of its own; nothing for a run with one method."""
    for number, (stage, took) in enumerate(zip(recipe.stages, result.stages, strict=False), 1):
        taken = [(name, value) for name, value in took.items() if name != "method"]
        yield f"### Stage {number}: {stage.method.upper()}"
        yield _table([*_numbers(stage), *taken])


def _material(counts: dict[str, Any]) -> str:
    if set(counts.get("train_sources", {})) == {"uploaded"}:
        return "an uploaded file for the model"
    return "the feedback on the model"


def _table(rows: list[tuple[str, Any]]) -> str:
    lines = [f"| {name.replace('_', ' ')} | {value} |" for name, value in rows if value is not None]
    return "\n".join(["| | |", "|---|---|", *lines])


def _left_out(excluded: dict[str, int]) -> str:
    if not excluded:
        return ""
    return "Left out: " + "; ".join(f"{number} ({reason})" for reason, number in excluded.items()) + "."
