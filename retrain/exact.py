"""Train on the very tokens that were served, where the record has them.

Text that is tokenised again may become other tokens than those the model read and wrote. An approved answer is learned
as it was generated: recorded prompt and output, if the output ends as the model ends an answer. Everything else in the
same training is rendered with the chat template, as TRL does it. SFT only: TRL's DPO and KTO tokenise for themselves.
"""

from collections.abc import Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]

PROMPT_IDS, OUTPUT_IDS = "prompt_token_ids", "output_token_ids"


def has_tokens(row: Row, tokenizer: Any) -> bool:
    """Whether a row carries a whole answer as it was generated."""
    output = row.get(OUTPUT_IDS) or [None]
    return bool(row.get(PROMPT_IDS)) and output[-1] == tokenizer.eos_token_id


def tokens_of(row: Row, tokenizer: Any) -> tuple[list[int], int]:
    """All tokens of a row, and where its answer begins."""
    prompt, answer = row["prompt"], row["completion"]
    if has_tokens(row, tokenizer):
        return [*row[PROMPT_IDS], *row[OUTPUT_IDS]], len(row[PROMPT_IDS])
    if isinstance(prompt, str):
        whole = tokenizer(prompt + answer + tokenizer.eos_token)["input_ids"]
        return list(whole), len(tokenizer(prompt)["input_ids"])
    asked = tokenizer.apply_chat_template(list(prompt), add_generation_prompt=True, return_dict=False)
    return list(tokenizer.apply_chat_template([*prompt, *answer], return_dict=False)), len(asked)


def to_tokens(rows: Sequence[Row], tokenizer: Any) -> Any:
    """Rows as TRL takes them when there is nothing left to tokenise."""
    from datasets import Dataset

    made = []
    for row in rows:
        ids, start = tokens_of(row, tokenizer)
        made.append({"input_ids": ids, "completion_mask": [0] * start + [1] * (len(ids) - start)})
    return Dataset.from_list(made)
