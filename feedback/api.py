"""`/v1/feedback`: what people say of an answer, accepted whenever it comes.

Accepts a rating before the answer's row exists, and while the database is down (then it waits in the spool and the
answer is 202). The caller shows an API key, or the feedback token that came with the answer. POST only: a link that
rates by GET would be followed by previewers. TensorZero's field names (`inference_id`, `metric_name`, `tags`) are
understood beside ours.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from fastapi import APIRouter, Header, Request, Response
from pydantic import AliasChoices, BaseModel, ConfigDict, Field
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from feedback import submissions, tokens
from feedback.database import Database
from feedback.errors import HoneError, NotFound
from feedback.ids import RATER_ID_LENGTH_MAX, pseudonym
from feedback.submissions import Submission

ANONYMOUS_RATER = "anonymous"
"""Who rated, when neither the call nor the token says: one vote a completion."""
STORE_TIMEOUT_SECONDS = 5.0


class Caller(Protocol):
    """Who calls with an API key."""

    @property
    def key_id(self) -> str:
        """Which key."""

    @property
    def project(self) -> str:
        """Whose completions it may speak of."""


@dataclass(frozen=True, slots=True)
class FeedbackDeps:
    """What the routes need from the process that serves them."""

    database: Database
    token_secret: bytes
    pseudonym_secret: bytes
    identify: Callable[[Request], Caller]
    """Reads the caller's key; raises when there is none or it is wrong."""
    spool: Callable[[Submission], None]
    """Keeps a submission on disk until the database is back."""


class FeedbackBody(BaseModel):
    """What a client posts."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    completion_id: str | None = Field(None, validation_alias=AliasChoices("completion_id", "inference_id"))
    """The id of the answer; may be left out when a feedback token is sent, which names it."""
    kind: str | None = None
    """rating, comment, demonstration or preference; left out: understood from name and value."""
    name: str | None = Field(None, validation_alias=AliasChoices("name", "metric_name"), max_length=64)
    """What is rated; `thumbs` unless said otherwise."""
    value: Any = None
    """true/false or a number; the text; the right answer; or the id of the completion that is better than this one."""
    comment: str | None = None
    """Why, in the rater's words."""
    correction: str | list[dict[str, Any]] | None = None
    """The right answer, beside a rating; the same as a second call of kind `demonstration`."""
    rater_id: str | None = Field(None, max_length=RATER_ID_LENGTH_MAX)
    """Who rates, in the application's own terms; recorded as a pseudonym."""
    metadata: dict[str, Any] | None = Field(None, validation_alias=AliasChoices("metadata", "tags"))
    """Anything the application wants to keep with it."""
    id: str | None = Field(None, max_length=128)
    """The client's own id; sending it again changes nothing."""
    token: str | None = None
    """The feedback token, where a header cannot be set."""


class FeedbackAnswer(BaseModel):
    """What was kept."""

    feedback_id: str
    feedback_ids: list[str]
    status: str
    """stored, or spooled while the database is away."""


def feedback_router(deps: Callable[[Request], FeedbackDeps]) -> APIRouter:
    """The routes under `/v1/feedback`."""
    router = APIRouter(tags=["feedback"])

    @router.post("/v1/feedback", summary="Say what an answer was worth")
    async def give_feedback(
        body: FeedbackBody,
        request: Request,
        response: Response,
        x_hone_feedback_token: Annotated[str | None, Header()] = None,
    ) -> FeedbackAnswer:
        found = deps(request)
        given = _submissions(found, request, body, x_hone_feedback_token)
        try:
            kept = await asyncio.wait_for(_store(found.database, given), STORE_TIMEOUT_SECONDS)
            status = "stored"
        except (OSError, TimeoutError, SQLAlchemyError) as error:
            if isinstance(error, DBAPIError) and not _is_outage(error):
                raise
            for submission in given:
                found.spool(submission)
            kept, status, response.status_code = [one.feedback_id for one in given], "spooled", 202
        return FeedbackAnswer(feedback_id=kept[0], feedback_ids=kept, status=status)

    @router.delete("/v1/feedback/{feedback_id}", status_code=204, summary="Take back what was said")
    async def retract_feedback(
        feedback_id: str,
        request: Request,
        x_hone_feedback_token: Annotated[str | None, Header()] = None,
    ) -> None:
        found = deps(request)
        async with found.database.begin() as connection:
            if x_hone_feedback_token is not None:
                grant = tokens.verify(found.token_secret, x_hone_feedback_token)
                rater = grant.rater or ANONYMOUS_RATER
                await submissions.retract(connection, grant.project, feedback_id, rater=rater)
            else:
                await submissions.retract(connection, found.identify(request).project, feedback_id)

    return router


def _submissions(
    deps: FeedbackDeps, request: Request, body: FeedbackBody, header: str | None
) -> list[Submission]:
    token = header or body.token
    if token is not None:
        grant = tokens.verify(deps.token_secret, token)
        if body.completion_id not in (None, grant.completion_id):
            raise HoneError(
                f"The feedback token is for {grant.completion_id}, but the body names {body.completion_id}. "
                "Send the token that came with that answer."
            )
        # The token, not the body, says who rates: a browser could otherwise vote in somebody else's name.
        return _of_body(body, grant.project, grant.completion_id, grant.rater or ANONYMOUS_RATER, None)
    caller = deps.identify(request)
    if not body.completion_id:
        raise HoneError(
            "The body has no completion_id. Send the `id` of the answer, such as chatcmpl-0199..."
        )
    rater = body.rater_id and pseudonym(deps.pseudonym_secret, caller.project, body.rater_id)
    return _of_body(body, caller.project, body.completion_id, rater or ANONYMOUS_RATER, caller.key_id)


def _of_body(
    body: FeedbackBody, project: str, completion_id: str, rater: str, key_id: str | None
) -> list[Submission]:
    kind = body.kind or _understood_kind(body)
    said: list[tuple[str, Any, str | None]] = []
    if kind is not None and body.value is not None:
        said.append((kind, body.value, body.comment))
    elif body.comment is not None:
        said.append(("comment", body.comment, None))
    if body.correction is not None:
        said.append(("demonstration", body.correction, None))
    if not said:
        raise HoneError("The body says nothing: send a `value`, a `comment` or a `correction`.")
    return [
        submissions.submission(
            project=project,
            completion_id=completion_id,
            rater=rater,
            kind=one_kind,
            value=value,
            name=body.name if position == 0 else None,
            comment=comment,
            metadata=body.metadata,
            idempotency_id=body.id and (body.id if position == 0 else f"{body.id}:{one_kind}"),
            key_id=key_id,
        )
        for position, (one_kind, value, comment) in enumerate(said)
    ]


def _understood_kind(body: FeedbackBody) -> str | None:
    if body.name in ("comment", "demonstration", "preference"):
        return body.name
    return "rating" if body.value is not None else None


async def _store(database: Database, given: list[Submission]) -> list[str]:
    async with database.begin() as connection:
        for one in given:
            if await submissions.completion_is_elsewhere(connection, one.project, one.completion_id):
                raise NotFound(f"Project '{one.project}' has no completion '{one.completion_id}'.")
        return [await submissions.store(connection, one) for one in given]


def _is_outage(error: DBAPIError) -> bool:
    """Whether the database was out of reach, rather than refusing what it was told."""
    sqlstate = getattr(error.orig, "sqlstate", None)
    return error.connection_invalidated or sqlstate is None or sqlstate[:2] in ("08", "57", "53")
