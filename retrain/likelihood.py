"""How likely an adapter finds answers that people hold right: the mean loss per token of the answer."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from retrain.context import TrainingFailed
from retrain.recipe import Recipe


def mean_loss(recipe: Recipe, adapter: Path, rows: Sequence[Mapping[str, Any]], device: str) -> float:
    """Cross-entropy of the right answers' tokens in nats, over all of them alike.

    Raises:
        TrainingFailed: no row fits the recipe's length, or the loss is not finite.
    """
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(recipe.base_model)
    base = AutoModelForCausalLM.from_pretrained(recipe.base_model, use_safetensors=True)
    model = PeftModel.from_pretrained(base, str(adapter)).to(device).eval()
    total, tokens = 0.0, 0
    for row in rows:
        ids, start = tokens_of_answer(tokenizer, row)
        if len(ids) > recipe.max_length or start >= len(ids):
            continue
        with torch.no_grad():
            logits = model(torch.tensor([ids], device=device)).logits[0].float()
        losses = torch.nn.functional.cross_entropy(
            logits[start - 1 : -1], torch.tensor(ids[start:], device=device), reduction="sum"
        )
        total, tokens = total + float(losses), tokens + len(ids) - start
    loss = total / tokens if tokens else float("nan")
    if loss != loss or loss == float("inf"):
        raise TrainingFailed(f"The loss on {len(rows)} rows that were left out is {loss}.")
    return loss


def tokens_of_answer(tokenizer: Any, row: Mapping[str, Any]) -> tuple[list[int], int]:
    """Prompt and answer as served, and where the answer begins."""
    prompt = row["prompt"]
    answer = row["chosen"] if "chosen" in row else row["completion"]
    if isinstance(prompt, str):
        start = tokenizer(prompt)["input_ids"]
        end = tokenizer(answer, add_special_tokens=False)["input_ids"]
        return [*start, *end, tokenizer.eos_token_id], len(start)
    asked = tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, return_dict=False)
    whole = tokenizer.apply_chat_template([*prompt, *answer], return_dict=False)
    return list(whole), len(asked)
