"""How often one key may ask: a token bucket per key, refilled evenly, with a minute's worth of burst.

Each gateway counts for itself: with several, a key may ask that many times at each. Keys without a limit cost nothing.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from serving.auth import Caller
from serving.errors import ApiError, Headers

MINUTE_SECONDS = 60.0
IDLE_BUCKETS_MAX = 10_000


@dataclass(slots=True)
class _Bucket:
    left: float
    at: float


class RateLimits:
    """The buckets of all limited keys."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: dict[str, _Bucket] = {}

    def take(self, caller: Caller) -> Headers:
        """Count one request of `caller`; returns the headers that say what is left.

        Raises:
            ApiError: 429 with `retry-after`, when the key has asked too often.
        """
        limit = caller.requests_per_minute
        if limit is None:
            return []
        bucket = self._refilled(caller.key_id, limit)
        if bucket.left < 1:
            raise _too_often(limit, seconds=(1 - bucket.left) * MINUTE_SECONDS / limit)
        bucket.left -= 1
        return _headers(limit, bucket.left)

    def _refilled(self, key_id: str, limit: int) -> _Bucket:
        now = self._clock()
        bucket = self._buckets.get(key_id)
        if bucket is None:
            if len(self._buckets) >= IDLE_BUCKETS_MAX:
                # A bucket idle for a minute is full again: dropping it changes nothing.
                self._buckets = {k: b for k, b in self._buckets.items() if now - b.at < MINUTE_SECONDS}
            bucket = self._buckets[key_id] = _Bucket(limit, now)
        bucket.left = min(limit, bucket.left + (now - bucket.at) * limit / MINUTE_SECONDS)
        bucket.at = now
        return bucket


def _headers(limit: int, left: float) -> Headers:
    full_again = (limit - left) * MINUTE_SECONDS / limit
    return [
        (b"x-ratelimit-limit-requests", b"%d" % limit),
        (b"x-ratelimit-remaining-requests", b"%d" % left),
        (b"x-ratelimit-reset-requests", b"%.3fs" % full_again),
    ]


def _too_often(limit: int, seconds: float) -> ApiError:
    wait = max(1, math.ceil(seconds))
    return ApiError(
        429,
        f"This key may ask {limit} times a minute and has done so. Try again in {wait} s, or ask an operator "
        "for a key with a higher limit.",
        type="rate_limit_error",
        code="rate_limit_exceeded",
        headers=[(b"retry-after", b"%d" % wait), *_headers(limit, 0.0)],
    )
