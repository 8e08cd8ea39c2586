"""Feedback tokens: a browser may rate one answer, as one rater, until a date, without an API key.

A token is `<payload>.<mac>`: base64url of `completion_id|project|rater|expires` and a keyed BLAKE2b over it.
It grants nothing else: no reading, no other completion, no other rater. One that was signed without a rater belongs to
whoever uses it first. Each way in which a token may be wrong has an error code of its own.
"""

import base64
import hashlib
import hmac
from dataclasses import dataclass
from datetime import UTC, datetime

from feedback.errors import Refused

MAC_BYTES = 16
PATH = "/v1/feedback/tokens/"


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


def shown(token: str, expires: int, public_url: str | None) -> dict[str, str]:
    """A token in LangSmith's shape: `id`, the `url` to post to (a path, without a public address), `expires_at`."""
    moment = datetime.fromtimestamp(expires, UTC).isoformat().replace("+00:00", "Z")
    return {"id": token, "url": f"{(public_url or '').rstrip('/')}{PATH}{token}", "expires_at": moment}


def verify(secret: bytes, token: str) -> TokenGrant:
    """Read a token back.

    Raises:
        Refused: 401; it was not signed by this service, or it has expired.
    """
    try:
        payload_text, mac_text = token.split(".")
        payload, mac = _decode(payload_text), _decode(mac_text)
    except ValueError as error:
        raise _not_ours(token) from error
    if not hmac.compare_digest(mac, _mac(secret, payload)):
        raise _not_ours(token)
    # An id of another vendor's may hold the separator; what follows it cannot.
    completion_id, project, rater, expires = payload.decode().rsplit("|", 3)
    if int(expires) < datetime.now(UTC).timestamp():
        raise Refused(
            f"The feedback token for {completion_id} has expired. "
            "Rate with an API key, or use the token of a newer answer.",
            status=401,
            code="feedback_token_expired",
        )
    return TokenGrant(completion_id, project, rater or None)


def check_use(
    grant: TokenGrant,
    *,
    completion_id: str | None,
    session: str | None,
    project: str | None,
    rater: str | None,
) -> None:
    """Refuse a token that is shown for something else than it was signed for; None is not said.

    Raises:
        Refused: 403; it is for another completion, another project or another rater.
    """
    if session is not None or completion_id not in (None, grant.completion_id):
        raise Refused(
            f"The feedback token is for {grant.completion_id}, but the body names {session or completion_id}. "
            "Send the token that came with that answer.",
            status=403,
            code="feedback_token_completion",
        )
    if project not in (None, grant.project):
        raise Refused(
            f"The feedback token is for an answer of another project than the API key's, which is '{project}'. "
            "Send the token alone.",
            status=403,
            code="feedback_token_project",
        )
    if grant.rater is not None and rater not in (None, grant.rater):
        raise Refused(
            f"The feedback token of {grant.completion_id} is for the rater who asked, but the body's rater_id is "
            "another. Leave rater_id out, or send the token of an answer that this rater got.",
            status=403,
            code="feedback_token_rater",
        )


def _not_ours(token: str) -> Refused:
    return Refused(
        f"The feedback token '{token[:12]}...' was not issued by this service. "
        "Send the x-hone-feedback-token of the answer, unchanged.",
        status=401,
        code="feedback_token_invalid",
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
