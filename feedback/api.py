"""`/v1/feedback`: what people say of an answer or a conversation, accepted whenever it comes.

Accepts a rating before the answer's row exists, and while the database is down (then it waits in the spool and the
answer is 202). The caller shows an API key, or the feedback token that came with the answer. POST only: a link that
rates by GET would be followed by previewers, so it is refused and never recorded. TensorZero's field names
(`inference_id`, `episode_id`, `metric_name`, `tags`) are understood beside ours.
"""

import time
from collections.abc import Callable
from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Header, Request, Response
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from feedback import submissions, tokens
from feedback.desk import Desk, Kept, Speaker
from feedback.errors import HoneError, NotFound, Refused
from feedback.ids import RATER_ID_LENGTH_MAX
from feedback.metrics import KIND_NAMES, SIGNALS
from feedback.submissions import ANONYMOUS, Submission
from feedback.values import ID_CHARS_MAX, feedback_named

DAY_SECONDS = 86_400
IDEMPOTENCY_CHARS_MAX = 128

TokenHeader = Annotated[str | None, Header(alias="x-hone-feedback-token")]
IdempotencyHeader = Annotated[str | None, Header(alias="idempotency-key")]


class FeedbackBody(BaseModel):
    """What a client posts."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    completion_id: str | None = Field(
        None, validation_alias=AliasChoices("completion_id", "inference_id"), max_length=ID_CHARS_MAX
    )
    """The id of the answer; may be left out when a feedback token is sent, which names it."""
    session_id: str | None = Field(
        None, validation_alias=AliasChoices("session_id", "episode_id"), max_length=ID_CHARS_MAX
    )
    """The conversation, in place of an answer: what was sent as `x-hone-session-id`."""
    kind: str | None = None
    """rating, comment, demonstration, preference or signal; left out: understood from name and value."""
    name: str | None = Field(None, validation_alias=AliasChoices("name", "metric_name"), max_length=64)
    """What is rated: `thumbs` unless said otherwise, a metric of the model's policy, or a signal."""
    value: Any = None
    """true/false, a number or a category; the text; the right answer; or the id of the completion that is better than
    this one, or both as `{"chosen": id, "rejected": id}`."""
    comment: str | None = None
    """Why, in the rater's words."""
    correction: str | list[dict[str, Any]] | None = None
    """The right answer, beside a rating; the same as a second call of kind `demonstration`."""
    rater_id: str | None = Field(None, max_length=RATER_ID_LENGTH_MAX)
    """Who rates, in the application's own terms; recorded as a pseudonym. Left out: the person who asked."""
    metadata: dict[str, Any] | None = Field(None, validation_alias=AliasChoices("metadata", "tags"))
    """Anything the application wants to keep with it."""
    id: str | None = Field(None, max_length=IDEMPOTENCY_CHARS_MAX)
    """The client's own id, also as header `Idempotency-Key`: the same content again has the same answer, other content
    is 409."""
    token: str | None = None
    """The feedback token, where a header cannot be set."""


class FeedbackAnswer(BaseModel):
    """What was kept."""

    feedback_id: str
    feedback_ids: list[str]
    status: str
    """stored, or spooled while the database is away."""


class TokenBody(BaseModel):
    """Which token is wanted."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    completion_id: str = Field(max_length=ID_CHARS_MAX)
    """The answer that may be rated with it."""
    rater_id: str | None = Field(None, max_length=RATER_ID_LENGTH_MAX)
    """Whose it is; left out: the person who asked, if the record knows one, else whoever uses it first."""
    expires_in_days: float | None = Field(None, gt=0)
    """Days until it expires; at most, and by default, `feedback_token_lifetime_days`."""


def feedback_router(desk: Callable[[Request], Desk]) -> APIRouter:
    """The routes under `/v1/feedback`."""
    router = APIRouter(tags=["feedback"])

    @router.post("/v1/feedback", summary="Say what an answer or a conversation was worth")
    async def give_feedback(
        body: FeedbackBody,
        request: Request,
        response: Response,
        token: TokenHeader = None,
        idempotency_key: IdempotencyHeader = None,
    ) -> FeedbackAnswer:
        kept = await _hand_in(desk(request), request, body, token or body.token, idempotency_key)
        return _answer(kept, response)

    @router.post("/v1/feedback/tokens/{token}", summary="The same, to the address that came with the answer")
    async def give_feedback_with_address(
        token: str,
        body: FeedbackBody,
        request: Request,
        response: Response,
        idempotency_key: IdempotencyHeader = None,
    ) -> FeedbackAnswer:
        return _answer(await _hand_in(desk(request), request, body, token, idempotency_key), response)

    @router.post("/v1/feedback/tokens", summary="Make a token for one answer and one rater")
    async def make_token(body: TokenBody, request: Request) -> dict[str, str]:
        return await _make_token(desk(request), request, body)

    @router.get("/v1/feedback/{feedback_id}", summary="Say what became of it, with its history")
    async def show_feedback(feedback_id: str, request: Request, token: TokenHeader = None) -> dict[str, Any]:
        found = desk(request)
        speaker = found.hear(request, token=token)
        row = await found.look_up(speaker, feedback_named(feedback_id))
        return {"session_id": row.pop("session", None), **row}

    @router.delete("/v1/feedback/{feedback_id}", status_code=204, summary="Take back what was said")
    async def retract_feedback(
        feedback_id: str, request: Request, response: Response, token: TokenHeader = None
    ) -> None:
        found = desk(request)
        status = await found.take_back(found.hear(request, token=token), feedback_named(feedback_id))
        response.status_code = 202 if status == "spooled" else 204

    _refuse_links(router)
    return router


def _refuse_links(router: APIRouter) -> None:
    @router.get("/v1/feedback", include_in_schema=False)
    @router.get("/v1/feedback/tokens/{token}", include_in_schema=False)
    async def refuse_link() -> None:
        raise Refused(
            "Feedback is given by POST only: a link that rates by itself is followed by mail scanners and previews. "
            "Nothing was recorded.",
            status=405,
            code="feedback_needs_post",
        )


def _answer(kept: Kept, response: Response) -> FeedbackAnswer:
    response.status_code = 202 if kept.status == "spooled" else 200
    return FeedbackAnswer(feedback_id=kept.ids[0], feedback_ids=kept.ids, status=kept.status)


async def _hand_in(
    desk: Desk, request: Request, body: FeedbackBody, token: str | None, idempotency_key: str | None
) -> Kept:
    idempotency_id = _idempotency_id(body, idempotency_key)
    pair = _pair(body)
    speaker = desk.hear(
        request,
        token=token,
        completion_id=body.completion_id,
        session=body.session_id,
        rater_id=body.rater_id,
    )
    completion_id = body.completion_id or (speaker.grant.completion_id if speaker.grant else None)
    if pair is not None:
        body, completion_id = _as_pair(body, pair, completion_id), pair[1]
    if (completion_id is None) == (body.session_id is None):
        raise HoneError(
            "The body names both an answer and a conversation; send one of completion_id and session_id."
            if completion_id
            else "The body has no completion_id. Send the `id` of the answer (chatcmpl-0199...), or a session_id."
        )
    text_chars_max = desk.settings.feedback_text_chars_max
    return await desk.hand_in(_submissions(body, speaker, completion_id, idempotency_id, text_chars_max))


def _idempotency_id(body: FeedbackBody, header: str | None) -> str | None:
    if header is not None and len(header) > IDEMPOTENCY_CHARS_MAX:
        raise HoneError(
            f"The Idempotency-Key has {len(header)} characters; expected at most {IDEMPOTENCY_CHARS_MAX}."
        )
    if None not in (body.id, header) and body.id != header:
        raise HoneError(
            f"The body's id is '{body.id}', but the Idempotency-Key is '{header}'. Send one of them."
        )
    return body.id or header


def _pair(body: FeedbackBody) -> tuple[str, str] | None:
    """The chosen and the rejected completion, of a preference that names both."""
    if not isinstance(body.value, dict) or "preference" not in (body.kind, body.name):
        return None
    chosen, rejected = body.value.get("chosen"), body.value.get("rejected")
    if not isinstance(chosen, str) or not isinstance(rejected, str):
        raise HoneError('A preference between two completions is {"chosen": id, "rejected": id}.')
    return chosen, rejected


def _as_pair(body: FeedbackBody, pair: tuple[str, str], about: str | None) -> FeedbackBody:
    if about not in (None, *pair):
        raise HoneError(f"The preference is between {pair[0]} and {pair[1]}, but is given on {about}.")
    return body.model_copy(update={"value": pair[0], "kind": "preference", "session_id": None})


def _submissions(
    body: FeedbackBody,
    speaker: Speaker,
    completion_id: str | None,
    idempotency_id: str | None,
    text_chars_max: int,
) -> list[Submission]:
    said = _said(body)
    if completion_id is not None and ("preference", completion_id) in (
        (kind, value) for kind, value, _ in said
    ):
        raise HoneError(f"A preference compares two completions, but both are {completion_id}.")
    if completion_id is None and any(kind in ("demonstration", "preference") for kind, _, _ in said):
        raise HoneError(
            f"A {said[-1][0]} is about one answer: send a completion_id in place of the session_id."
        )
    content = orjson.dumps((said, body.name, body.metadata), option=orjson.OPT_SORT_KEYS)
    return [
        submissions.submission(
            project=speaker.project,
            completion_id=completion_id,
            session=body.session_id,
            rater=speaker.rater or ANONYMOUS,
            kind=kind,
            value=value,
            name=body.name if position == 0 and body.value is not None else None,
            comment=comment,
            metadata=body.metadata,
            idempotency_id=idempotency_id
            and (idempotency_id if position == 0 else f"{idempotency_id}:{kind}"),
            key_id=speaker.key_id,
            text_chars_max=text_chars_max,
            part_of=content,
            named=speaker.rater is not None,
            binds=speaker.binds,
        )
        for position, (kind, value, comment) in enumerate(said)
    ]


def _said(body: FeedbackBody) -> list[tuple[str, Any, str | None]]:
    """Kind, value and comment of each thing that the body says."""
    said: list[tuple[str, Any, str | None]] = []
    if body.value is not None:
        said.append((body.kind or understood_kind(body.name), body.value, body.comment))
    elif body.comment is not None:
        said.append(("comment", body.comment, None))
    if body.correction is not None:
        said.append(("demonstration", body.correction, None))
    if not said:
        raise HoneError("The body says nothing: send a `value`, a `comment` or a `correction`.")
    return said


def understood_kind(name: str | None) -> str:
    """The kind that a name stands for."""
    if name in KIND_NAMES:
        return name
    return "signal" if name in SIGNALS else "rating"


async def _make_token(desk: Desk, request: Request, body: TokenBody) -> dict[str, str]:
    speaker = desk.hear(request, token=None)
    rater = desk.rater(speaker.project, body.rater_id)
    async with desk.reading() as connection:
        found = (await submissions.attributions(connection, [body.completion_id])).get(body.completion_id)
    if found is not None and found.project != speaker.project:
        raise NotFound(f"Project '{speaker.project}' has no completion '{body.completion_id}'.")
    days_max = float(desk.settings.feedback_token_lifetime_days)
    days = min(days_max, body.expires_in_days or days_max)
    expires = int(time.time_ns() // 1_000_000_000 + days * DAY_SECONDS)
    owner = rater or (found.rater if found is not None else None)
    token = tokens.sign(desk.token_secret, body.completion_id, speaker.project, owner, expires)
    return tokens.shown(token, expires, desk.settings.public_url)
