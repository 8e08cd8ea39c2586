"""Feedback as people give it: late, early, repeated, changed, taken back.

A submission is stored whether or not its completion has been recorded yet. Of one rater about one completion (or
conversation), the newest submission of a kind and name is effective, by the time at which it was given and not by that
at which it arrives; earlier ones stay as history. Storing a submission again changes nothing. What was acknowledged is
stored whatever it contradicts: only a caller who still waits for an answer is refused.
"""

import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, and_, cast, exists, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import JSONB, insert
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import tombstones
from feedback.completions import day_of
from feedback.errors import NotFound, Refused
from feedback.said import ANONYMOUS as ANONYMOUS
from feedback.said import Retraction as Retraction
from feedback.said import Spooled as Spooled
from feedback.said import Submission as Submission
from feedback.said import read_spooled as read_spooled
from feedback.said import submission as submission
from feedback.tables import completions, feedback
from feedback.vote_tables import retractions, token_raters

COLUMNS = (
    "feedback_id", "project", "completion_id", "session", "rater", "kind", "name", "value", "comment", "metadata",
    "idempotency_id", "key_id", "created_at",
)  # fmt: skip

CONTENT = ("completion_id", "session", "rater", "kind", "name", "value", "comment", "metadata")

LOCKS = 1024
"""Votes share this many locks: a transaction that stores a thousand of them must not fill the server's lock table."""
LOCK_CLASS = 0x686F6E65

# Shared with other writers: an erasure waits for all that may not have seen its tombstones.
_LOCK = text(f"""
    WITH writing AS MATERIALIZED (SELECT pg_advisory_xact_lock_shared({tombstones.WRITING_LOCK}))
    SELECT pg_advisory_xact_lock(:class, slot) FROM writing, unnest(CAST(:slots AS integer[])) AS slot""")


class Attribution(NamedTuple):
    """Whose a recorded completion is."""

    project: str
    model: str
    rater: str | None


async def attributions(connection: AsyncConnection, completion_ids: Iterable[str]) -> dict[str, Attribution]:
    """Whose completions these are; those that are not recorded (yet) are left out."""
    ids = sorted(set(completion_ids))
    if not ids:
        return {}
    query = select(
        completions.c.completion_id, completions.c.project, completions.c.model, completions.c.rater
    )
    query = query.where(
        completions.c.completion_id.in_(ids), completions.c.day.in_(sorted({day_of(one) for one in ids}))
    )
    rows = await connection.execute(query)
    return {row.completion_id: Attribution(row.project, row.model, row.rater) for row in rows}


async def store(connection: AsyncConnection, given: Submission) -> str:
    """Store one submission that was acknowledged; returns the id under which it is kept."""
    [kept] = await store_all(connection, [given])
    return kept


async def store_all(
    connection: AsyncConnection,
    given: Sequence[Submission],
    known: Mapping[str, Attribution] | None = None,
    *,
    acknowledged: bool = True,
) -> list[str]:
    """Make submissions effective in place of their raters' earlier ones; returns the ids under which they are kept.

    `known` are the completions they are about, where the caller has looked them up.

    Raises:
        Refused: nothing was acknowledged yet, and the idempotency id has other content, or the token another rater.
    """
    if not given:
        return []
    await _lock(connection, (name for one in given for name in _lock_names(one)))
    buried = await tombstones.refused(connection, given)
    if buried and not acknowledged:
        raise Refused(
            "The answer, conversation or rater of this feedback was erased on request: nothing more is kept about it.",
            status=410,
            code="erased",
        )
    if known is None:
        about = (one.completion_id for one in given if one.completion_id is not None)
        known = await attributions(connection, about)
    return [
        one.feedback_id
        if one.feedback_id in buried
        else await _store(connection, one, known.get(one.completion_id or ""), acknowledged=acknowledged)
        for one in given
    ]


async def _store(
    connection: AsyncConnection, given: Submission, about: Attribution | None, *, acknowledged: bool
) -> str:
    given, raters = await _whose(connection, given, about, acknowledged=acknowledged)
    same_vote = _same_vote(given, raters)
    claim = and_(
        feedback.c.project == given.project, feedback.c.idempotency_id == (given.idempotency_id or "")
    )
    seen = (
        await connection.execute(
            select(
                exists().where(feedback.c.feedback_id == given.feedback_id).label("here"),
                select(feedback.c.feedback_id).where(claim).scalar_subquery().label("claimed_by"),
                exists().where(same_vote, feedback.c.created_at > given.created_at).label("outdated"),
                exists().where(_retraction_of(given)).label("retracted"),
            )
        )
    ).one()
    if seen.here:
        await _backdate(connection, given, same_vote)
        return given.feedback_id
    if seen.claimed_by is not None:
        given = await _reclaim(connection, given, seen.claimed_by, acknowledged=acknowledged)
        if given.feedback_id == seen.claimed_by:
            return given.feedback_id
    if not seen.outdated:
        await connection.execute(
            update(feedback)
            .where(same_vote, feedback.c.effective)
            .values(effective=False, replaced_at=func.now())
        )
    await connection.execute(
        insert(feedback).values(
            **{column: getattr(given, column) for column in COLUMNS},
            effective=not seen.outdated and not seen.retracted,
            replaced_at=func.now() if seen.outdated else None,
            retracted_at=func.now() if seen.retracted else None,
        )
    )
    return given.feedback_id


async def _backdate(connection: AsyncConnection, given: Submission, same_vote: ColumnElement[bool]) -> None:
    """A submission that was sent again, and arrives for the first time last, was given when it was given first."""
    earlier = await connection.scalar(
        update(feedback)
        .where(feedback.c.feedback_id == given.feedback_id, feedback.c.created_at > given.created_at)
        .values(created_at=given.created_at)
        .returning(feedback.c.feedback_id)
    )
    if earlier is None:
        return
    newest = (
        await connection.execute(
            select(feedback).where(same_vote).order_by(feedback.c.created_at.desc()).limit(1)
        )
    ).one()
    await connection.execute(
        update(feedback)
        .where(same_vote, feedback.c.effective, feedback.c.feedback_id != newest.feedback_id)
        .values(effective=False, replaced_at=func.now())
    )
    await connection.execute(
        update(feedback)
        .where(feedback.c.feedback_id == newest.feedback_id)
        .values(effective=feedback.c.retracted_at.is_(None), replaced_at=None)
    )


async def _whose(
    connection: AsyncConnection, given: Submission, about: Attribution | None, *, acknowledged: bool
) -> tuple[Submission, tuple[str, ...]]:
    """The submission with its rater, and the raters whose vote this is."""
    if given.binds:
        given = await _bind(connection, given, acknowledged=acknowledged)
    own = about.rater if about is not None and about.project == given.project else None
    if not given.named and not given.binds and own is not None:
        given = replace(given, rater=own)
    # Who voted without a name before the completion was recorded is presumed to be the person who asked.
    return given, (given.rater, ANONYMOUS) if given.rater == own else (given.rater,)


async def _bind(connection: AsyncConnection, given: Submission, *, acknowledged: bool) -> Submission:
    claimed = insert(token_raters).values(
        completion_id=given.completion_id, project=given.project, rater=given.rater
    )
    first = claimed.on_conflict_do_update(
        index_elements=["completion_id"], set_={"rater": token_raters.c.rater}
    ).returning(token_raters.c.rater)
    rater = await connection.scalar(first)
    assert rater is not None
    if given.named and rater != given.rater and not acknowledged:
        raise Refused(
            f"The feedback token of {given.completion_id} belongs to whoever used it first, and that was another "
            "rater. Use the token of an answer that this rater got.",
            status=403,
            code="feedback_token_rater",
        )
    return replace(given, rater=rater)


async def _reclaim(
    connection: AsyncConnection, given: Submission, claimed_by: str, *, acknowledged: bool
) -> Submission:
    """Settle that the idempotency id is that of another submission."""
    if given.renews:
        return await _renew(connection, given, claimed_by)
    if acknowledged:
        return replace(given, idempotency_id=None)
    raise Refused(
        f"The id '{given.idempotency_id}' was used for feedback {claimed_by}, which says something else. "
        "Send a new id with new content; to change a vote, send the new one.",
        status=409,
        code="idempotency_conflict",
        param="id",
    )


async def _renew(connection: AsyncConnection, given: Submission, claimed_by: str) -> Submission:
    """The id goes to the newer of the two, unless both say the same."""
    row = await get(connection, given.project, claimed_by)
    assert row is not None
    if row["effective"] and all(row[name] == getattr(given, name) for name in CONTENT):
        return replace(given, feedback_id=claimed_by)
    if row["created_at"] > given.created_at:
        return replace(given, idempotency_id=None)
    await connection.execute(
        update(feedback)
        .where(feedback.c.feedback_id == claimed_by)
        .values(
            idempotency_id=None,
            effective=False,
            replaced_at=func.coalesce(feedback.c.replaced_at, func.now()),
        )
    )
    return given


async def retract(
    connection: AsyncConnection,
    project: str,
    feedback_id: str,
    *,
    rater: str | None = None,
    completion_id: str | None = None,
) -> None:
    """Take a submission back; doing it twice changes nothing.

    With `rater`, only that rater's own; with `completion_id`, only what is about that completion.

    Raises:
        NotFound: there is no such submission of this project (and rater).
    """
    await _lock(connection, [feedback_id])
    conditions = [feedback.c.project == project, feedback.c.feedback_id == feedback_id]
    if rater is not None:
        conditions.append(feedback.c.rater == rater)
    if completion_id is not None:
        conditions.append(or_(feedback.c.completion_id == completion_id, _compares_with(completion_id)))
    done = await connection.scalar(
        update(feedback)
        .where(*conditions)
        .values(effective=False, retracted_at=func.coalesce(feedback.c.retracted_at, func.now()))
        .returning(feedback.c.feedback_id)
    )
    if done is None:
        raise NotFound(f"There is no feedback '{feedback_id}' of yours to take back.")


async def apply_all(connection: AsyncConnection, spooled: Sequence[Spooled]) -> None:
    """Store what was spooled, in its order. A retraction may come before what it takes back."""
    await _lock(connection, (name for one in spooled for name in _lock_names(one)))
    for _, run in groupby(spooled, key=type):
        together = list(run)
        await store_all(connection, [one for one in together if isinstance(one, Submission)])
        for one in together:
            if isinstance(one, Retraction):
                await _take_back(connection, one)


async def _take_back(connection: AsyncConnection, spooled: Retraction) -> None:
    try:
        await retract(
            connection,
            spooled.project,
            spooled.retracts,
            rater=spooled.rater,
            completion_id=spooled.completion_id,
        )
    except NotFound:
        await connection.execute(
            insert(retractions)
            .values(feedback_id=spooled.retracts, project=spooled.project, rater=spooled.rater)
            .on_conflict_do_nothing()
        )


async def of_completion(
    connection: AsyncConnection, project: str, completion_id: str
) -> list[dict[str, Any]]:
    """Everything said of a completion, history included, oldest first."""
    return await _rows(connection, feedback.c.project == project, feedback.c.completion_id == completion_id)


async def of_session(connection: AsyncConnection, project: str, session: str) -> list[dict[str, Any]]:
    """Everything said of a conversation as a whole, history included, oldest first."""
    return await _rows(connection, feedback.c.project == project, feedback.c.session == session)


async def get(connection: AsyncConnection, project: str, feedback_id: str) -> dict[str, Any] | None:
    """One submission with all its columns."""
    found = await _rows(connection, feedback.c.project == project, feedback.c.feedback_id == feedback_id)
    return found[0] if found else None


async def history(connection: AsyncConnection, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """All that the rater of `row` said of the same thing under the same name, oldest first."""
    columns = ("project", "completion_id", "session", "rater", "kind", "name")
    return await _rows(connection, *(feedback.c[name].is_not_distinct_from(row[name]) for name in columns))


async def claimed_by(connection: AsyncConnection, project: str, idempotency_id: str) -> str | None:
    """The submission that has this idempotency id."""
    kept: str | None = await connection.scalar(
        select(feedback.c.feedback_id).where(
            feedback.c.project == project, feedback.c.idempotency_id == idempotency_id
        )
    )
    return kept


async def bound_rater(connection: AsyncConnection, completion_id: str) -> str | None:
    """Who used the token of this completion first, if it was signed without a rater and has been used."""
    rater: str | None = await connection.scalar(
        select(token_raters.c.rater).where(token_raters.c.completion_id == completion_id)
    )
    return rater


async def _rows(connection: AsyncConnection, *conditions: ColumnElement[bool]) -> list[dict[str, Any]]:
    query = select(feedback).where(*conditions).order_by(feedback.c.created_at, feedback.c.feedback_id)
    return [dict(row._mapping) for row in await connection.execute(query)]


async def _lock(connection: AsyncConnection, names: Iterable[str]) -> None:
    # All at once and in one order: two transactions that each store several votes would otherwise wait for each other.
    slots = sorted({zlib.crc32(name.encode()) % LOCKS for name in names})
    await connection.execute(_LOCK, {"class": LOCK_CLASS, "slots": slots})


def _lock_names(given: Spooled) -> list[str]:
    if isinstance(given, Retraction):
        return [given.retracts]
    about = (given.completion_id, given.session, given.value if given.kind == "preference" else None)
    names = [given.feedback_id, *(one for one in about if one is not None)]
    return names if given.idempotency_id is None else [*names, f"{given.project}/{given.idempotency_id}"]


def _same_vote(given: Submission, raters: Sequence[str]) -> ColumnElement[bool]:
    vote = and_(
        feedback.c.project == given.project,
        feedback.c.kind == given.kind,
        feedback.c.name == given.name,
        feedback.c.rater.in_(raters),
    )
    if given.completion_id is None:
        return and_(vote, feedback.c.session == given.session)
    about = feedback.c.completion_id == given.completion_id
    if given.kind == "preference":
        # That A is better than B takes back that B is better than A.
        about = or_(about, and_(feedback.c.completion_id == given.value, _compares_with(given.completion_id)))
    return and_(vote, about)


def _compares_with(completion_id: str) -> ColumnElement[bool]:
    """Whether a preference names this completion as the better one."""
    return and_(feedback.c.kind == "preference", feedback.c.value == cast(completion_id, JSONB))


def _retraction_of(given: Submission) -> ColumnElement[bool]:
    return and_(
        retractions.c.feedback_id == given.feedback_id,
        retractions.c.project == given.project,
        or_(retractions.c.rater.is_(None), retractions.c.rater == given.rater),
    )
