"""How often one key may ask, in OpenAI's headers. Keys without a limit cost nothing.

Each gateway counts for itself: with several, a key may ask that many times at each.
"""

import time
from collections.abc import Callable

from feedback.limits import MINUTE_SECONDS, Buckets, Taken
from serving.auth import Caller
from serving.errors import ApiError, Headers


class RateLimits:
    """The limits of all keys."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._buckets = Buckets(clock)

    def take(self, caller: Caller) -> Headers:
        """Count one request of `caller`; returns the headers that say what is left.

        Raises:
            ApiError: 429 with `retry-after`, when the key has asked too often.
        """
        limit = caller.requests_per_minute
        if limit is None:
            return []
        taken = self._buckets.take(caller.key_id, limit)
        if taken.wait_seconds:
            raise _too_often(limit, taken)
        return _headers(limit, taken.left)


def _headers(limit: int, left: float) -> Headers:
    full_again = (limit - left) * MINUTE_SECONDS / limit
    return [
        (b"x-ratelimit-limit-requests", b"%d" % limit),
        (b"x-ratelimit-remaining-requests", b"%d" % left),
        (b"x-ratelimit-reset-requests", b"%.3fs" % full_again),
    ]


def _too_often(limit: int, taken: Taken) -> ApiError:
    wait = taken.whole_seconds
    return ApiError(
        429,
        f"This key may ask {limit} times a minute and has done so. Try again in {wait} s, or ask an operator "
        "for a key with a higher limit.",
        type="rate_limit_error",
        code="rate_limit_exceeded",
        headers=[(b"retry-after", b"%d" % wait), *_headers(limit, 0.0)],
    )
