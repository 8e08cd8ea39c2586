"""Other products' feedback calls, so that their clients work after a change of the base URL.

TensorZero's `POST /feedback` and Langfuse's `POST /api/public/scores`, with its `DELETE` and the batches that its SDKs
send, in their shapes in and out. An answer's id may be written as they write ids: as a UUID, or as its bare digits.
A score's own id is its identity, as with Langfuse: sent again with another value it is changed.
"""

import base64
import binascii
from collections.abc import Callable
from typing import Any, Literal

import orjson
from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from feedback import submissions
from feedback.api import understood_kind
from feedback.desk import Caller, Desk, Speaker
from feedback.errors import HoneError, NotFound, Refused
from feedback.metrics import KIND_NAMES
from feedback.mistakes import explain
from feedback.refusals import LANGFUSE_NAMES
from feedback.submissions import ANONYMOUS, Submission
from feedback.values import ID_CHARS_MAX, bare_id, completion_named, feedback_named

RATER_TAGS = ("rater_id", "user_id", "userId")
"""Tags, and metadata, that name the rater: taken out, and recorded as a pseudonym."""


class TensorZeroBody(BaseModel):
    """What TensorZero's clients post."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    inference_id: str | None = Field(None, max_length=ID_CHARS_MAX)
    """The answer, for a metric of level `completion`."""
    episode_id: str | None = Field(None, max_length=ID_CHARS_MAX)
    """The conversation, for a metric of level `session`."""
    metric_name: str = Field(max_length=64)
    """A metric, `comment` or `demonstration`."""
    value: Any
    """On the metric's scale; the text; or the right answer as text or content blocks."""
    tags: dict[str, str] = Field(default_factory=dict)
    """Kept with it; `user_id` names the rater."""
    dryrun: bool | None = None
    """Check, and keep nothing."""
    internal: bool = False
    """Accepted, and without a meaning here."""


class LangfuseScore(BaseModel):
    """What Langfuse's clients post."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)

    id: str | None = Field(None, max_length=ID_CHARS_MAX // 2)
    """The score's id: sent again, the score is changed."""
    traceId: str | None = Field(None, max_length=ID_CHARS_MAX)
    """The answer."""
    observationId: str | None = Field(None, max_length=ID_CHARS_MAX)
    """The answer, where the trace has several."""
    sessionId: str | None = Field(None, max_length=ID_CHARS_MAX)
    """The conversation, in place of an answer."""
    name: str = Field(max_length=64)
    """A metric."""
    value: float | str
    """On the metric's scale; 1 and 0 for true and false."""
    dataType: Literal["NUMERIC", "BOOLEAN", "CATEGORICAL", "TEXT", "CORRECTION"] | None = None
    """`TEXT` is a comment, `CORRECTION` the right answer."""
    comment: str | None = None
    """Why."""
    metadata: dict[str, Any] | None = None
    """Kept with it; `user_id` names the rater."""


class LangfuseEvent(BaseModel):
    """One event of a batch."""

    id: str
    type: str
    body: dict[str, Any]


class LangfuseBatch(BaseModel):
    """What Langfuse's SDKs send from their queues."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)

    batch: list[LangfuseEvent] = Field(max_length=1000)
    """Events; those of type `score-create` are taken."""


def alias_router(desk: Callable[[Request], Desk]) -> APIRouter:
    """The routes of TensorZero and Langfuse."""
    router = APIRouter(tags=["feedback"])

    @router.post("/feedback", summary="Give feedback as TensorZero's clients do")
    async def give_tensorzero_feedback(body: TensorZeroBody, request: Request) -> dict[str, str]:
        found = desk(request)
        given = _of_tensorzero(found, request, body)
        kept = await found.hand_in([given], dry_run=body.dryrun is True)
        return {"feedback_id": bare_id(kept.ids[0])}

    @router.post(
        "/api/public/scores", summary="Give feedback as Langfuse's clients do, one score or a list of them"
    )
    async def give_langfuse_scores(
        body: LangfuseScore | list[dict[str, Any]], request: Request, response: Response
    ) -> dict[str, Any]:
        found = desk(request)
        _, authorization = _langfuse_caller(found, request)
        if isinstance(body, list):
            done = [await _try_score(found, request, authorization, one) for one in body]
            errors = [{"message": refused[1]} for refused in done if refused is not None]
            response.status_code = 207 if errors else 202
            counts = {"accepted": len(done) - len(errors), "rejected": len(errors), "errors": errors}
            return counts if errors else {"message": "Accepted"}
        speaker = _langfuse_speaker(found, request, authorization, body)
        kept = await found.hand_in([_of_score(found, speaker, body)])
        return {"id": body.id or kept.ids[0]}

    @router.delete("/api/public/scores/{score_id}", status_code=202, summary="Take back a Langfuse score")
    async def delete_langfuse_score(score_id: str, request: Request) -> dict[str, str]:
        found = desk(request)
        caller, authorization = _langfuse_caller(found, request)
        speaker = found.hear(request, token=None, authorization=authorization)
        async with found.reading() as connection:
            kept = await submissions.claimed_by(connection, caller.project, _claim(score_id))
        await found.take_back(speaker, kept or feedback_named(score_id))
        return {"message": "The score is deleted."}

    @router.post("/api/public/ingestion", status_code=207, summary="Take the scores of a Langfuse batch")
    async def ingest_langfuse_batch(body: LangfuseBatch, request: Request) -> dict[str, Any]:
        found = desk(request)
        _, authorization = _langfuse_caller(found, request)
        done = [await _ingest(found, request, authorization, event) for event in body.batch]
        return {
            "successes": [one for one in done if one["status"] < 400],
            "errors": [one for one in done if one["status"] >= 400],
        }

    @router.get("/api/public/projects", summary="Say which project a Langfuse client's keys belong to")
    async def show_langfuse_project(request: Request) -> dict[str, Any]:
        project = _langfuse_caller(desk(request), request)[0].project
        organization = {"id": project, "name": project}
        return {"data": [{"id": project, "name": project, "organization": organization, "metadata": {}}]}

    return router


def _of_tensorzero(desk: Desk, request: Request, body: TensorZeroBody) -> Submission:
    if (body.inference_id is None) == (body.episode_id is None):
        raise HoneError("The body needs exactly one of inference_id and episode_id.")
    completion_id = completion_named(body.inference_id) if body.inference_id else None
    rater_id, tags = _rater_of(body.tags)
    speaker = desk.hear(
        request,
        token=request.headers.get("x-hone-feedback-token"),
        completion_id=completion_id,
        session=body.episode_id,
        rater_id=rater_id,
    )
    kind = understood_kind(body.metric_name)
    if kind == "demonstration" and completion_id is None:
        raise HoneError("A demonstration is about one answer: send an inference_id.")
    return submissions.submission(
        project=speaker.project,
        completion_id=completion_id,
        session=body.episode_id,
        rater=speaker.rater or ANONYMOUS,
        kind=kind,
        name=body.metric_name,
        value=_text_of(body.value) if kind == "demonstration" else body.value,
        metadata=tags or None,
        key_id=speaker.key_id,
        text_chars_max=desk.settings.feedback_text_chars_max,
        named=speaker.rater is not None,
        binds=speaker.binds,
    )


def _text_of(value: Any) -> Any:
    """A demonstration as text: it may come as content blocks, or as the object that a JSON function returns."""
    if isinstance(value, list) and all(isinstance(one, dict) and one.get("type") == "text" for one in value):
        return "".join(str(one.get("text", "")) for one in value)
    return orjson.dumps(value).decode() if isinstance(value, dict) else value


def _langfuse_caller(desk: Desk, request: Request) -> tuple[Caller, str]:
    """Who calls, by Basic authentication: the key's id as public key, the key as secret key."""
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    try:
        public, _, secret = base64.b64decode(credentials, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        public, secret = "", ""
    if scheme.lower() != "basic" or not secret:
        raise _wrong_keys("The request has no Basic credentials")
    authorization = f"Bearer {secret}"
    caller = desk.identify(authorization)
    if caller.key_id != public:
        raise _wrong_keys(f"The public key '{public[:40]}' does not belong to the secret key")
    return caller, authorization


def _wrong_keys(what: str) -> Refused:
    return Refused(
        f"{what}. Use the Hone key's id as Langfuse public key and the key itself (hk_...) as secret key; "
        "`hone key list` shows the ids.",
        status=401,
        code="invalid_api_key",
    )


def _langfuse_speaker(desk: Desk, request: Request, authorization: str, score: LangfuseScore) -> Speaker:
    rater_id, _ = _rater_of(score.metadata or {})
    return desk.hear(request, token=None, authorization=authorization, rater_id=rater_id)


def _of_score(desk: Desk, speaker: Speaker, score: LangfuseScore, event_id: str | None = None) -> Submission:
    about = score.observationId or score.traceId
    if about is None and score.sessionId is None:
        raise HoneError("The score names no answer: send a traceId or observationId, or a sessionId.")
    kind, value = _understood(desk, speaker.project, score)
    claim = _claim(score.id) if score.id else event_id and f"langfuse-event:{event_id}"
    return submissions.submission(
        project=speaker.project,
        completion_id=completion_named(about) if about else None,
        session=None if about else score.sessionId,
        rater=speaker.rater or ANONYMOUS,
        kind=kind,
        name="demonstration" if kind == "demonstration" else score.name,
        value=value,
        comment=score.comment,
        metadata=_rater_of(score.metadata or {})[1] or None,
        idempotency_id=claim,
        key_id=speaker.key_id,
        text_chars_max=desk.settings.feedback_text_chars_max,
        named=speaker.rater is not None,
        renews=score.id is not None,
    )


def _understood(desk: Desk, project: str, score: LangfuseScore) -> tuple[str, Any]:
    """The kind of feedback that a score is, and its value as Hone writes it."""
    if score.dataType == "CORRECTION" or score.name == "demonstration":
        return "demonstration", score.value
    if score.dataType == "TEXT" or score.name in KIND_NAMES:
        return "comment", score.value
    metrics = [policy.metric(score.name) for policy in desk.policies(project).values()]
    yes_or_no = score.dataType == "BOOLEAN" or any(
        one is not None and one.type == "boolean" for one in metrics
    )
    if (yes_or_no or score.name == "thumbs") and score.value in (0, 1):
        return understood_kind(score.name), score.value == 1
    whole = isinstance(score.value, float) and score.value.is_integer()
    return understood_kind(score.name), int(score.value) if whole else score.value


async def _ingest(desk: Desk, request: Request, authorization: str, event: LangfuseEvent) -> dict[str, Any]:
    if event.type == "score-create":
        refused = await _try_score(desk, request, authorization, event.body, event.id)
    else:
        refused = 400, f"Events of type '{event.type}' are not taken here; expected score-create."
    if refused is None:
        return {"id": event.id, "status": 201}
    status, message = refused
    name = LANGFUSE_NAMES.get(status, "InvalidRequestError")
    return {"id": event.id, "status": status, "message": message, "error": name}


async def _try_score(
    desk: Desk, request: Request, authorization: str, fields: dict[str, Any], event_id: str | None = None
) -> tuple[int, str] | None:
    """Keep one score of several; status and reason, if it is refused."""
    try:
        score = LangfuseScore.model_validate(fields)
        speaker = _langfuse_speaker(desk, request, authorization, score)
        await desk.hand_in([_of_score(desk, speaker, score, event_id)])
    except ValidationError as error:
        return 400, str(explain(error.errors(), LangfuseScore))
    except HoneError as error:
        status = error.status if isinstance(error, Refused) else 404 if isinstance(error, NotFound) else 400
        return status, str(error)
    return None


def _rater_of(tags: dict[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """The rater that tags name, and the tags without it."""
    named = next((tags[name] for name in RATER_TAGS if isinstance(tags.get(name), str)), None)
    return named, {name: value for name, value in tags.items() if name not in RATER_TAGS}


def _claim(score_id: str) -> str:
    return f"langfuse:{score_id}"
