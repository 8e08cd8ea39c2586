"""Identifiers: sortable by time, unguessable, and pseudonyms that hide who a rater is.

No identifier carries meaning beyond its prefix; nothing parses one to learn something.
"""

import hashlib
import os
import time

RATER_ID_LENGTH_MAX = 256


def new_hex() -> str:
    """32 hex digits laid out as a UUID of version 7 (RFC 9562): 48 bits of milliseconds, 74 random bits."""
    milliseconds = time.time_ns() // 1_000_000
    noise = int.from_bytes(os.urandom(10))
    value = (milliseconds & ((1 << 48) - 1)) << 80
    value |= 0x7 << 76
    value |= ((noise >> 62) & 0xFFF) << 64
    value |= 0b10 << 62
    value |= noise & ((1 << 62) - 1)
    return f"{value:032x}"


def new_id(prefix: str) -> str:
    """A fresh identifier such as `run-0199...`."""
    return f"{prefix}-{new_hex()}"


def pseudonym(secret: bytes, project: str, rater_id: str) -> str:
    """The name under which a rater is recorded: keyed BLAKE2b of project and id, 24 hex digits.

    The same person has different names in two projects, and nobody without the secret can test a guess.
    """
    digest = hashlib.blake2b(rater_id.encode(), key=secret[:64], person=_person(project), digest_size=12)
    return f"rater-{digest.hexdigest()}"


def _person(project: str) -> bytes:
    return hashlib.blake2b(project.encode(), digest_size=16).digest()
