"""The review queue: what a person decides before it is trained on.

- `wait_for` puts raters' corrections before a reviewer, `propose` an answer that nobody rated (a teacher's), each once.
- `include`, `exclude` and `correct` decide about what waits, or about any completion, waiting or not; `approve` lets in
  what waits as it stands. A decision may be changed; the newest holds.
- Every decision has an audit row, without text. The next dataset honours it; those that are frozen stay as they are.

Nothing here overrides consent: a completion without it never enters a dataset, whatever was decided.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, func, select, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import audit
from feedback.completions import is_one, with_text
from feedback.errors import HoneError, IllegalMove, NotFound
from feedback.ids import new_id
from feedback.review_tables import REVIEW_STATUSES, reviews
from feedback.tables import completions, feedback

ANSWER_CHARACTERS_MAX = 100_000


@dataclass(frozen=True, slots=True)
class Review:
    """One thing to decide, or decided."""

    review_id: str
    project: str
    model: str
    completion_id: str
    feedback_id: str
    """Empty: about the whole completion."""
    kind: str
    status: str
    reason: str
    answer: str | None
    proposed_by: str
    decided_by: str | None
    created_at: datetime
    decided_at: datetime | None


async def propose(
    connection: AsyncConnection, *, project: str, completion_id: str, answer: str, reason: str, by: str
) -> Review:
    """Propose a better answer to what a completion was asked; it is trained on once a reviewer approves.

    A newer proposal replaces one that still waits; one that was decided stays decided.

    Raises:
        NotFound: the project has no such completion.
        HoneError: the answer is empty or too long.
    """
    _check_answer(answer)
    model = await _model_of(connection, project, completion_id)
    values = {"answer": answer, "reason": reason, "proposed_by": by}
    await connection.execute(
        _new(project, model, completion_id, kind="proposal", **values).on_conflict_do_update(
            index_elements=["completion_id", "feedback_id", "kind"],
            set_=values,
            where=reviews.c.status == "waiting",
        )
    )
    found = await connection.execute(
        select(reviews).where(reviews.c.completion_id == completion_id, reviews.c.kind == "proposal")
    )
    return Review(**found.one()._mapping)


async def wait_for(
    connection: AsyncConnection,
    *,
    project: str,
    model: str,
    corrections: Sequence[tuple[str, str]],
    reason: str,
) -> int:
    """Put corrections (completion, feedback) before a reviewer; those known already stay as they are."""
    if not corrections:
        return 0
    rows = [
        {
            "review_id": new_id("rev"),
            "project": project,
            "model": model,
            "completion_id": completion_id,
            "feedback_id": feedback_id,
            "kind": "correction",
            "status": "waiting",
            "reason": reason,
            "proposed_by": "rater",
        }
        for completion_id, feedback_id in corrections
    ]
    added = await connection.execute(
        insert(reviews).values(rows).on_conflict_do_nothing().returning(reviews.c.review_id)
    )
    return len(added.all())


async def in_project(
    connection: AsyncConnection,
    project: str,
    *,
    model: str | None = None,
    status: str | None = "waiting",
    limit: int = 100,
) -> list[Review]:
    """What waits (or has another status, or any when None), oldest first."""
    query = select(reviews).where(reviews.c.project == project).order_by(reviews.c.review_id).limit(limit)
    if model is not None:
        query = query.where(reviews.c.model == model)
    if status is not None:
        query = query.where(reviews.c.status == status)
    return [Review(**row._mapping) for row in await connection.execute(query)]


async def decided(connection: AsyncConnection, project: str, model: str, *, limit: int) -> list[Review]:
    """What somebody decided about, the newest decision first."""
    query = (
        select(reviews)
        .where(reviews.c.project == project, reviews.c.model == model, reviews.c.status != "waiting")
        .order_by(reviews.c.decided_at.desc().nulls_last(), reviews.c.review_id.desc())
        .limit(limit)
    )
    return [Review(**row._mapping) for row in await connection.execute(query)]


async def with_texts(
    connection: AsyncConnection,
    project: str,
    *,
    model: str | None = None,
    status: str | None = "waiting",
    limit: int = 100,
) -> list[dict[str, Any]]:
    """The same, each with what there is to decide: `question`, the answer `before`, and `after`."""
    found = await in_project(connection, project, model=model, status=status, limit=limit)
    query = with_text().where(
        completions.c.project == project,
        completions.c.completion_id.in_([one.completion_id for one in found]),
    )
    said = {row.completion_id: row for row in await connection.execute(query)}
    written = await connection.execute(
        select(feedback.c.feedback_id, feedback.c.value).where(
            feedback.c.feedback_id.in_([one.feedback_id for one in found if one.feedback_id])
        )
    )
    values = {row.feedback_id: row.value for row in written}
    rows = []
    for one in found:
        row = said.get(one.completion_id)
        rows.append(
            asdict(one)
            | {
                "question": _last_asked(row.request) if row else None,
                "before": row.output_text if row else None,
                "after": one.answer or _text(values.get(one.feedback_id)),
            }
        )
    return rows


def checked_status(status: str) -> str | None:
    """A status to list, None for all.

    Raises:
        HoneError: there is no such status.
    """
    if status != "all" and status not in REVIEW_STATUSES:
        raise HoneError(f"Status is '{status}'; expected {', '.join(REVIEW_STATUSES)} or all.")
    return None if status == "all" else status


async def get(connection: AsyncConnection, project: str, review_id: str, *, lock: bool = False) -> Review:
    """One review; with `lock` one that nobody else decides until this transaction ends.

    Raises:
        NotFound: the project has none of this id.
    """
    query = select(reviews).where(reviews.c.project == project, reviews.c.review_id == review_id)
    row = (await connection.execute(query.with_for_update() if lock else query)).one_or_none()
    if row is None:
        raise NotFound(
            f"Project '{project}' has no review '{review_id}'. `hone review list` shows what waits."
        )
    return Review(**row._mapping)


async def approve(
    connection: AsyncConnection, project: str, review_id: str, *, by: str, reason: str = ""
) -> Review:
    """Let in what waits, as it stands.

    Raises:
        NotFound: there is no such review.
        IllegalMove: it does not wait any more.
    """
    found = await get(connection, project, review_id, lock=True)
    if found.status != "waiting":
        raise IllegalMove(
            f"{review_id} is '{found.status}' since {found.decided_by} decided. "
            "`hone review include`, `exclude` and `correct` change a decision."
        )
    return await _decide(connection, found, "included", by=by, reason=reason)


async def include(
    connection: AsyncConnection, project: str, subject: str, *, by: str, reason: str = ""
) -> Review:
    """Let in a review, or everything said of a completion, past the rules about raters, facts and limits.

    Raises:
        NotFound: there is no such review or completion.
    """
    return await _decide(
        connection, await _of(connection, project, subject), "included", by=by, reason=reason
    )


async def exclude(
    connection: AsyncConnection, project: str, subject: str, *, by: str, reason: str = ""
) -> Review:
    """Keep a review, or everything said of a completion, out of every later dataset.

    Raises:
        NotFound: there is no such review or completion.
    """
    return await _decide(
        connection, await _of(connection, project, subject), "excluded", by=by, reason=reason
    )


async def correct(
    connection: AsyncConnection, project: str, subject: str, *, answer: str, by: str, reason: str = ""
) -> Review:
    """Train on this answer instead of what was said, for a review or a completion.

    Raises:
        NotFound: there is no such review or completion.
        HoneError: the answer is empty or too long.
    """
    _check_answer(answer)
    found = await _of(connection, project, subject)
    return await _decide(connection, found, "corrected", by=by, reason=reason, answer=answer)


async def decided_since(connection: AsyncConnection, project: str, model: str, since: datetime | None) -> int:
    """How many decisions of a model were made after `since`: the next dataset would differ by them."""
    query = select(func.count()).where(
        reviews.c.project == project, reviews.c.model == model, reviews.c.decided_at.is_not(None)
    )
    if since is not None:
        query = query.where(reviews.c.decided_at > since)
    return int(await connection.scalar(query) or 0)


async def forget(connection: AsyncConnection, completion_ids: Sequence[str]) -> int:
    """Delete every review of these completions, for an erasure; returns how many there were."""
    gone = await connection.execute(
        delete(reviews)
        .where(reviews.c.completion_id.in_(list(completion_ids)))
        .returning(reviews.c.review_id)
    )
    return len(gone.all())


async def _of(connection: AsyncConnection, project: str, subject: str) -> Review:
    """The review of that id, or the one about the whole completion of that id, made if there is none."""
    if subject.startswith("rev-"):
        return await get(connection, project, subject, lock=True)
    model = await _model_of(connection, project, subject)
    new = _new(
        project, model, subject, kind="completion", reason="taken up by an operator", proposed_by="operator"
    )
    await connection.execute(new.on_conflict_do_nothing())
    found = await connection.execute(
        select(reviews)
        .where(
            reviews.c.project == project, reviews.c.completion_id == subject, reviews.c.kind == "completion"
        )
        .with_for_update()
    )
    return Review(**found.one()._mapping)


def _new(project: str, model: str, completion_id: str, **values: Any) -> Any:
    return insert(reviews).values(
        review_id=new_id("rev"),
        project=project,
        model=model,
        completion_id=completion_id,
        status="waiting",
        **values,
    )


async def _decide(
    connection: AsyncConnection,
    found: Review,
    status: str,
    *,
    by: str,
    reason: str,
    answer: str | None = None,
) -> Review:
    changes: dict[str, Any] = {"status": status, "decided_by": by, "decided_at": func.clock_timestamp()}
    if reason:
        changes["reason"] = reason
    if answer is not None:
        changes["answer"] = answer
    row = (
        await connection.execute(
            update(reviews).where(reviews.c.review_id == found.review_id).values(**changes).returning(reviews)
        )
    ).one()
    await audit.write(
        connection,
        project=found.project,
        actor=by,
        action=f"review_{status}",
        subject=found.completion_id,
        detail={"review_id": found.review_id, "feedback_id": found.feedback_id, "before": found.status},
    )
    return Review(**row._mapping)


async def _model_of(connection: AsyncConnection, project: str, completion_id: str) -> str:
    model: str | None = await connection.scalar(
        select(completions.c.model).where(
            completions.c.project == project, is_one(completions, completion_id)
        )
    )
    if model is None:
        raise NotFound(f"Project '{project}' has no completion '{completion_id}'.")
    return model


def _last_asked(request: Any) -> str | None:
    messages = (request or {}).get("messages")
    return _text(messages or (request or {}).get("prompt"))


def _text(value: Any) -> str | None:
    """The last text of a string, or of messages."""
    if isinstance(value, list) and value and isinstance(value[-1], dict):
        value = value[-1].get("content")
    return value if value is None or isinstance(value, str) else str(value)


def _check_answer(answer: str) -> None:
    if not answer.strip() or len(answer) > ANSWER_CHARACTERS_MAX:
        raise HoneError(
            f"The answer has {len(answer)} characters; expected 1 to {ANSWER_CHARACTERS_MAX}, not only spaces."
        )
