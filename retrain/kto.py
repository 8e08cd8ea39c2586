"""KTO: learn from ratings, each of one answer.

TRL estimates divergence by exchanging answers within a batch and reads rows in the order given. So the rows
are shuffled here by the recipe's seed, and those that would not fill a last batch are left out: alone in a
batch, a row would be compared with itself. The rarer label is weighted by the rule of the KTO paper (arXiv
2402.01306, eq. 8). Rows: `prompt`, `completion`, `label`.
"""

import random
from collections.abc import Sequence

from retrain.context import TrainingContext, TrainingFailed
from retrain.recipe import Recipe
from retrain.training import Row, TrainingResult, fitting_rows, load_base, train_to_end, trainer_arguments


def train_kto(rows: Sequence[Row], recipe: Recipe, context: TrainingContext) -> TrainingResult | None:
    """Train with TRL's KTOTrainer; None when it was told to stop.

    Raises:
        TrainingFailed: fewer than two rows fit, all have one label, or the loss is not finite.
    """
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    assert recipe.beta is not None
    base = load_base(recipe, context)
    fitting = fitting_rows(rows, base.tokenizer, recipe.max_length, ("completion",))
    batch_size = min(recipe.batch_size, len(fitting))
    ordered = whole_batches(fitting, batch_size, recipe.seed)
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
        train_dataset=Dataset.from_list([dict(row) for row in ordered]),
        processing_class=base.tokenizer,
        peft_config=base.lora,
    )
    notes = {"desirable_weight": desirable, "undesirable_weight": undesirable}
    return train_to_end(trainer, context, rows_given=len(rows), notes=notes)


def whole_batches(rows: Sequence[Row], batch_size: int, seed: int) -> list[Row]:
    """The rows shuffled by `seed`, less those that do not fill a batch.

    Raises:
        TrainingFailed: there are fewer than two rows, or only one label.
    """
    ordered = list(rows)
    random.Random(seed).shuffle(ordered)
    ordered = ordered[: len(ordered) - len(ordered) % batch_size]
    labels = {bool(row["label"]) for row in ordered}
    if len(ordered) < 2 or len(labels) < 2:
        raise TrainingFailed(
            f"KTO has {len(ordered)} rows with {len(labels)} of the 2 labels; it needs both. "
            "Collect more ratings, or use SFT."
        )
    return ordered


def balance(rows: Sequence[Row], recipe: Recipe) -> tuple[float, float]:
    """Weights (desirable, undesirable) of the two labels.

    What the recipe does not fix is chosen so that the weighted ratio of up-rated to down-rated rows lies in
    the paper's interval [1, 4/3], by scaling the commoner label down: the gradient's scale stays bounded.
    """
    up = sum(bool(row["label"]) for row in rows)
    down = len(rows) - up
    if recipe.desirable_weight or recipe.undesirable_weight:
        return recipe.desirable_weight or 1.0, recipe.undesirable_weight or 1.0
    ratio = 7 / 6  # the middle of the interval
    if up >= down:
        return min(1.0, down / up * ratio), 1.0
    return 1.0, min(1.0, up / down / ratio)
