"""Who is calling: `Authorization: Bearer hk_...`, or `x-api-key: hk_...`, becomes a `Caller`, without a database.

Keys are known by their SHA-256 only, so finding one is a look-up of a digest in a mapping: the work does not depend
on how much of a guess was right. What a role may do is decided where it is done, not here.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from serving.errors import wrong_key

SCHEME = b"bearer "


@dataclass(frozen=True, slots=True)
class Caller:
    """The holder of one key."""

    key_id: str
    project: str
    role: str
    requests_per_minute: int | None = None


def credentials(headers: Mapping[bytes, bytes]) -> bytes | None:
    """What a request proves itself with; Anthropic's SDK sends its key as `x-api-key`."""
    key = headers.get(b"x-api-key")
    return SCHEME + key if key and b"authorization" not in headers else headers.get(b"authorization")


def identify(authorization: bytes | None, keys: Mapping[bytes, Caller]) -> Caller:
    """The caller whose key this is.

    Args:
        authorization: value of the `Authorization` header, if there is one.
        keys: callers by the SHA-256 of their key.

    Raises:
        ApiError: 401, when the header is missing, is not a bearer token, or its key does not work here.
    """
    if authorization is None:
        raise wrong_key("This request has no API key. Send it as 'Authorization: Bearer hk_...'.")
    if authorization[:7].lower() != SCHEME:
        raise wrong_key(
            "The Authorization header is not a bearer token. Send 'Authorization: Bearer hk_...'."
        )
    key = authorization[7:].strip()
    caller = keys.get(hashlib.sha256(key).digest())
    if caller is None:
        shown = key[:7].decode("latin-1")
        raise wrong_key(
            f"The API key '{shown}...' does not work here: it is unknown, revoked or expired. "
            "An operator makes a new one with `hone key create`."
        )
    return caller
