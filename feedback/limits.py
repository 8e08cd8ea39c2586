"""How often somebody may do something: token buckets, refilled evenly, with a minute's worth of burst.

Each gateway counts for itself. Memory is bounded: of more than `BUCKETS_MAX` the ones that have waited longest are
forgotten, which at worst gives somebody who was quiet a fresh minute.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from feedback.errors import Refused

MINUTE_SECONDS = 60.0
BUCKETS_MAX = 50_000


class Taken(NamedTuple):
    """What is left in a bucket, and how long until it holds enough; nothing was taken unless that is 0."""

    left: float
    wait_seconds: float

    @property
    def whole_seconds(self) -> int:
        """The wait as a `retry-after`."""
        return max(1, math.ceil(self.wait_seconds))


class Buckets:
    """The buckets of everybody whom one kind of limit holds for."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, name: str, per_minute: int, count: int = 1) -> Taken:
        """Take `count` from the bucket of `name`; more than a minute's worth at once counts as a minute's worth."""
        now, needed = self._clock(), min(count, per_minute)
        left, at = self._buckets.get(name, (float(per_minute), now))
        left = min(per_minute, left + (now - at) * per_minute / MINUTE_SECONDS)
        if left < needed:
            return Taken(left, (needed - left) * MINUTE_SECONDS / per_minute)
        self._buckets[name] = (left - needed, now)
        self._buckets.move_to_end(name)
        if len(self._buckets) > BUCKETS_MAX:
            self._buckets.popitem(last=False)
        return Taken(left - needed, 0.0)


class Limit:
    """How often feedback may be sent, of one kind of sender; `per_minute` None is no limit."""

    def __init__(
        self, whose: str, per_minute: int | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.whose = whose
        self.per_minute = per_minute
        self._buckets = Buckets(clock)

    def take(self, name: str, count: int = 1) -> None:
        """Count `count` things said by `name`; more than a minute's worth at once count as a minute's worth.

        Raises:
            Refused: 429 with the seconds to wait; then nothing is counted.
        """
        if self.per_minute is None:
            return
        taken = self._buckets.take(name, self.per_minute, count)
        if taken.wait_seconds:
            raise Refused(
                f"{self.whose} may send feedback {self.per_minute} times a minute and has done so. "
                f"Try again in {taken.whole_seconds} s.",
                status=429,
                code="feedback_rate_limited",
                seconds=taken.whole_seconds,
            )
