"""A reward model: TRL's RewardTrainer on pairs of answers, and the scores that it gives. Offline only.

It is a LoRA with a score head on the model's own base, trained for one pass, since a reward model that sees its pairs
again learns them by heart. How far it can be believed is its accuracy on pairs of people it never saw; near a half, its
scores say nothing. Scores have no unit: only differences between answers to one prompt mean something.

It decides nothing and serves nothing. Its weights have learned what people wrote, so they live as long as the directory
that the caller gives; what is worth keeping is the numbers and the weights' hash, which a repetition gives again.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from monitoring.sequential import wilson_interval
from retrain.context import TrainingContext
from retrain.likelihood import tokens_of_answer
from retrain.recipe import Recipe
from retrain.training import fitting_rows, that_fit, trainer_arguments
from retrain.validation import to_dataset
from retrain.watcher import watch

Row = Mapping[str, Any]
Score = Callable[[Row], float]
"""The score of a row's `prompt` with its `completion`."""

CONFIDENCE = 0.95
CENTRE = 0.01
"""Weight of the term that keeps scores around zero (TRL's center_rewards_coefficient)."""


@dataclass(frozen=True, slots=True)
class Share:
    """How often something held, with its Wilson interval; nothing where nothing was looked at."""

    held: float
    of: int

    @property
    def share(self) -> float | None:
        """Between 0 and 1."""
        return self.held / self.of if self.of else None

    @property
    def interval(self) -> tuple[float, float]:
        """At 95%."""
        return wilson_interval(self.held, self.of, confidence=CONFIDENCE) if self.of else (0.0, 1.0)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.share:.0%} of {self.of} ({low:.0%} to {high:.0%})" if self.of else "of nothing"


@dataclass(frozen=True, slots=True)
class RewardModel:
    """A trained scorer, and how it did on pairs it never saw."""

    score: Score
    pairs: int
    accuracy: Share
    weights_hash: str


def train_reward(
    pairs: Sequence[Row], held_out: Sequence[Row], recipe: Recipe, context: TrainingContext
) -> RewardModel:
    """Train on `pairs` (`prompt`, `chosen`, `rejected`) and measure on `held_out` ones.

    Raises:
        TrainingFailed: no pair fits, or the loss is not finite.
    """
    from peft import LoraConfig
    from trl import RewardConfig, RewardTrainer

    model, tokenizer = _load(recipe, context)
    fitting = fitting_rows(pairs, tokenizer, recipe.max_length, ("chosen", "rejected"))
    trainer = RewardTrainer(
        model=model,
        args=RewardConfig(
            center_rewards_coefficient=CENTRE, **trainer_arguments(recipe, context, len(fitting))
        ),
        train_dataset=to_dataset(fitting, "dpo"),
        processing_class=tokenizer,
        peft_config=LoraConfig(
            r=recipe.rank, lora_alpha=recipe.alpha, target_modules="all-linear", task_type="SEQ_CLS"
        ),
    )
    watch(trainer, context)
    trainer.train()
    trained: Any = trainer.model
    trained.save_pretrained(str(context.directory / "reward"))
    weights = (context.directory / "reward" / "adapter_model.safetensors").read_bytes()
    score = _scorer(trained.eval(), tokenizer, recipe.max_length)
    measured = that_fit(held_out, tokenizer, recipe.max_length, ("chosen", "rejected"))
    return RewardModel(score, len(fitting), accuracy_of(score, measured), hashlib.sha256(weights).hexdigest())


def accuracy_of(score: Score, pairs: Sequence[Row]) -> Share:
    """How often the better answer of a pair has the higher score; equal scores count half."""
    return preferred([(score(_answer(row, "chosen")), score(_answer(row, "rejected"))) for row in pairs])


def preferred(scores: Sequence[tuple[float, float]]) -> Share:
    """How often the first score is the higher; equal ones count half."""
    return Share(sum((a > b) + 0.5 * (a == b) for a, b in scores), len(scores))


def _answer(row: Row, name: str) -> Row:
    return {"prompt": row["prompt"], "completion": row[name]}


def _load(recipe: Recipe, context: TrainingContext) -> tuple[Any, Any]:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, set_seed

    torch.set_num_threads(context.threads)
    set_seed(recipe.seed)
    tokenizer = AutoTokenizer.from_pretrained(recipe.base_model)
    model = AutoModelForSequenceClassification.from_pretrained(
        recipe.base_model,
        num_labels=1,
        dtype=torch.float32 if context.device == "cpu" else torch.bfloat16,
        use_safetensors=True,
    )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    # The score is read at the last token that is no padding, so the model must know which that is.
    model.config.pad_token_id = tokenizer.pad_token_id
    return model.to(context.device), tokenizer


def _scorer(model: Any, tokenizer: Any, max_length: int) -> Score:
    import torch

    def score(row: Row) -> float:
        ids, _ = tokens_of_answer(tokenizer, row)
        with torch.no_grad():
            return float(model(torch.tensor([ids[:max_length]], device=model.device)).logits[0, 0])

    return score
