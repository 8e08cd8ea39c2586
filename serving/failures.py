"""Whose failure a failure is: the caller's, the model's, the infrastructure's, or unknown.

One pure function decides it, from what a client is told: status, code and the first words of the message. Its answer is
in the record, in the metrics and in the log, and the guardrails go by it: a version is blamed for what is the model's,
and for what nobody can name, never for what its callers or its machines did.
"""

from monitoring.failures import ErrorClass, of_engine
from serving.error_codes import BY_CODE

MEANINGS: dict[ErrorClass, str] = {
    "caller": "The request, or who sent it: it fails the same way at any version. Counts against none.",
    "model": "The version that answered: the engine works, and could not finish this answer with these weights. "
    "Counts against the version, in the guardrails of its canary and while it is watched as champion.",
    "infrastructure": "An engine, the upstream, the network, the disk or the gateway. Counts against no version.",
    "unknown": "None of what is known of engines says whose it is. Counts against the version, since a guardrail that "
    "looks away from what it cannot name guards nothing; both arms of a split meet the others' share of it alike.",
}


def classify(status: int, code: str | None = None, message: str = "") -> ErrorClass:
    """Whose failure this is.

    Args:
        status: HTTP status that the client gets, or would have got before the answer began.
        code: the error's code; one that is not ours (an engine's own) says nothing.
        message: the sentence that goes with it.
    """
    known = BY_CODE.get(code or "")
    if known is not None:
        return known.error_class
    return of_engine(status, message)
