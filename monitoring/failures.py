"""Whose failure it is when an engine fails: the caller's, the model's, the infrastructure's, or unknown.

Pure, and about engines only; what the gateway itself refuses has codes that say whose it is. Guardrails, alerts and
the shadow go by it: a version is blamed for what is the model's, and for what nobody can name, never for what its
callers or its machines did.

What an engine says may quote what a caller wrote, so a sentence is known by how it begins, never by what it holds.
"""

from typing import Literal

ErrorClass = Literal["caller", "model", "infrastructure", "unknown"]

MODEL_SAYS = (
    "Out of range float values are not JSON compliant",  # The logits are NaN; vLLM says 400.
    "Call to add_lora method failed",
)
ENGINE_SAYS = ("EngineCore encountered an issue", "EngineCore failed", "The server is shutting down")
INFRASTRUCTURE_STATUSES = (408, 425, 429, 502, 503, 504)


def of_engine(status: int, message: str = "") -> ErrorClass:
    """Whose failure an engine's answer tells of: its HTTP status, and the sentence that goes with it."""
    if message.startswith(MODEL_SAYS):
        return "model"
    if message.startswith(ENGINE_SAYS) or status in INFRASTRUCTURE_STATUSES:
        return "infrastructure"
    if 400 <= status < 500:
        return "caller"
    return "model" if status == 500 else "unknown"
