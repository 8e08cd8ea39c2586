"""How often one rater, key or address may say something: token buckets, refilled evenly, with a minute's burst.

Each gateway counts for itself. Memory is bounded: of more than `BUCKETS_MAX` the ones that have waited longest are
forgotten, which at worst gives somebody who was quiet a fresh minute.
"""

import math
import time
from collections import OrderedDict
from collections.abc import Callable

from feedback.errors import Refused

MINUTE_SECONDS = 60.0
BUCKETS_MAX = 50_000


class Limit:
    """One kind of limit; `per_minute` None is no limit."""

    def __init__(
        self, whose: str, per_minute: int | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.whose = whose
        self.per_minute = per_minute
        self._clock = clock
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, name: str, count: int = 1) -> None:
        """Count `count` things said by `name`; more than a minute's worth at once count as a minute's worth.

        Raises:
            Refused: 429 with the seconds to wait; then nothing is counted.
        """
        if self.per_minute is None:
            return
        now, needed = self._clock(), min(count, self.per_minute)
        left, at = self._buckets.get(name, (float(self.per_minute), now))
        left = min(self.per_minute, left + (now - at) * self.per_minute / MINUTE_SECONDS)
        if left < needed:
            wait = max(1, math.ceil((needed - left) * MINUTE_SECONDS / self.per_minute))
            raise Refused(
                f"{self.whose} may send feedback {self.per_minute} times a minute and has done so. "
                f"Try again in {wait} s.",
                status=429,
                code="feedback_rate_limited",
                seconds=wait,
            )
        self._buckets[name] = (left - needed, now)
        self._buckets.move_to_end(name)
        if len(self._buckets) > BUCKETS_MAX:
            self._buckets.popitem(last=False)
