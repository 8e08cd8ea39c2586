"""What a person would write with TRL alone: the same rows, the same numbers, nothing of Hone's.

`python -m tests.bench.plain_trl RECIPE ROWS OUT` trains SFT by a recipe and writes the losses of its steps as JSON.
"""

import json
import math
import sys
from pathlib import Path
from typing import Any


def train(recipe: dict[str, Any], rows: list[dict[str, Any]], directory: Path) -> list[float]:
    """Train, save the adapter, and return the loss of each step."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(1)
    set_seed(recipe["seed"])
    tokenizer = AutoTokenizer.from_pretrained(recipe["base_model"])
    model = AutoModelForCausalLM.from_pretrained(recipe["base_model"], dtype=torch.float32)
    steps = math.ceil(len(rows) / recipe["batch_size"] * recipe["epochs"])
    arguments = SFTConfig(
        output_dir=str(directory),
        seed=recipe["seed"],
        data_seed=recipe["seed"],
        learning_rate=recipe["learning_rate"],
        lr_scheduler_type=recipe["schedule"],
        warmup_steps=math.ceil(recipe["warmup_share"] * steps),
        num_train_epochs=recipe["epochs"],
        per_device_train_batch_size=recipe["batch_size"],
        weight_decay=recipe["weight_decay"],
        max_length=recipe["max_length"],
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        dataloader_pin_memory=False,
        save_strategy="no",
        logging_steps=1,
        report_to=[],
        disable_tqdm=True,
        completion_only_loss=True,
    )
    lora = LoraConfig(
        r=recipe["rank"], lora_alpha=recipe["alpha"], target_modules="all-linear", task_type="CAUSAL_LM"
    )
    trainer = SFTTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=lora,
    )
    trainer.train()
    trainer.save_model()
    return [float(entry["loss"]) for entry in trainer.state.log_history if "loss" in entry]


def main() -> None:
    """Train as the arguments say."""
    recipe, rows, out = (Path(argument) for argument in sys.argv[1:])
    losses = train(json.loads(recipe.read_text()), json.loads(rows.read_text()), out.with_suffix(".work"))
    out.write_text(json.dumps(losses))


if __name__ == "__main__":
    main()
