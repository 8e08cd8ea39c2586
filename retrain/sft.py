"""Supervised fine-tuning: imitate demonstrations and approved answers.

The loss is on the answer only, rendered with the model's own chat template, so that training sees what
serving sees. Rows: `prompt`, `completion`.
"""

from collections.abc import Sequence

from retrain.context import TrainingContext
from retrain.recipe import Recipe
from retrain.training import Row, TrainingResult, fitting_rows, load_base, train_to_end, trainer_arguments


def train_sft(rows: Sequence[Row], recipe: Recipe, context: TrainingContext) -> TrainingResult | None:
    """Train with TRL's SFTTrainer; None when it was told to stop.

    Raises:
        TrainingFailed: no row fits, or the loss is not finite.
    """
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    base = load_base(recipe, context)
    fitting = fitting_rows(rows, base.tokenizer, recipe.max_length, ("completion",))
    arguments = SFTConfig(completion_only_loss=True, **trainer_arguments(recipe, context, len(fitting)))
    trainer = SFTTrainer(
        model=base.model,
        args=arguments,
        train_dataset=Dataset.from_list([dict(row) for row in fitting]),
        processing_class=base.tokenizer,
        peft_config=base.lora,
    )
    return train_to_end(trainer, context, rows_given=len(rows))
