"""The golden set: questions with their right answers that an operator keeps for evaluation.

Every dataset of the model has them in the split `golden`; none trains on them, or on anything nearly the same.
"""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import orjson
from sqlalchemy import delete, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import audit, models
from feedback.errors import HoneError, NotFound
from feedback.ids import new_id
from feedback.review_tables import golden_items


@dataclass(frozen=True, slots=True)
class Golden:
    """One question and its right answer."""

    golden_id: str
    model: str
    prompt: Any
    answer: str
    added_by: str
    created_at: datetime


async def add(
    connection: AsyncConnection, *, project: str, model: str, prompt: Any, answer: str, by: str
) -> Golden:
    """Keep a question; the same question again gets the new answer.

    Raises:
        HoneError: the prompt is neither text nor messages of {role, content}, or the answer is empty.
        NotFound: there is no such model.
    """
    await models.get(connection, project, model)
    prompt = _checked(prompt)
    if not answer.strip():
        raise HoneError("A golden question needs its right answer; this one is empty.")
    digest = hashlib.sha256(orjson.dumps(prompt, option=orjson.OPT_SORT_KEYS)).hexdigest()
    row = (
        await connection.execute(
            insert(golden_items)
            .values(
                golden_id=new_id("gold"),
                project=project,
                model=model,
                prompt_hash=digest,
                prompt=prompt,
                answer=answer,
                added_by=by,
            )
            .on_conflict_do_update(
                index_elements=["project", "model", "prompt_hash"], set_={"answer": answer, "added_by": by}
            )
            .returning(golden_items)
        )
    ).one()
    await audit.write(
        connection,
        project=project,
        actor=by,
        action="add_golden",
        subject=model,
        detail={"golden_id": row.golden_id},
    )
    return _golden(row)


async def of_model(connection: AsyncConnection, project: str, model: str) -> list[Golden]:
    """The golden set of a model, oldest first."""
    query = (
        select(golden_items)
        .where(golden_items.c.project == project, golden_items.c.model == model)
        .order_by(golden_items.c.golden_id)
    )
    return [_golden(row) for row in await connection.execute(query)]


async def remove(connection: AsyncConnection, project: str, golden_id: str, *, by: str) -> None:
    """Take a question out of the set; datasets that have it keep it.

    Raises:
        NotFound: the project has none of this id.
    """
    model = await connection.scalar(
        delete(golden_items)
        .where(golden_items.c.project == project, golden_items.c.golden_id == golden_id)
        .returning(golden_items.c.model)
    )
    if model is None:
        raise NotFound(
            f"Project '{project}' has no golden question '{golden_id}'. `hone dataset golden list` lists."
        )
    await audit.write(
        connection,
        project=project,
        actor=by,
        action="remove_golden",
        subject=model,
        detail={"golden_id": golden_id},
    )


def _checked(prompt: Any) -> Any:
    if isinstance(prompt, str) and prompt.strip():
        return prompt
    if isinstance(prompt, list) and prompt and all(_is_message(one) for one in prompt):
        return [{"role": one["role"], "content": one["content"]} for one in prompt]
    raise HoneError(
        f"Golden prompt {prompt!r:.80} cannot be used: expected text, or a list of "
        '{"role": "user", "content": "..."} that ends with the question.'
    )


def _is_message(value: Any) -> bool:
    return isinstance(value, dict) and all(isinstance(value.get(name), str) for name in ("role", "content"))


def _golden(row: Any) -> Golden:
    return Golden(row.golden_id, row.model, row.prompt, row.answer, row.added_by, row.created_at)
