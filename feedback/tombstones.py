"""What was erased stays out: tombstones refuse what still arrives from spools, late votes and imports.

A tombstone is a hash under a secret of the service, so it holds no name and still recognises one. A rater's refuses
what was made up to the erasure, or whatever comes if the erasure asked for that. Their conversation's does the same to
what names nobody in it and to what is said of it as a whole: others in it are not theirs. A completion's refuses
everything.
"""

import hashlib
from collections.abc import Iterable
from datetime import UTC, datetime

from sqlalchemy import text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import keys
from feedback.privacy_tables import tombstones
from feedback.said import Submission

SECRET = "erasure"
WRITING_LOCK = 0x686F6E69
FOR_EVER = datetime(9999, 1, 1, tzinfo=UTC)

_BURIED = text("""
    SELECT asked.subject, stone.until
    FROM unnest(CAST(:subjects AS text[])) AS asked (subject)
    JOIN tombstones AS stone ON stone.hash = erasure_hash(asked.subject)
    WHERE EXISTS (SELECT FROM tombstones)""")


async def be_waited_for(connection: AsyncConnection) -> None:
    """Have erasures wait for this transaction: who writes what was said calls it before looking for tombstones."""
    await connection.execute(text("SELECT pg_advisory_xact_lock_shared(:lock)"), {"lock": WRITING_LOCK})


def rater_subject(project: str, rater: str) -> str:
    """What a rater's tombstone is a hash of, here and in `feedback.completions`."""
    return f"rater/{project}/{rater}"


def session_subject(project: str, session: str) -> str:
    """What a conversation's tombstone is a hash of."""
    return f"session/{project}/{session}"


async def bury(
    connection: AsyncConnection, erasure_id: str, subjects: Iterable[str], until: datetime | None = None
) -> None:
    """Set tombstones; `until` is the moment up to which they refuse, None: for ever."""
    secret = await keys.service_secret(connection, SECRET)
    hashes = sorted({hashlib.sha256(secret + subject.encode()).digest() for subject in subjects})
    if not hashes:
        return
    stone = insert(tombstones)
    later = {"until": text("greatest(tombstones.until, excluded.until)")}
    statement = stone.on_conflict_do_update(index_elements=["hash"], set_=later)
    limit = until or FOR_EVER
    await connection.execute(
        statement, [{"hash": one, "erasure_id": erasure_id, "until": limit} for one in hashes]
    )


async def refused_until(connection: AsyncConnection, subject: str) -> datetime:
    """The moment up to which a subject that has a tombstone is refused; `FOR_EVER`: whatever comes."""
    until: datetime = (await connection.execute(_BURIED, {"subjects": [subject]})).one().until
    return until


async def subject_hash(connection: AsyncConnection, subject: str) -> bytes:
    """The hash of one subject."""
    return hashlib.sha256(await keys.service_secret(connection, SECRET) + subject.encode()).digest()


async def refused(connection: AsyncConnection, given: Iterable[Submission]) -> set[str]:
    """Which of these submissions must not be stored, by feedback id."""
    about = {one.feedback_id: (one.created_at, _subjects(one)) for one in given}
    subjects = sorted({subject for _, named in about.values() for subject in named})
    found = {row.subject: row.until for row in await connection.execute(_BURIED, {"subjects": subjects})}
    return {
        feedback_id
        for feedback_id, (at, named) in about.items()
        if any(subject in found and at <= found[subject] for subject in named)
    }


def _subjects(given: Submission) -> list[str]:
    named = [rater_subject(given.project, given.rater)]
    if given.completion_id is not None:
        named.append(given.completion_id)
    if given.session is not None:
        named.append(session_subject(given.project, given.session))
    if given.kind == "preference" and isinstance(given.value, str):
        named.append(given.value)
    return named
