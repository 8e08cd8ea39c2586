"""Every `code` that an error of Hone carries: its status, whose failure it is, and what it means.

The reference page of errors is written from here.
"""

from dataclasses import dataclass

from monitoring.failures import ErrorClass


@dataclass(frozen=True, slots=True)
class Code:
    """One code."""

    code: str
    status: int
    error_class: ErrorClass
    says: str


CODES = (
    Code(
        "invalid_api_key",
        401,
        "caller",
        "No key was sent, or it does not work: mistyped, revoked or expired.",
    ),
    Code(
        "model_not_found",
        404,
        "caller",
        "The key's project has no such model or version. `GET /v1/models` lists what it has.",
    ),
    Code(
        "unsupported_parameter",
        400,
        "caller",
        "The request asks for log-probabilities of its prompt (`prompt_logprobs`, or `echo` with `logprobs`): "
        "while adapters are enabled, vLLM 0.32 cannot compute them beside other requests, its engine process "
        "ends, and no key may stop the service. Or it asks `/v1/responses` to remember something between two "
        "requests.",
    ),
    Code(
        "unsupported_endpoint",
        404,
        "caller",
        "The engine of this model does not serve this path: embeddings come from an embedding model, not from "
        "one that writes.",
    ),
    Code(
        "request_too_large",
        413,
        "caller",
        "The body is longer than [request_bytes_max](settings.md#request_bytes_max).",
    ),
    Code(
        "invalid_file",
        400,
        "caller",
        "A fine-tuning job names a file that the project does not have.",
    ),
    Code(
        "invalid_jsonl",
        400,
        "caller",
        "A line of an uploaded file is not a JSON object; the message has its number. What the rows must hold "
        "depends on the method and is checked by the job: it then ends as `failed` with the code "
        "`invalid_training_file`.",
    ),
    Code(
        "file_too_large",
        413,
        "caller",
        "The file is longer than [file_bytes_max](settings.md#file_bytes_max).",
    ),
    Code(
        "rate_limit_exceeded",
        429,
        "caller",
        "With `retry-after` and the [x-ratelimit headers](headers.md#x-ratelimit-limit-requests). The key "
        "asked more often than it may.",
    ),
    Code(
        "engine_unavailable",
        503,
        "infrastructure",
        "With `retry-after`. No replica can answer now: none holds the version with its probe passed, or none "
        "can be reached; and no [upstream](../guides/watching.md#when-no-engine-can-answer) stepped in.",
    ),
    Code(
        "engine_error",
        502,
        "infrastructure",
        "The engine, or the way to it, broke before the answer was whole. Sending the request again is safe.",
    ),
    Code(
        "engine_gave_up",
        502,
        "infrastructure",
        "The engine ended the answer under a reason that is no end: it was paused, or is stopping.",
    ),
    Code(
        "generation_failed",
        502,
        "model",
        "The engine goes on, and could not finish this answer: what it computed with these weights is no "
        "answer.",
    ),
    Code(
        "answer_form_failed",
        400,
        "caller",
        "The engine failed without saying why on a request for an answer of a certain form (`structured_outputs`, "
        "`response_format`, `tool_choice`, `text`): most often it cannot compile the grammar or schema.",
    ),
    Code(
        "engine_key_refused",
        502,
        "infrastructure",
        "The engine does not accept the gateway's key: set [engine_api_key](settings.md#engine_api_key) to "
        "the engine's.",
    ),
    Code(
        "engine_timeout",
        504,
        "infrastructure",
        "The engine was silent for longer than "
        "[engine_first_byte_timeout_seconds](settings.md#engine_first_byte_timeout_seconds) or, in a stream, "
        "[engine_idle_stream_timeout_seconds](settings.md#engine_idle_stream_timeout_seconds).",
    ),
    Code(
        "erased",
        410,
        "caller",
        "The answer, the conversation or the rater of this feedback was "
        "[erased](../guides/privacy.md#erasing-a-person) on request. Nothing was kept; sending it again "
        "changes nothing.",
    ),
    Code(
        "internal_error",
        500,
        "infrastructure",
        "A bug of ours. The gateway's log has the traceback; please report it.",
    ),
    Code(
        "invalid_json",
        400,
        "caller",
        "The body of a feedback request is not JSON, or holds a number or half a character that cannot be "
        "kept.",
    ),
    Code(
        "metric_not_declared",
        400,
        "caller",
        "404 on TensorZero's `/feedback`. The name is no metric of the model that answered; the message lists "
        "those that are. Declare it in the model's policy, under "
        "[feedback.metrics](policy.md#feedbackmetrics).",
    ),
    Code(
        "metric_value_invalid",
        400,
        "caller",
        "The value is not on the metric's scale.",
    ),
    Code(
        "metric_level_mismatch",
        400,
        "caller",
        "The metric is about a conversation and the feedback names an answer, or the other way round.",
    ),
    Code(
        "idempotency_conflict",
        409,
        "caller",
        "The id, or `Idempotency-Key`, was used for feedback with other content. New content needs a new id.",
    ),
    Code(
        "feedback_token_invalid",
        401,
        "caller",
        "The feedback token was not issued by this service, or was changed.",
    ),
    Code(
        "feedback_token_expired",
        401,
        "caller",
        "The feedback token is older than "
        "[feedback_token_lifetime_days](settings.md#feedback_token_lifetime_days).",
    ),
    Code(
        "feedback_token_completion",
        403,
        "caller",
        "The feedback token is for another answer than the one that the body names.",
    ),
    Code(
        "feedback_token_project",
        403,
        "caller",
        "The API key that was sent beside the token is of another project.",
    ),
    Code(
        "feedback_token_rater",
        403,
        "caller",
        "The feedback token is another rater's: of the person who asked or, if nobody said who that was, of "
        "whoever used it first.",
    ),
    Code(
        "feedback_needs_post",
        405,
        "caller",
        "Feedback came as a link. Nothing was recorded.",
    ),
    Code(
        "feedback_rate_limited",
        429,
        "caller",
        "With `retry-after`. The rater, the address or the API key sent feedback more often than the "
        "[settings](settings.md#feedback_rater_requests_per_minute) allow.",
    ),
    Code(
        "origin_not_allowed",
        403,
        "caller",
        "The page's origin is not in [feedback.allowed_origins](policy.md#feedbackallowed_origins) of a model "
        "of the project.",
    ),
    Code(
        "record_unavailable",
        503,
        "infrastructure",
        "With `retry-after`. The database is away, and the question can be answered from it only.",
    ),
    Code(
        "spool_full",
        503,
        "infrastructure",
        "With `retry-after`. The database is away, and the gateway's disk or spool has no room left for "
        "feedback. Nothing was acknowledged.",
    ),
)
"""In the order of the reference page."""

BY_CODE = {one.code: one for one in CODES}
