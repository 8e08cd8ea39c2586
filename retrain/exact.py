"""Train on the very tokens that were served, where the record has them.

Text that is tokenised again may become other tokens than those the model read and wrote. An answer that was served is
learned as it was generated: recorded prompt and output, if the output ends as the model ends an answer, and both fit.
Everything else in the same training is rendered with the chat template, as TRL does it.

SFT takes rows of tokens. DPO and KTO tokenise for themselves when the trainer is made; what they made of a row with
recorded tokens is then put right, before the first step. Without such rows nothing is touched.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

PROMPT_IDS, OUTPUT_IDS = "prompt_token_ids", "output_token_ids"
CHOSEN_IDS, REJECTED_IDS = "chosen_token_ids", "rejected_token_ids"
PREPARED = {OUTPUT_IDS: "completion_ids", CHOSEN_IDS: "chosen_ids", REJECTED_IDS: "rejected_ids"}
"""Where recorded answers belong in what a trainer prepared."""


def has_tokens(row: Row, tokenizer: Any, max_length: int) -> bool:
    """Whether a row carries a whole answer as it was generated, which fits with its prompt."""
    prompt, output = row.get(PROMPT_IDS) or [], row.get(OUTPUT_IDS) or [None]
    return bool(prompt) and output[-1] == tokenizer.eos_token_id and len(prompt) + len(output) <= max_length


def tokens_of(row: Row, tokenizer: Any, max_length: int) -> tuple[list[int], int]:
    """All tokens of a row, and where its answer begins."""
    prompt, answer = row["prompt"], row["completion"]
    if has_tokens(row, tokenizer, max_length):
        return [*row[PROMPT_IDS], *row[OUTPUT_IDS]], len(row[PROMPT_IDS])
    if isinstance(prompt, str):
        whole = tokenizer(prompt + answer + tokenizer.eos_token)["input_ids"]
        return list(whole), len(tokenizer(prompt)["input_ids"])
    asked = tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, return_dict=False)
    return list(tokenizer.apply_chat_template([*prompt, *answer], return_dict=False)), len(asked)


def to_tokens(rows: Sequence[Row], tokenizer: Any, max_length: int) -> Any:
    """Rows as TRL takes them when there is nothing left to tokenise."""
    from datasets import Dataset

    made = []
    for row in rows:
        ids, start = tokens_of(row, tokenizer, max_length)
        made.append({"input_ids": ids, "completion_mask": [0] * start + [1] * (len(ids) - start)})
    return Dataset.from_list(made)


def put_right(trainer: Any, rows: Sequence[Row], tokenizer: Any, max_length: int) -> int:
    """Put recorded tokens in the place of those that a DPO or KTO trainer made of `rows`; returns of how many rows."""
    from datasets import Dataset

    prepared = trainer.train_dataset.to_list() if any(row.get(PROMPT_IDS) for row in rows) else []
    if len(prepared) != len(rows):
        return 0
    served = [_served(row, tokenizer, max_length) for row in rows]
    if not any(served):
        return 0
    for made, recorded in zip(prepared, served, strict=True):
        made.update(recorded)
    if "KL_completion_ids" in prepared[0]:
        _exchange(prepared, trainer.args.per_device_train_batch_size)
    trainer.train_dataset = Dataset.from_list(prepared)
    return sum(map(bool, served))


def _served(row: Row, tokenizer: Any, max_length: int) -> dict[str, list[int]]:
    """A row's recorded tokens under a trainer's names; nothing where an answer does not end, or does not fit."""
    prompt = row.get(PROMPT_IDS)
    answers = {PREPARED[name]: list(row[name]) for name in PREPARED if row.get(name)}
    whole = all(
        ids[-1] == tokenizer.eos_token_id and len(prompt or ()) + len(ids) <= max_length
        for ids in answers.values()
    )
    return {"prompt_ids": list(prompt), **answers} if prompt and answers and whole else {}


def _exchange(prepared: list[dict[str, Any]], batch_size: int) -> None:
    """KTO estimates divergence on answers exchanged within a batch: TRL's own exchange, on what is there now."""
    for start in range(0, len(prepared), batch_size):
        batch = prepared[start : start + batch_size]
        answers = [row["completion_ids"] for row in batch]
        for row, other in zip(batch, [answers[-1], *answers[:-1]], strict=True):
            row["KL_completion_ids"] = other
