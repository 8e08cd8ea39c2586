"""Rows that repeat what a model should go on knowing, beside what people rated.

The fixed set is a file of demonstrations that the operator uploaded (`training.replay_file`); every run repeats the
same part of it, so that rounds do not differ by chance. Replayed rows are marked: KTO takes them as liked, but leaves
them out of its balance, and nobody stops early by them. DPO has no use for them, since they are not pairs.
"""

import asyncio
from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import uploads
from feedback.datasets import Row
from feedback.models import Model
from retrain.file_rows import FileRow, read_rows, train_row
from retrain.prompts import prompt_text, share_of
from retrain.recipe import Method


async def replayed_rows(connection: AsyncConnection, model: Model, method: Method, rows: int) -> list[Row]:
    """What a run that trains on `rows` rows of its own repeats.

    Raises:
        HoneError: the file is gone, or a line of it is not of the form that SFT takes.
    """
    if method == "dpo":
        return []
    return replayed(await fixed_set(connection, model), method, rows, model.policy.training.replay_share)


async def fixed_set(connection: AsyncConnection, model: Model) -> list[FileRow]:
    """The whole fixed set, of which every run repeats a part; empty where the policy names none.

    Raises:
        HoneError: the file is gone, or a line of it is not of the form that SFT takes.
    """
    if (named := model.policy.training.replay_file) is None:
        return []
    file = await uploads.get(connection, model.project, named)

    def read() -> list[FileRow]:
        with uploads.open_content(file.location) as lines:
            return read_rows(lines, "sft", file.filename)

    return await asyncio.to_thread(read)


def replayed(fixed: Sequence[FileRow], method: Method, rows: int, share: float) -> list[Row]:
    """The part of the fixed set that is `share` of the whole with `rows` others; fewer where the set is small."""
    wanted = round(rows * share / (1 - share))
    ordered = sorted(fixed, key=lambda row: (share_of(f"replay:{prompt_text(row.prompt)}"), row.answer))
    kept = []
    for row in ordered[:wanted]:
        columns = train_row(method, FileRow(row.prompt, row.answer, label=True)).columns
        kept.append(Row("train", columns | {"replay": True}, None, (), ()))
    return kept
