"""Who is signed in: an operator's key becomes a session, kept in a signed cookie and nowhere else.

The cookie names the key, never holds it, and is good for a number of hours. Every request reads the key's row again: a
revoked or expired key ends its sessions with the next click. Each form carries a token that only the session's own
pages know; a request that changes something without it is refused, wherever it comes from.
"""

import base64
import hashlib
import hmac
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from fastapi import Request, Response
from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import keys
from feedback.errors import HoneError
from feedback.keys import Key

COOKIE = "hone_console"
ROLES = ("operator", "admin")
MAC_BYTES = 32


class SignInNeeded(Exception):
    """Nobody is signed in, or no longer."""


class Refused(HoneError):
    """The role does not allow this, or the request does not come from a page of this session."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """The operator who looks and decides."""

    key: Key
    csrf: str

    @property
    def project(self) -> str:
        """The project whose record is shown."""
        return self.key.project

    @property
    def actor(self) -> str:
        """What the audit trail calls them; the same as over HTTP."""
        return f"key:{self.key.key_id}"

    @property
    def is_admin(self) -> bool:
        """Whether keys may be made and revoked."""
        return self.key.role == "admin"

    def require_admin(self) -> None:
        """Go on only as an administrator.

        Raises:
            Refused: the key has another role.
        """
        if not self.is_admin:
            raise Refused(f"Your key has role '{self.key.role}'; this needs an admin key.")


@dataclass(frozen=True, slots=True)
class Sessions:
    """Makes and reads the cookies of one service."""

    secret: bytes
    lifetime_seconds: float
    secure: bool

    def begin(self, response: Response, key: Key) -> None:
        """Sign the holder of `key` in."""
        expires = int(datetime.now(UTC).timestamp() + self.lifetime_seconds)
        payload = f"{key.key_id}|{expires}|{secrets.token_urlsafe(18)}"
        response.set_cookie(
            self.cookie,
            f"{_encode(payload.encode())}.{_encode(self._mac('session', payload))}",
            max_age=int(self.lifetime_seconds),
            path="/",
            secure=self.secure,
            httponly=True,
            samesite="strict",
        )

    def end(self, response: Response) -> None:
        """Sign out."""
        response.delete_cookie(self.cookie, path="/", secure=self.secure, httponly=True, samesite="strict")

    @property
    def cookie(self) -> str:
        """The cookie's name; over HTTPS browsers themselves hold it to this host and path."""
        return f"__Host-{COOKIE}" if self.secure else COOKIE

    async def read(self, request: Request, connection: AsyncConnection) -> Visitor:
        """Who sent the request.

        Raises:
            SignInNeeded: there is no session, it is over, or its key no longer works here.
        """
        payload = self._payload(request.cookies.get(self.cookie, ""))
        key_id, expires, _ = payload.split("|")
        if int(expires) < datetime.now(UTC).timestamp():
            raise SignInNeeded
        key = await keys.working(connection, key_id)
        if key is None or key.role not in ROLES:
            raise SignInNeeded
        return Visitor(key, _encode(self._mac("csrf", payload)))

    def _payload(self, cookie: str) -> str:
        payload_text, _, mac_text = cookie.partition(".")
        try:
            payload, mac = _decode(payload_text).decode(), _decode(mac_text)
        except ValueError as error:
            raise SignInNeeded from error
        if not hmac.compare_digest(mac, self._mac("session", payload)):
            raise SignInNeeded
        return payload

    def _mac(self, use: str, payload: str) -> bytes:
        return hashlib.blake2b(f"{use}|{payload}".encode(), key=self.secret, digest_size=MAC_BYTES).digest()


def check_token(visitor: Visitor, token: str | None) -> None:
    """See that a form came from a page of this session.

    Raises:
        Refused: it did not.
    """
    if not hmac.compare_digest((token or "").encode(), visitor.csrf.encode()):
        raise Refused(
            "This form is not from a page of your session, or the session changed. Load the page again."
        )


async def find_key(connection: AsyncConnection, given: str) -> Key:
    """The key that somebody typed to sign in.

    Raises:
        HoneError: it does not work here, or its role has no business in the console.
    """
    digest = keys.hash_key(given.strip())
    key = next((one for one in await keys.active(connection) if one.key_hash == digest), None)
    if key is None:
        raise HoneError(
            "This key does not work here: it is unknown, revoked or expired. "
            "`hone key create --role operator` makes one."
        )
    if key.role not in ROLES:
        raise HoneError(
            f"This key has role '{key.role}', which applications use. The console needs an operator or admin key: "
            "`hone key create --role operator`."
        )
    return key


def lifetime(hours: float) -> float:
    """Hours as seconds."""
    return timedelta(hours=hours).total_seconds()


def _encode(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _decode(text: str) -> bytes:
    return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
