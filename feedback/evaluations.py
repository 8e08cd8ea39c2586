"""What two versions answered to the same held-out rows: kept to be read by a person, and gone when the row is.

The gate's report holds numbers only and stays with the adapter for good. The answers are here, bound to their rows, so
that erasing a person's row erases what was answered to it.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import func, select
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.evaluation_tables import evaluation_answers
from feedback.tables import adapters, dataset_rows, runs

SAME_ROWS_SHARE = 0.5
"""A candidate counts as tried on the same rows when at least this share of them is the same."""


@dataclass(frozen=True, slots=True)
class Answered:
    """One row, as both versions answered it. Scores lie in [0, 1]."""

    champion_answer: str
    candidate_answer: str
    champion_score: float
    candidate_score: float
    champion_repeats_it: bool
    """Still the answer that was voted down, but for small changes."""
    candidate_repeats_it: bool


@dataclass(frozen=True, slots=True)
class Compared:
    """A row of the dataset beside its answers."""

    row_number: int
    split: str
    columns: dict[str, Any]
    answered: Answered

    @property
    def flip(self) -> str:
        """`fixed` or `broken` where an answer that people voted down went or came; else `same`."""
        before, now = self.answered.champion_repeats_it, self.answered.candidate_repeats_it
        return "same" if before == now else "fixed" if before else "broken"


async def record(
    connection: AsyncConnection, run_id: str, dataset_id: str, answers: Sequence[tuple[str, Answered]]
) -> int:
    """Keep the answers, each with the hash of its row; returns how many. Doing it again replaces them."""
    numbers = {
        row_hash: number
        for number, row_hash in await connection.execute(
            select(dataset_rows.c.row_number, dataset_rows.c.row_hash).where(
                dataset_rows.c.dataset_id == dataset_id
            )
        )
    }
    values = [
        {"run_id": run_id, "dataset_id": dataset_id, "row_number": numbers[row_hash]} | asdict(answered)
        for row_hash, answered in answers
        if row_hash in numbers
    ]
    if values:
        statement = insert(evaluation_answers)
        changed = {name: statement.excluded[name] for name in Answered.__dataclass_fields__}
        await connection.execute(
            statement.on_conflict_do_update(constraint="pk_evaluation_answers", set_=changed), values
        )
    return len(values)


async def of_run(connection: AsyncConnection, run_id: str) -> list[Compared]:
    """Every row with both answers: what the candidate broke first, then what it fixed, then by change of score."""
    answers = evaluation_answers.c
    change = answers.candidate_score - answers.champion_score
    broken = answers.candidate_repeats_it & ~answers.champion_repeats_it
    fixed = answers.champion_repeats_it & ~answers.candidate_repeats_it
    query = (
        select(dataset_rows.c.split, dataset_rows.c.columns, evaluation_answers)
        .join(
            dataset_rows,
            (dataset_rows.c.dataset_id == answers.dataset_id)
            & (dataset_rows.c.row_number == answers.row_number),
        )
        .where(answers.run_id == run_id)
        .order_by(broken.desc(), fixed.desc(), change, answers.row_number)
    )
    return [
        Compared(
            row.row_number,
            row.split,
            row.columns,
            Answered(*(getattr(row, name) for name in Answered.__dataclass_fields__)),
        )
        for row in await connection.execute(query)
    ]


async def candidates_tried(connection: AsyncConnection, dataset_id: str) -> int:
    """How many candidates the gate has judged on at least half of this dataset's held-out rows."""
    own = (
        select(dataset_rows.c.row_hash)
        .where(dataset_rows.c.dataset_id == dataset_id, dataset_rows.c.split == "held_out")
        .subquery()
    )
    size = await connection.scalar(select(func.count()).select_from(own)) or 0
    shared = (
        select(func.count(dataset_rows.c.row_hash.distinct()))
        .where(
            dataset_rows.c.dataset_id == runs.c.dataset_id,
            dataset_rows.c.split == "held_out",
            dataset_rows.c.row_hash.in_(select(own.c.row_hash)),
        )
        .scalar_subquery()
    )
    tried = (
        select(func.count())
        .select_from(runs.join(adapters, adapters.c.adapter_id == runs.c.adapter_id))
        .where(adapters.c.evidence_hash != "", shared >= max(1.0, SAME_ROWS_SHARE * size))
    )
    return int(await connection.scalar(tried) or 0)
