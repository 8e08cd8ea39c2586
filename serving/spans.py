"""One completion as a span, in the words of OpenTelemetry's GenAI conventions.

What was said is not in it, and neither is who asked.
"""

from typing import TYPE_CHECKING

from monitoring.tracing import Span, TraceContext, Value
from serving.endpoints import CHAT, EMBEDDINGS, TEXT

if TYPE_CHECKING:
    from serving.recorder import Latency, Recording

OPERATIONS = {CHAT.path: "chat", TEXT.path: "text_completion", EMBEDDINGS.path: "embeddings"}
NANOSECONDS = 1_000_000_000


def span_of(
    recording: "Recording", trace: TraceContext, status: str, tokens: int, seconds: "Latency"
) -> Span:
    """The span of a finished completion; `status` is `ok`, `error` or `aborted`."""
    asked, route = recording.asked, recording.route
    operation = OPERATIONS.get(asked.endpoint.path, "generate_content")
    began = int(recording.created_at.timestamp() * NANOSECONDS)
    attributes: dict[str, Value | None] = {
        "gen_ai.operation.name": operation,
        "gen_ai.provider.name": "hone",
        "gen_ai.request.model": asked.model,
        "gen_ai.response.model": route.version.name,
        "gen_ai.response.id": asked.completion_id,
        "gen_ai.usage.output_tokens": tokens,
        "gen_ai.request.stream": asked.stream,
        "gen_ai.response.time_to_first_chunk": seconds["time_to_first_token_seconds"],
        "server.address": route.engine,
        "error.type": status if status != "ok" else None,
        "hone.project": recording.caller.project,
        "hone.adapter_id": route.version.adapter_id,
        "hone.experiment_id": route.experiment_id,
        "hone.arm": route.arm,
        "hone.propensity": route.propensity,
        "hone.policy_version": route.policy_version,
    }
    return Span(
        context=trace,
        name=f"{operation} {asked.model}",
        began=began,
        ended=began + int(seconds["duration_seconds"] * NANOSECONDS),
        attributes=attributes,
        error="The answer failed." if status == "error" else None,
    )
