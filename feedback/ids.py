"""Identifiers: sortable by time, unguessable, and pseudonyms that hide who a rater is.

No identifier carries meaning beyond its prefix and the day it was made on, which says in which partition its row is.
"""

import hashlib
import os
import time
from datetime import datetime
from functools import lru_cache

RATER_ID_LENGTH_MAX = 256
VARIANT = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))


def new_hex() -> str:
    """32 hex digits laid out as a UUID of version 7 (RFC 9562): 48 bits of milliseconds, 74 random bits."""
    noise = os.urandom(10).hex()
    return f"{time.time_ns() // 1_000_000:012x}7{noise[:3]}{VARIANT[noise[3]]}{noise[4:19]}"


def new_id(prefix: str) -> str:
    """A fresh identifier such as `run-0199...`."""
    return f"{prefix}-{new_hex()}"


def id_at(prefix: str, moment: datetime, seed: str) -> str:
    """The one identifier of what `seed` names, made at `moment`: for what is imported, perhaps again."""
    noise = hashlib.blake2b(seed.encode(), digest_size=10).hexdigest()
    milliseconds = int(moment.timestamp() * 1000)
    return f"{prefix}-{milliseconds:012x}7{noise[:3]}{VARIANT[noise[3]]}{noise[4:19]}"


def version_name(model: str, version: int) -> str:
    """What clients see: `support@7`; a null adapter, whose number is below zero, is `support@0-null1`."""
    return f"{model}@{version}" if version >= 0 else f"{model}@0-null{-version}"


def pseudonym(secret: bytes, project: str, rater_id: str) -> str:
    """The name under which a rater is recorded: keyed BLAKE2b of project and id, 24 hex digits.

    The same person has different names in two projects, and nobody without the secret can test a guess.
    """
    digest = hashlib.blake2b(rater_id.encode(), key=secret[:64], person=_person(project), digest_size=12)
    return f"rater-{digest.hexdigest()}"


@lru_cache(maxsize=1024)
def _person(project: str) -> bytes:
    return hashlib.blake2b(project.encode(), digest_size=16).digest()
