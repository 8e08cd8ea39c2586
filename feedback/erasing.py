"""What an erasure does inside the record: find everything of a person or of a completion, and delete it.

Found are the completions that the rater asked for, those of their conversations that name nobody, everything they said,
and everything said of those. Dataset rows that came from any of it go; the dataset keeps its content hash, and says how
many rows it has lost. Runs that train on it now are cancelled, since their rows are no longer those of the dataset.

What operators wrote by hand (golden questions, uploaded files) names nobody and cannot be found.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy import ARRAY, ColumnElement, Text, and_, cast, delete, func, literal, or_, select, update
from sqlalchemy.dialects.postgresql import array
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import exposure_sums, runs, tombstones
from feedback.completions import day_of
from feedback.review_tables import dataset_exclusions, reviews
from feedback.runs import UNFINISHED
from feedback.tables import (
    completion_redacted,
    completion_texts,
    completions,
    dataset_rows,
    datasets,
    feedback,
)
from feedback.tables import runs as run_rows
from feedback.vote_tables import retractions, token_raters


@dataclass(frozen=True, slots=True)
class Found:
    """Everything of one person, or of one completion, by id."""

    project: str
    rater: str | None
    sessions: tuple[str, ...]
    completion_ids: tuple[str, ...]
    feedback_ids: tuple[str, ...]

    def with_what(self, before: Mapping[str, Any] | None) -> "Found":
        """The same together with what was found earlier, as it is kept with the erasure."""
        if before is None:
            return self

        def together(name: str) -> tuple[str, ...]:
            return tuple(sorted({*before[name], *getattr(self, name)}))

        sessions, completion_ids, feedback_ids = map(together, ("sessions", "completion_ids", "feedback_ids"))
        return replace(self, sessions=sessions, completion_ids=completion_ids, feedback_ids=feedback_ids)

    @property
    def names(self) -> list[str]:
        """What files may name it by."""
        return [*([self.rater] if self.rater else ()), *self.completion_ids, *self.feedback_ids]


@dataclass(frozen=True, slots=True)
class Erased:
    """What was deleted: rows by table, and what follows from it."""

    counts: dict[str, int]
    trained_datasets: tuple[str, ...]
    """Those that lost rows which were trained on."""
    run_ids: tuple[str, ...]
    """Every run of a dataset that lost rows: its files go."""


async def find_rater(connection: AsyncConnection, project: str, rater: str) -> Found:
    """Everything of a rater, who is named by pseudonym."""
    own = and_(completions.c.project == project, completions.c.rater == rater)
    named = select(completions.c.session).where(own, completions.c.session.is_not(None)).distinct()
    sessions = tuple(await connection.scalars(named))
    nameless = and_(
        completions.c.project == project,
        completions.c.rater.is_(None),
        completions.c.session.in_(sessions),
    )
    about = select(completions.c.completion_id).where(or_(own, nameless) if sessions else own)
    ids = tuple(await connection.scalars(about.order_by(completions.c.completion_id)))
    said = await _said(connection, project, ids, sessions, feedback.c.rater == rater)
    return Found(project, rater, sessions, ids, said)


async def find_completion(connection: AsyncConnection, project: str, completion_id: str) -> Found:
    """Everything of one completion."""
    said = await _said(connection, project, (completion_id,), (), feedback.c.completion_id == completion_id)
    return Found(project, None, (), (completion_id,), said)


async def _said(
    connection: AsyncConnection,
    project: str,
    completion_ids: Sequence[str],
    sessions: Sequence[str],
    also: ColumnElement[bool],
) -> tuple[str, ...]:
    preferred = feedback.c.value.op("#>>")(cast(array([], type_=Text), ARRAY(Text)))
    query = select(feedback.c.feedback_id).where(
        feedback.c.project == project,
        or_(
            also,
            _in(feedback.c.completion_id, completion_ids),
            _in(feedback.c.session, sessions),
            and_(feedback.c.kind == "preference", _in(preferred, completion_ids)),
        ),
    )
    return tuple(await connection.scalars(query.order_by(feedback.c.feedback_id)))


def _in(column: ColumnElement[Any], values: Sequence[str]) -> ColumnElement[bool]:
    # One array parameter: a person may have more completions than a statement may have parameters.
    return column == func.any(literal(list(values), ARRAY(Text)))


def _overlap(column: ColumnElement[Any], values: Sequence[str]) -> ColumnElement[bool]:
    return column.bool_op("&&")(literal(list(values), ARRAY(Text)))


async def bury(connection: AsyncConnection, erasure_id: str, found: Found) -> None:
    """Set the tombstones of what was found: completions for ever, conversations for as long as their rater's."""
    await tombstones.bury(connection, erasure_id, found.completion_ids)
    if found.rater is not None:
        rater = tombstones.rater_subject(found.project, found.rater)
        until = await tombstones.refused_until(connection, rater)
        conversations = (tombstones.session_subject(found.project, one) for one in found.sessions)
        await tombstones.bury(connection, erasure_id, conversations, until)


async def erase(connection: AsyncConnection, erasure_id: str, found: Found, *, by: str) -> Erased:
    """Delete what was found and set its tombstones, in the caller's transaction."""
    await bury(connection, erasure_id, found)
    lost = await _erase_dataset_rows(connection, found)
    days = sorted({day_of(one) for one in found.completion_ids})
    about_ids = _in(reviews.c.completion_id, found.completion_ids)
    counts = {"dataset_rows": sum(lost.values())}
    for table, condition in (
        (dataset_exclusions, _excluded(found)),
        (reviews, or_(about_ids, _in(reviews.c.feedback_id, found.feedback_ids))),
        (feedback, _in(feedback.c.feedback_id, found.feedback_ids)),
        (token_raters, _in(token_raters.c.completion_id, found.completion_ids)),
        (token_raters, and_(token_raters.c.project == found.project, token_raters.c.rater == found.rater)),
        (retractions, and_(retractions.c.project == found.project, retractions.c.rater == found.rater)),
        *(
            (table, and_(_in(table.c.completion_id, found.completion_ids), table.c.day.in_(days)))
            for table in (completion_texts, completion_redacted, completions)
        ),
    ):
        deleted = await connection.execute(delete(table).where(condition))
        name = str(table.name)
        counts[name] = counts.get(name, 0) + deleted.rowcount
    await exposure_sums.forget(connection, found.project, [*found.names, *found.sessions])
    trained = tuple(sorted({dataset for dataset, split in lost if split == "train"}))
    run_ids = await _end_runs(connection, found.project, sorted({dataset for dataset, _ in lost}), by=by)
    return Erased({name: count for name, count in counts.items() if count}, trained, run_ids)


def _excluded(found: Found) -> ColumnElement[bool]:
    return or_(
        _in(dataset_exclusions.c.completion_id, found.completion_ids),
        _in(dataset_exclusions.c.feedback_id, found.feedback_ids),
    )


async def _erase_dataset_rows(connection: AsyncConnection, found: Found) -> dict[tuple[str, str], int]:
    """How many rows each dataset lost, by dataset and split."""
    row = dataset_rows.c
    conditions = [
        _overlap(row.completion_ids, found.completion_ids),
        _overlap(row.feedback_ids, found.feedback_ids),
    ]
    if found.rater is not None:
        conditions.append(row.rater == found.rater)
    of_project = select(datasets.c.dataset_id).where(datasets.c.project == found.project)
    gone = delete(dataset_rows).where(row.dataset_id.in_(of_project), or_(*conditions))
    lost: dict[tuple[str, str], int] = {}
    for dataset_id, split in await connection.execute(gone.returning(row.dataset_id, row.split)):
        lost[dataset_id, split] = lost.get((dataset_id, split), 0) + 1
    for dataset_id in {dataset_id for dataset_id, _ in lost}:
        number = sum(count for (one, _), count in lost.items() if one == dataset_id)
        before = func.coalesce(datasets.c.counts["erased"].as_integer(), 0)
        await connection.execute(
            update(datasets)
            .where(datasets.c.dataset_id == dataset_id)
            .values(counts=datasets.c.counts.concat(func.jsonb_build_object("erased", before + number)))
        )
    return lost


async def _end_runs(
    connection: AsyncConnection, project: str, dataset_ids: Sequence[str], *, by: str
) -> tuple[str, ...]:
    rows = (
        await connection.execute(
            select(run_rows.c.run_id, run_rows.c.status)
            .where(run_rows.c.dataset_id.in_(dataset_ids))
            .order_by(run_rows.c.run_id)
        )
    ).all()
    for run in rows:
        if run.status in UNFINISHED:
            await runs.request_cancel(connection, project, run.run_id, by=by)
            await runs.add_event(
                connection, run.run_id, "Cancelled: rows of its dataset were erased.", level="warn"
            )
    return tuple(run.run_id for run in rows)
