"""KTO: learn from ratings, each of one answer.

TRL estimates divergence by exchanging answers within a batch and reads rows in the order given. So the rows
are shuffled here by the recipe's seed, and those that would not fill a last batch are left out: alone in a
batch, a row would be compared with itself. The rarer label is weighted by the rule of the KTO paper (arXiv
2402.01306, eq. 8); rows that only repeat what is known (`replay`) are not counted there, since counted they were
measured to undo what the ratings teach. Rows: `prompt`, `completion`, `label`, and perhaps the served tokens
(`prompt_token_ids`, `output_token_ids`).
"""

import random
from collections.abc import Sequence

from retrain.context import TrainingContext, TrainingFailed
from retrain.exact import put_right
from retrain.recipe import Recipe
from retrain.training import (
    Row,
    TrainingResult,
    fitting_rows,
    load_base,
    that_fit,
    train_to_end,
    trainer_arguments,
)
from retrain.validation import split_validation, to_dataset, to_datasets


def train_kto(rows: Sequence[Row], recipe: Recipe, context: TrainingContext) -> TrainingResult | None:
    """Train with TRL's KTOTrainer; None when it was told to stop.

    Raises:
        TrainingFailed: fewer than two rows fit, all have one label, or the loss is not finite.
    """
    from trl import KTOConfig, KTOTrainer

    assert recipe.beta is not None
    base = load_base(recipe, context)
    fitting = fitting_rows(rows, base.tokenizer, recipe.max_length, ("completion",))
    held_out = that_fit(context.held_out, base.tokenizer, recipe.max_length, ("completion",))
    learned, validation = split_validation(fitting, recipe)
    batch_size = min(recipe.batch_size, len(learned))
    ordered = whole_batches(learned, batch_size, recipe.seed)
    desirable, undesirable = balance(ordered, recipe)
    shared = trainer_arguments(recipe, context, len(ordered)) | {"per_device_train_batch_size": batch_size}
    arguments = KTOConfig(
        beta=recipe.beta,
        desirable_weight=desirable,
        undesirable_weight=undesirable,
        train_sampling_strategy="sequential",
        **shared,
    )
    trainer = KTOTrainer(
        model=base.model,
        ref_model=base.reference,
        args=arguments,
        train_dataset=to_dataset(ordered, "kto"),
        eval_dataset=to_datasets("kto", _paired(validation, batch_size), _paired(held_out, batch_size)),
        processing_class=base.tokenizer,
        peft_config=base.lora,
    )
    notes = {"desirable_weight": desirable, "undesirable_weight": undesirable}
    if exact := put_right(trainer, ordered, base.tokenizer, recipe.max_length):
        notes["rows_as_served"] = float(exact)
    return train_to_end(trainer, context, recipe, rows_given=len(rows) - len(validation), notes=notes)


def whole_batches(rows: Sequence[Row], batch_size: int, seed: int) -> list[Row]:
    """The rows shuffled by `seed`, less those that do not fill a batch.

    Raises:
        TrainingFailed: there are fewer than two rows, or only one label.
    """
    ordered = list(rows)
    random.Random(seed).shuffle(ordered)
    ordered = ordered[: len(ordered) - len(ordered) % batch_size]
    labels = {bool(row["label"]) for row in ordered if not row.get("replay")}
    if len(ordered) < 2 or len(labels) < 2:
        raise TrainingFailed(
            f"KTO has {len(ordered)} rows with {len(labels)} of the 2 labels; it needs both. "
            "Collect more ratings, or use SFT."
        )
    return ordered


def _paired(rows: Sequence[Row], batch_size: int) -> Sequence[Row]:
    """Without a last row that would be alone in its batch."""
    return rows[:-1] if len(rows) % batch_size == 1 else rows


def balance(rows: Sequence[Row], recipe: Recipe) -> tuple[float, float]:
    """Weights (desirable, undesirable) of the two labels.

    What the recipe does not fix is chosen so that the weighted ratio of up-rated to down-rated rows lies in
    the paper's interval [1, 4/3], by scaling the commoner label down: the gradient's scale stays bounded.
    """
    rated = [row for row in rows if not row.get("replay")]
    up = sum(bool(row["label"]) for row in rated)
    down = len(rated) - up
    if recipe.desirable_weight or recipe.undesirable_weight:
        return recipe.desirable_weight or 1.0, recipe.undesirable_weight or 1.0
    ratio = 7 / 6  # the middle of the interval
    if not up or not down:
        return 1.0, 1.0
    if up >= down:
        return min(1.0, down / up * ratio), 1.0
    return 1.0, min(1.0, up / down / ratio)
