"""Direct preference optimisation: prefer the better of two answers to one prompt.

The preference loss is joined by the likelihood of the better answer (`sft_weight`): alone it pushes both
answers down, and looks best by its own margin when the model has collapsed. Rows: `prompt`, `chosen`,
`rejected`, and perhaps the served tokens (`prompt_token_ids`, `chosen_token_ids`, `rejected_token_ids`).
"""

from collections.abc import Sequence
from typing import Any

from retrain.context import TrainingContext
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


def train_dpo(rows: Sequence[Row], recipe: Recipe, context: TrainingContext) -> TrainingResult | None:
    """Train with TRL's DPOTrainer; None when it was told to stop.

    Raises:
        TrainingFailed: no row fits, or the loss is not finite.
    """
    from trl import DPOConfig, DPOTrainer

    base = load_base(recipe, context)
    fitting = fitting_rows(rows, base.tokenizer, recipe.max_length, ("chosen", "rejected"))
    held_out = that_fit(context.held_out, base.tokenizer, recipe.max_length, ("chosen", "rejected"))
    learned, validation = split_validation(fitting, recipe)
    arguments = DPOConfig(**loss_arguments(recipe), **trainer_arguments(recipe, context, len(learned)))
    trainer = DPOTrainer(
        model=base.model,
        ref_model=base.reference,
        args=arguments,
        train_dataset=to_dataset(learned, "dpo"),
        eval_dataset=to_datasets("dpo", validation, held_out),
        processing_class=base.tokenizer,
        peft_config=base.lora,
    )
    exact = put_right(trainer, learned, base.tokenizer, recipe.max_length)
    notes = {"rows_as_served": float(exact)} if exact else None
    return train_to_end(trainer, context, recipe, rows_given=len(rows) - len(validation), notes=notes)


def loss_arguments(recipe: Recipe) -> dict[str, Any]:
    """TRL's loss terms and their weights for a recipe."""
    weighted = {recipe.loss: 1.0} | ({"sft": recipe.sft_weight} if recipe.sft_weight else {})
    return {
        "beta": recipe.beta,
        "loss_type": list(weighted),
        "loss_weights": list(weighted.values()),
        "label_smoothing": recipe.label_smoothing,
    }
