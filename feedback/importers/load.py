"""Store what an export holds, as imported: marked as such, under ids that follow from the source, once.

Importing a file again changes nothing, and a crash in the middle is mended by running it again: a batch is one
transaction. A row that changed at the source since (a thumb turned round) replaces what it said before. What was
deleted or erased here stays deleted: its source is remembered without a word of it.

Feedback about an answer that has not been imported is refused, with its line. Raters become pseudonyms, as everywhere.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import islice
from typing import Any

import orjson
from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import completions, submissions, tombstones
from feedback.adapters import Adapter
from feedback.completions import Completion
from feedback.errors import HoneError
from feedback.ids import VARIANT, pseudonym
from feedback.import_tables import imported
from feedback.importers.found import Answer, Found, Importer, Said
from feedback.importers.rows import BadRow, Row
from feedback.metrics import find_metric
from feedback.policy import ModelPolicy
from feedback.redact import redact_row, redact_submission
from feedback.submissions import ANONYMOUS, Submission
from feedback.tables import completions as completions_table
from feedback.tables import feedback

BATCH_ROWS = 500
KEY = "import"
DELETED, ERASED = "what it is about was deleted here", "it was erased here"
THUMBS: dict[Any, bool] = {1: True, 0: False, -1: False}
"""How other systems write a thumb as a number."""


@dataclass(frozen=True, slots=True)
class Target:
    """Whose the imported rows become, and what may be done with them."""

    project: str
    adapter: Adapter
    source: str
    consent: bool
    secret: bytes
    """Of pseudonyms."""
    policy: ModelPolicy
    """Which metrics there are, and what is replaced in texts."""
    thumbs: tuple[str, ...] = ()
    """What the source calls its thumbs."""

    def pseudonym(self, rater: str | None) -> str | None:
        """The rater as recorded."""
        return pseudonym(self.secret, self.project, rater[:256]) if rater else None

    def source_id(self, name: str) -> str:
        """A name of the source as it is remembered: hashed, for a name there may be a person's address."""
        return hashlib.blake2b(name.encode(), key=self.secret[:64], digest_size=16).hexdigest()


@dataclass(slots=True)
class Summary:
    """What an import did."""

    completions: int = 0
    feedback: int = 0
    known: int = 0
    """Completions and feedback that were there already."""
    refused: int = 0
    skipped: Counter[str] = field(default_factory=Counter)
    oldest: datetime | None = None

    def to_json(self) -> dict[str, Any]:
        """For programs."""
        return {
            "completions": self.completions,
            "feedback": self.feedback,
            "known": self.known,
            "refused": self.refused,
            "skipped": dict(+self.skipped),
            "oldest": self.oldest,
        }


@dataclass(slots=True)
class Batch:
    """What some rows hold, with the line each came from."""

    answers: list[tuple[int, Answer]] = field(default_factory=list)
    said: list[tuple[int, Said]] = field(default_factory=list)
    bad: list[BadRow] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


def batches(rows: Iterable[Row | BadRow], importer: Importer, size: int = BATCH_ROWS) -> Iterator[Batch]:
    """What `importer` finds in `rows`, some rows at a time."""
    waiting = iter(rows)
    while some := list(islice(waiting, size)):
        batch = Batch()
        for row in some:
            if isinstance(row, BadRow):
                batch.bad.append(row)
                continue
            try:
                found = list(importer.read(row.fields))
            except HoneError as error:
                batch.bad.append(BadRow(row.line, str(error)))
                continue
            for one in found:
                _put(batch, row.line, one)
        yield batch


def _put(batch: Batch, line: int, found: Found) -> None:
    if isinstance(found, Answer):
        batch.answers.append((line, found))
    elif isinstance(found, Said):
        batch.said.append((line, found))
    else:
        batch.skipped[found.reason] += 1


async def store(connection: AsyncConnection, batch: Batch, target: Target, summary: Summary) -> list[BadRow]:
    """Store one batch and add it to the summary; returns the rows that could not be used."""
    await tombstones.be_waited_for(connection)
    bad = [*batch.bad]
    await _store_answers(connection, [answer for _, answer in batch.answers], target, summary)
    given, unusable = await _submissions(connection, batch.said, target, summary)
    erased = await tombstones.refused(connection, given)
    summary.skipped[ERASED] += len(erased)
    given = [one for one in given if one.feedback_id not in erased]
    new = await store_feedback(connection, given)
    summary.feedback += new
    summary.known += len(given) - new
    bad += unusable
    summary.refused += len(bad)
    summary.skipped += batch.skipped
    return sorted(bad, key=lambda one: one.line)


async def _store_answers(
    connection: AsyncConnection, answers: Sequence[Answer], target: Target, summary: Summary
) -> None:
    by_source = {target.source_id(answer.source_id): answer for answer in answers}
    if not by_source:
        return
    ids = {name: completion_id(target, answer) for name, answer in by_source.items()}
    rows = [_source(target, name, ids[name]) for name in by_source]
    kept = await connection.scalars(
        insert(imported).values(rows).on_conflict_do_nothing().returning(imported.c.source_id)
    )
    new = set(kept)
    arriving = (
        completions.document(_completion(by_source[name], ids[name], target))
        for name in by_source
        if name in new
    )
    stored = await completions.insert_documents(
        connection, [redact_row(row, target.policy.privacy) for row in arriving]
    )
    aliases: dict[str, str] = {}
    for name, answer in by_source.items():
        for alias in map(target.source_id, answer.aliases):
            aliases[alias] = max(aliases.get(alias, ""), ids[name])
    if aliases:
        # Ids sort by time: whatever the order of the rows, an episode, trace or session is its last answer.
        adding = insert(imported).values([_source(target, alias, one) for alias, one in aliases.items()])
        later = func.greatest(imported.c.completion_id, adding.excluded.completion_id)
        await connection.execute(
            adding.on_conflict_do_update(
                index_elements=["project", "source", "source_id"], set_={"completion_id": later}
            )
        )
    summary.completions += stored
    summary.skipped[ERASED] += len(new) - stored
    summary.known += len(by_source) - len(new)
    oldest = min(answer.created_at for answer in by_source.values())
    summary.oldest = min(summary.oldest or oldest, oldest)


def _source(target: Target, name: str, completion: str) -> dict[str, str]:
    return {
        "project": target.project,
        "source": target.source,
        "source_id": name,
        "completion_id": completion,
    }


def completion_id(target: Target, answer: Answer) -> str:
    """The id that an imported completion gets: its time, then a hash of where it comes from."""
    return f"chatcmpl-{hex_id(answer.created_at, target.project, target.source, answer.source_id)}"


def hex_id(at: datetime, *parts: str) -> str:
    """As `feedback.ids.new_hex`, with the noise taken from `parts`."""
    noise = hashlib.blake2b("\0".join(parts).encode(), digest_size=10).hexdigest()
    milliseconds = max(int(at.timestamp() * 1000), 0)
    return f"{milliseconds:012x}7{noise[:3]}{VARIANT[noise[3]]}{noise[4:19]}"


def _completion(answer: Answer, name: str, target: Target) -> Completion:
    rater = target.pseudonym(answer.rater)
    request = {"model": target.adapter.model, "messages": answer.messages}
    return Completion(
        completion_id=name,
        project=target.project,
        model=target.adapter.model,
        adapter_id=target.adapter.adapter_id,
        version=target.adapter.version,
        experiment_id=None,
        arm=None,
        propensity=None,
        unit=rater or answer.session or name,
        rater=rater,
        session=answer.session,
        key_id=KEY,
        engine="",
        endpoint=f"import:{target.source}",
        consent=target.consent,
        status="ok",
        error=None,
        finish_reason=answer.finish_reason,
        request=orjson.dumps(request).decode(),
        output_text=answer.message.get("content") or "",
        message=orjson.dumps(answer.message).decode(),
        prompt_token_ids=None,
        output_token_ids=None,
        prompt_tokens=answer.prompt_tokens,
        output_tokens=answer.output_tokens,
        metadata=orjson.dumps(answer.metadata).decode() if answer.metadata else None,
        time_to_first_token_seconds=None,
        time_per_output_token_seconds=None,
        duration_seconds=answer.duration_seconds,
        created_at=answer.created_at,
    )


async def _submissions(
    connection: AsyncConnection, said: Sequence[tuple[int, Said]], target: Target, summary: Summary
) -> tuple[list[Submission], list[BadRow]]:
    """What can be stored, and the lines of what cannot."""
    wanted = {name for _, one in said for name in (*one.about, *([one.better] if one.better else ()))}
    known = await _known(connection, wanted, target)
    given: dict[str, Submission] = {}
    bad: list[BadRow] = []
    for line, one in said:
        try:
            checked = _submission(one, known, target)
        except HoneError as error:
            bad.append(BadRow(line, str(error)))
            continue
        if checked is None:
            summary.skipped[DELETED] += 1
        else:
            given[checked.feedback_id] = checked
    return list(given.values()), bad


async def _known(connection: AsyncConnection, names: set[str], target: Target) -> dict[str, str | None]:
    """The completion of each name that was imported; None where that is not there any more."""
    if not names:
        return {}
    there, hashed = completions_table, {target.source_id(name): name for name in names}
    query = (
        select(imported.c.source_id, there.c.completion_id)
        .select_from(imported)
        .outerjoin(
            there,
            (there.c.completion_id == imported.c.completion_id)
            & (there.c.day == func.completion_day(imported.c.completion_id)),
        )
        .where(
            imported.c.project == target.project,
            imported.c.source == target.source,
            imported.c.source_id == func.any(list(hashed)),
        )
    )
    return {hashed[name]: completion for name, completion in await connection.execute(query)}


def _submission(said: Said, known: dict[str, str | None], target: Target) -> Submission | None:
    about = next((name for name in said.about if name in known), None)
    missing = (
        said.about[0] if about is None else said.better if said.better and said.better not in known else None
    )
    if missing is not None:
        raise HoneError(
            f"what it is about, '{missing}', has not been imported; import that first, or name both files"
        )
    assert about is not None
    completion, better = known[about], known.get(said.better or "")
    if completion is None or (said.better and better is None):
        return None
    name, value = _measured(said, target)
    checked = submissions.submission(
        project=target.project,
        completion_id=completion,
        rater=target.pseudonym(said.rater) or ANONYMOUS,
        kind=said.kind,
        value=better if said.better else value,
        name=name,
        comment=said.comment,
        metadata=said.metadata,
    )
    content = orjson.dumps([checked.kind, checked.name, checked.value, checked.comment]).decode()
    hexadecimal = hex_id(said.created_at, target.project, target.source, said.source_id, completion, content)
    checked = replace(checked, feedback_id=f"fb-{hexadecimal}", created_at=said.created_at)
    return redact_submission(checked, target.policy.privacy)


def _measured(said: Said, target: Target) -> tuple[str | None, Any]:
    """Name and value of a rating as the model's policy declares them; anything else as it is."""
    if said.kind != "rating":
        return said.name, said.value
    is_thumb = said.name is None or said.name in target.thumbs
    name = "thumbs" if is_thumb or said.name is None else said.name
    value = THUMBS.get(said.value, said.value) if is_thumb else said.value
    model = target.adapter.model
    find_metric({model: target.policy.feedback}, model, name, value)
    return name, value


COLUMNS = tuple(name for name in Submission.__dataclass_fields__ if name in feedback.c)
SAME_VOTE = "(completion_id, rater, kind, name)"
VOTES = "SELECT completion_id, rater, kind, name FROM feedback WHERE feedback_id = ANY(:new)"
_ADD = text(f"""
    INSERT INTO feedback ({", ".join(COLUMNS)}, effective, replaced_at)
    SELECT {", ".join(COLUMNS)}, false, now()
    FROM jsonb_populate_recordset(NULL::feedback, CAST(:rows AS jsonb))
    ON CONFLICT (feedback_id) DO NOTHING RETURNING feedback_id""")
_NEWEST = f"""
    SELECT DISTINCT ON {SAME_VOTE} feedback_id, retracted_at IS NULL AS counts FROM feedback
    WHERE {SAME_VOTE} IN ({VOTES})
    ORDER BY completion_id, rater, kind, name, created_at DESC, feedback_id DESC"""
_REPLACE = text(f"""
    UPDATE feedback SET effective = false, replaced_at = now()
    WHERE effective AND {SAME_VOTE} IN ({VOTES})
    AND feedback_id NOT IN (SELECT feedback_id FROM ({_NEWEST}) AS newest)""")
_APPLY = text(f"""
    UPDATE feedback SET effective = true, replaced_at = NULL FROM ({_NEWEST}) AS newest
    WHERE feedback.feedback_id = newest.feedback_id AND newest.counts AND NOT feedback.effective""")


async def store_feedback(connection: AsyncConnection, given: Sequence[Submission]) -> int:
    """Store many submissions at once; of each vote the newest counts. Returns how many were new."""
    if not given:
        return 0
    rows = orjson.dumps([{name: getattr(one, name) for name in COLUMNS} for one in given]).decode()
    new = list(await connection.scalars(_ADD, {"rows": rows}))
    if new:
        await connection.execute(_REPLACE, {"new": new})
        await connection.execute(_APPLY, {"new": new})
    return len(new)
