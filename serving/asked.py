"""Read one relayed request: parse the body once, check what this gateway relies on, hide who is asking.

Everything else in the body is the engine's business and is passed on as it came: an unknown field is no error here.
The rater's own id is replaced by a pseudonym before anything else happens, and is in nothing that is sent on or kept.
"""

from dataclasses import dataclass
from typing import Any

import orjson

from feedback.ids import RATER_ID_LENGTH_MAX, new_hex, pseudonym
from serving.auth import Caller
from serving.endpoints import ENDPOINTS, MESSAGES, RESPONSES, Endpoint
from serving.errors import ApiError, bad_request
from serving.exchange import Request

KEPT_BY_NOBODY = ("previous_response_id", "conversation", "background", "prompt")
"""Fields of the Responses API that ask the engine to remember: it would not know whose memories they are."""

FORMS = ("structured_outputs", "response_format", "tool_choice", "text")
"""Fields of which the engine may make a grammar."""
FREE = (None, "auto", "none", {"type": "text"})
"""Their values that ask for no form."""

METADATA_PAIRS_MAX = 16
METADATA_KEY_MAX = 64
METADATA_VALUE_MAX = 512
SESSION_LENGTH_MAX = 256


@dataclass(slots=True)
class Asked:
    """One request, checked. `hex_id` names it to the engine.

    The body is kept as JSON in two parts: `own` holds the fields that the gateway sends changed, as the client
    sent them; `rest` is everything else but the rater's id.
    """

    endpoint: Endpoint
    hex_id: str
    completion_id: str
    model: str
    stream: bool
    own: dict[str, Any]
    rest: bytes
    metadata: dict[str, str] | None
    consent: bool | None
    rater: str | None
    session: str | None
    traceparent: bytes | None
    wants_token_ids: bool
    wants_usage: bool
    wants_feedback: bool
    is_fallback: bool = False
    """Whether another Hone sent this because it could not answer itself."""

    @property
    def unit(self) -> str:
        """What an experiment's arm sticks to: the rater, else the session, else this completion alone."""
        return self.rater or self.session or self.completion_id

    def form(self) -> str | None:
        """The field that asks for an answer of a certain form, which the engine makes a grammar of, if there is one."""
        fields = orjson.loads(self.rest)
        if isinstance(fields.get("text"), dict):
            fields["text"] = fields["text"].get("format")
        return next((name for name in FORMS if fields.get(name) not in FREE), None)

    def body_for(self, served_name: str) -> bytes:
        """The body as the engine gets it: its own name for the version; token ids and usage where there are any."""
        fields = {**self.own, "model": served_name}
        if self.endpoint.tokens:
            fields["return_token_ids"] = True
            if self.stream and not self.wants_usage:
                fields["stream_options"] = {"include_usage": True}
        elif self.endpoint is RESPONSES:
            fields["request_id"], fields["store"] = self.completion_id, False
        return _joined(fields, self.rest)

    def body_as_asked(self) -> bytes:
        """The body as it arrived, without the rater's id."""
        return _joined(self.own, self.rest)


def read_asked(request: Request, caller: Caller, secret: bytes) -> Asked:
    """Check a request and give it its id.

    Raises:
        ApiError: 400; the message names the field, its value and what was expected.
    """
    fields, headers, endpoint = _parse(request.body), request.headers, ENDPOINTS[request.path]
    model, stream = fields.get("model"), fields.get("stream")
    if not isinstance(model, str) or not model:
        raise _unexpected("model", model, "the name of a model, such as 'support'; GET /v1/models lists them")
    if stream is not None and not isinstance(stream, bool):
        raise _unexpected("stream", stream, "true or false")
    if not fields.get(endpoint.question):
        raise _unexpected(endpoint.question, fields.get(endpoint.question), "what is asked, not empty")
    options = fields.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise _unexpected("stream_options", options, "an object")
    check_metadata(fields.get("metadata"))
    _refuse_prompt_log_probabilities(fields)
    if endpoint is RESPONSES:
        _refuse_memory(fields)
    rater = _take_rater(endpoint, fields, headers, caller, secret)
    consent = _consent(fields.get("store"))
    own = {name: fields.pop(name) for name in endpoint.changed if name in fields}
    _written(own)
    rest = _written(fields)
    hex_id = new_hex()
    return Asked(
        endpoint=endpoint,
        hex_id=hex_id,
        completion_id=f"{endpoint.id_prefix}-{hex_id}",
        model=model,
        stream=stream is True and endpoint.streams,
        own=own,
        rest=rest,
        metadata=fields.get("metadata"),
        consent=consent,
        rater=rater,
        session=_session(headers.get(b"x-hone-session-id")),
        traceparent=headers.get(b"traceparent"),
        wants_token_ids=own.get("return_token_ids") is True,
        wants_usage=options is not None and options.get("include_usage") is True,
        wants_feedback=_wants_feedback(headers.get(b"x-hone-feedback")),
        is_fallback=b"x-hone-hop" in headers,
    )


def _joined(fields: dict[str, Any], rest: bytes) -> bytes:
    # `rest` is never empty: it holds the question at least.
    return b"%b,%b" % (orjson.dumps(fields)[:-1], rest[1:])


def _parse(body: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise bad_request(f"The request body is not valid JSON: {error}. Send one JSON object.") from error
    if not isinstance(fields, dict):
        raise bad_request(f"The request body is a JSON {type(fields).__name__}; expected one object.")
    return fields


def _written(fields: dict[str, Any]) -> bytes:
    """As JSON; what is refused here could be read, but neither be sent on nor be recorded."""
    try:
        # Two levels deeper than it was: so deep it lies in the record's row.
        return orjson.dumps({"": {"": fields}})[len(b'{"":{"":') : -2]
    except orjson.JSONEncodeError as error:
        raise bad_request(
            "The request body has objects or lists in one another more than 250 levels deep. Make it flatter."
        ) from error


def _take_rater(
    endpoint: Endpoint, fields: dict[str, Any], headers: dict[bytes, bytes], caller: Caller, secret: bytes
) -> str | None:
    new, old = fields.pop("safety_identifier", None), fields.pop("user", None)
    if endpoint is MESSAGES and old is None and fields.get("metadata"):
        old = fields["metadata"].pop("user_id", None)
    header = headers.get(b"x-hone-rater-id")
    rater = new if new is not None else old if old is not None else header and _text(header)
    if not rater:
        return None
    if not isinstance(rater, str) or len(rater) > RATER_ID_LENGTH_MAX:
        name = "safety_identifier" if new is not None else "user"
        # The value stays out of the message: it is the one thing this gateway must not write down.
        raise bad_request(
            f"'{name}' must be a string of at most {RATER_ID_LENGTH_MAX} characters.", param=name
        )
    return pseudonym(secret, caller.project, rater)


def _session(value: bytes | None) -> str | None:
    if not value:
        return None
    if len(value) > SESSION_LENGTH_MAX:
        raise bad_request(f"x-hone-session-id has {len(value)} bytes; expected at most {SESSION_LENGTH_MAX}.")
    return _text(value)


def _text(value: bytes) -> str:
    # A body says the same name in UTF-8: read otherwise here, one person would be two, and half of them never erased.
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")


def _wants_feedback(value: bytes | None) -> bool:
    if value not in (None, b"chunk"):
        raise bad_request(
            "x-hone-feedback expects 'chunk': the feedback token in the last chunk of a stream."
        )
    return value is not None


def _consent(store: Any) -> bool | None:
    if store is not None and not isinstance(store, bool):
        raise _unexpected("store", store, "true or false")
    return store


def check_metadata(metadata: Any) -> None:
    """Refuse metadata that is not OpenAI's: 16 pairs of text.

    Raises:
        ApiError: 400; the message names the pair and what was expected.
    """
    if metadata is None:
        return
    if not isinstance(metadata, dict):
        raise _unexpected("metadata", metadata, "an object of strings")
    if len(metadata) > METADATA_PAIRS_MAX:
        raise bad_request(
            f"'metadata' has {len(metadata)} entries; expected at most {METADATA_PAIRS_MAX}.",
            param="metadata",
        )
    for key, value in metadata.items():
        if len(key) > METADATA_KEY_MAX:
            raise bad_request(
                f"'metadata' key '{key[:80]}' has {len(key)} characters; expected at most {METADATA_KEY_MAX}.",
                param="metadata",
            )
        if not isinstance(value, str) or len(value) > METADATA_VALUE_MAX:
            raise _unexpected(
                f"metadata.{key}", value, f"a string of at most {METADATA_VALUE_MAX} characters"
            )


def _refuse_memory(fields: dict[str, Any]) -> None:
    for name in KEPT_BY_NOBODY:
        if fields.get(name):
            raise bad_request(
                f"'{name}' is {fields[name]!r:.80}. Leave it out and send the whole conversation as 'input': nothing "
                "is remembered between two responses.",
                param=name,
                code="unsupported_parameter",
            )


def _refuse_prompt_log_probabilities(fields: dict[str, Any]) -> None:
    # With adapters enabled, vLLM computes these over the wrong rows as soon as another request shares the step,
    # and its engine process ends: one such request would take the service away from everybody (vLLM issue 16668).
    if fields.get("prompt_logprobs") is not None:
        raise bad_request(
            f"'prompt_logprobs' is {fields['prompt_logprobs']!r}. Leave it out: the engine cannot compute it beside "
            "other requests while adapters are enabled.",
            param="prompt_logprobs",
            code="unsupported_parameter",
        )
    asked = next((name for name in ("logprobs", "top_logprobs") if fields.get(name) is not None), None)
    if fields.get("echo") and asked is not None:
        raise bad_request(
            f"'echo' with '{asked}' asks for the log-probabilities of the prompt, which the engine cannot compute "
            "beside other requests while adapters are enabled. Leave one of them out.",
            param="echo",
            code="unsupported_parameter",
        )


def _unexpected(param: str, value: Any, expected: str) -> ApiError:
    if value is None:
        return bad_request(f"'{param}' is missing. Expected {expected}.", param=param)
    shown = repr(value)
    shown = shown if len(shown) <= 80 else f"{shown[:80]}..."
    return bad_request(f"'{param}' is {shown}. Expected {expected}.", param=param)
