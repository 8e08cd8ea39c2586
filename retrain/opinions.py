"""What the record knows for training, one effective submission at a time, through a server-side cursor.

Reads only. What becomes a row, and why the rest does not, is decided elsewhere: `ballots` looks at one submission,
`rules` at all of them. Memory does not grow with the record.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Text, cast, func, literal, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback.completions import for_training
from feedback.fresh import TRAINING_KINDS
from feedback.review_tables import reviews
from feedback.tables import adapters, completions, feedback
from retrain.prompts import Unusable, prompt_of

BATCH = 1000


@dataclass(frozen=True, slots=True)
class Answered:
    """A completion, as training sees it."""

    completion_id: str
    endpoint: str
    request: dict[str, Any] | None
    """None once its text was deleted."""
    answer: str
    has_tool_calls: bool
    finish_reason: str | None
    status: str
    consent: bool
    withdrawn: bool
    """Whether the version that answered was aborted and has not come back."""
    version: int | None
    """None: an upstream answered, and the policy lets its answers be trained on."""
    session: str | None
    rater: str | None
    """Who asked."""


@dataclass(frozen=True, slots=True)
class Opinion:
    """One effective submission about a completion, or a reviewer's answer to it."""

    feedback_id: str | None
    review_id: str | None
    rater: str
    kind: str
    name: str
    value: Any
    created_at: datetime
    review: str | None
    """What a reviewer decided: `included`, `excluded`, `corrected`, or nothing (yet)."""
    about: Answered
    preferred: Answered | None = None
    """The completion that a preference names as the better one."""


async def opinions(
    connection: AsyncConnection, project: str, model: str, votes: Sequence[str] = ()
) -> AsyncIterator[list[Opinion]]:
    """Everything effective that was said of the model's completions, in batches of no particular order.

    Signals are left out, but for those that are named among the metrics that count as `votes`.
    """
    signals = (feedback.c.kind == "signal") & feedback.c.name.in_(votes)
    queries = (
        _of_raters(project, model, feedback.c.kind.in_(("rating", "demonstration")) | signals),
        _of_raters(project, model, feedback.c.kind == "preference", compared=True),
        _of_reviewers(project, model),
    )
    for query in queries:
        async with connection.stream(query, execution_options={"yield_per": BATCH}) as result:
            async for batch in result.partitions(BATCH):
                yield [_opinion(row) for row in batch]


async def questions_asked(
    connection: AsyncConnection, project: str, model: str, number: int
) -> AsyncIterator[tuple[str, str]]:
    """The last message, and the rater, of a sample of completions that something was said of.

    The sample depends on the ids alone, not on when it is drawn.
    """
    said = (
        select(feedback.c.completion_id, func.min(feedback.c.rater).label("said_by"))
        .where(feedback.c.project == project, feedback.c.effective, feedback.c.kind.in_(TRAINING_KINDS))
        .group_by(feedback.c.completion_id)
        .subquery("said")
    )
    sampled = (
        select(said.c.completion_id, said.c.said_by)
        .join(completions, completions.c.completion_id == said.c.completion_id)
        .where(completions.c.project == project, completions.c.model == model, completions.c.consent)
        .order_by(func.md5(said.c.completion_id))
        .limit(number)
        .subquery("sampled")
    )
    about = for_training().subquery("about")
    query = select(about.c.endpoint, about.c.request, sampled.c.said_by).join(
        sampled, sampled.c.completion_id == about.c.completion_id
    )
    for endpoint, request, rater in await connection.execute(query):
        try:
            prompt = prompt_of(endpoint, request or {})
        except Unusable:
            continue
        yield (prompt if isinstance(prompt, str) else prompt[-1]["content"]), rater


def _of_raters(project: str, model: str, wanted: Any, *, compared: bool = False) -> Any:
    """Effective feedback beside its completion, the one it prefers, and what a reviewer decided of it."""
    about, better = _answered("about"), _answered("better")
    better_columns: list[Any] = []
    joined: Any = feedback.join(about, about.c.completion_id == feedback.c.completion_id)
    if compared:
        named = better.c.completion_id == feedback.c.value.op("#>>")(text("'{}'"))
        same = (better.c.project == project) & (better.c.model == model)
        joined, better_columns = joined.outerjoin(better, named & same), _columns(better, "better")
    return (
        select(
            feedback.c.feedback_id,
            cast(None, Text).label("review_id"),
            feedback.c.rater.label("said_by"),
            feedback.c.kind,
            feedback.c.name,
            feedback.c.value,
            feedback.c.created_at.label("said_at"),
            _decision().label("review"),
            *_columns(about, "about"),
            *better_columns,
        )
        .select_from(joined)
        .where(
            about.c.project == project,
            about.c.model == model,
            feedback.c.project == project,
            feedback.c.effective,
            wanted,
        )
    )


def _of_reviewers(project: str, model: str) -> Any:
    """Answers that a reviewer wrote, or let in from a proposal."""
    about, nothing = _answered("about"), cast(None, Text)
    written = (reviews.c.status == "corrected") | (
        (reviews.c.kind == "proposal") & (reviews.c.status == "included")
    )
    return (
        select(
            nothing.label("feedback_id"),
            reviews.c.review_id,
            # Their row stands under who asked: erasing that person must find it.
            func.coalesce(about.c.rater, reviews.c.decided_by).label("said_by"),
            literal("demonstration").label("kind"),
            literal("review").label("name"),
            func.to_jsonb(reviews.c.answer).label("value"),
            reviews.c.decided_at.label("said_at"),
            literal("included").label("review"),
            *_columns(about, "about"),
        )
        .join(about, about.c.completion_id == reviews.c.completion_id)
        .where(reviews.c.project == project, reviews.c.model == model, written, reviews.c.answer.is_not(None))
    )


def _decision() -> Any:
    """A reviewer's newest decision on a submission, or on its whole completion."""
    return (
        select(reviews.c.status)
        .where(
            reviews.c.completion_id == feedback.c.completion_id,
            reviews.c.feedback_id.in_(("", feedback.c.feedback_id)),
            reviews.c.kind != "proposal",
            reviews.c.status != "waiting",
        )
        .order_by(reviews.c.decided_at.desc())
        .limit(1)
        .scalar_subquery()
    )


_ANSWERED = (
    "completion_id",
    "endpoint",
    "request",
    "output_text",
    "message",
    "finish_reason",
    "status",
    "consent",
    "withdrawn",
    "version",
    "session",
    "rater",
)


def _answered(name: str) -> Any:
    completions = for_training().subquery(f"{name}_texts")
    withdrawn = adapters.c.aborted_at.is_not(None) & (adapters.c.state != "champion")
    return (
        select(completions, withdrawn.label("withdrawn"))
        .join(adapters, adapters.c.adapter_id == completions.c.adapter_id, isouter=True)
        .subquery(name)
    )


def _columns(answered: Any, prefix: str) -> list[Any]:
    return [answered.c[name].label(f"{prefix}_{name}") for name in _ANSWERED]


def _opinion(row: Any) -> Opinion:
    values = row._mapping
    return Opinion(
        feedback_id=row.feedback_id,
        review_id=row.review_id,
        rater=row.said_by,
        kind=row.kind,
        name=row.name,
        value=row.value,
        created_at=row.said_at,
        review=row.review,
        about=_completion(values, "about"),
        preferred=_completion(values, "better") if values.get("better_completion_id") else None,
    )


def _completion(values: Any, prefix: str) -> Answered:
    return Answered(
        completion_id=values[f"{prefix}_completion_id"],
        endpoint=values[f"{prefix}_endpoint"],
        request=values[f"{prefix}_request"],
        answer=values[f"{prefix}_output_text"] or "",
        has_tool_calls=bool((values[f"{prefix}_message"] or {}).get("tool_calls")),
        finish_reason=values[f"{prefix}_finish_reason"],
        status=values[f"{prefix}_status"],
        consent=values[f"{prefix}_consent"],
        withdrawn=bool(values[f"{prefix}_withdrawn"]),
        version=values[f"{prefix}_version"],
        session=values[f"{prefix}_session"],
        rater=values[f"{prefix}_rater"],
    )
