"""Feedback tokens: a browser may rate one answer, as one rater, until a date, without an API key.

A token is `<payload>.<mac>`: base64url of `completion_id|project|rater|expires` and a keyed BLAKE2b over it.
It grants nothing else: no reading, no other completion, no other rater.
"""

import base64
import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime

from feedback.errors import HoneError

MAC_BYTES = 16


@dataclass(frozen=True, slots=True)
class TokenGrant:
    """What a valid token allows."""

    completion_id: str
    project: str
    rater: str | None


def sign(secret: bytes, completion_id: str, project: str, rater: str | None, expires: int) -> str:
    """A token for one completion and one rater; `expires` is in Unix seconds."""
    payload = f"{completion_id}|{project}|{rater or ''}|{expires}".encode()
    return f"{_encode(payload)}.{_encode(_mac(secret, payload))}"


def verify(secret: bytes, token: str) -> TokenGrant:
    """Read a token back.

    Raises:
        HoneError: it was not signed by this service, or it has expired.
    """
    try:
        payload_text, mac_text = token.split(".")
        payload, mac = _decode(payload_text), _decode(mac_text)
    except ValueError as error:
        raise HoneError(_not_ours(token)) from error
    if not hmac.compare_digest(mac, _mac(secret, payload)):
        raise HoneError(_not_ours(token))
    completion_id, project, rater, expires = payload.decode().split("|")
    if int(expires) < datetime.now(UTC).timestamp():
        raise HoneError(
            f"The feedback token for {completion_id} has expired. "
            "Rate with an API key, or use the token of a newer answer."
        )
    return TokenGrant(completion_id, project, rater or None)


def _not_ours(token: str) -> str:
    return (
        f"The feedback token '{token[:12]}...' was not issued by this service. "
        "Send the x-hone-feedback-token of the answer, unchanged."
    )


def _mac(secret: bytes, payload: bytes) -> bytes:
    return hashlib.blake2b(payload, key=secret[:64], digest_size=MAC_BYTES).digest()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    data = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    # Base64 has spare bits at its end: without this, several texts would stand for one token.
    if _encode(data) != text:
        raise ValueError("not the canonical form")
    return data
