"""Supervised fine-tuning: imitate demonstrations and approved answers.

The loss is on the answer only, rendered with the model's own chat template, so that training sees what
serving sees; where the record has the served tokens, on exactly these. Rows: `prompt`, `completion`, and
perhaps `prompt_token_ids` and `output_token_ids`.
"""

from collections.abc import Sequence

from retrain.context import TrainingContext
from retrain.exact import has_tokens, to_tokens
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


def train_sft(rows: Sequence[Row], recipe: Recipe, context: TrainingContext) -> TrainingResult | None:
    """Train with TRL's SFTTrainer; None when it was told to stop.

    Raises:
        TrainingFailed: no row fits, or the loss is not finite.
    """
    from trl import SFTConfig, SFTTrainer

    base = load_base(recipe, context)
    fitting = fitting_rows(rows, base.tokenizer, recipe.max_length, ("completion",))
    held_out = that_fit(context.held_out, base.tokenizer, recipe.max_length, ("completion",))
    learned, validation = split_validation(fitting, recipe)
    exact = sum(has_tokens(row, base.tokenizer, recipe.max_length) for row in learned)
    arguments = SFTConfig(completion_only_loss=True, **trainer_arguments(recipe, context, len(learned)))
    trainer = SFTTrainer(
        model=base.model,
        args=arguments,
        train_dataset=to_tokens(learned, base.tokenizer, recipe.max_length)
        if exact
        else to_dataset(learned, "sft"),
        eval_dataset=to_datasets("sft", validation, held_out),
        processing_class=base.tokenizer,
        peft_config=base.lora,
    )
    notes = {"rows_as_served": float(exact)} if exact else None
    return train_to_end(trainer, context, recipe, rows_given=len(rows) - len(validation), notes=notes)
