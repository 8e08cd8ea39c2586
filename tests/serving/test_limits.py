"""Rate limits: a burst of a minute's worth, then an even refill, and headers that say so."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.auth import Caller
from serving.errors import ApiError
from serving.limits import RateLimits


def a_caller(limit: int | None = 3) -> Caller:
    return Caller("key-1", "default", "app", limit)


def test_a_key_without_a_limit_is_never_refused() -> None:
    limits = RateLimits(clock=lambda: 0.0)
    assert all(limits.take(a_caller(None)) == [] for _ in range(1000))


def test_a_key_that_asked_too_often_is_told_when_to_come_back() -> None:
    now = 0.0
    limits = RateLimits(clock=lambda: now)
    remaining = [dict(limits.take(a_caller()))[b"x-ratelimit-remaining-requests"] for _ in range(3)]
    assert remaining == [b"2", b"1", b"0"]
    with pytest.raises(ApiError) as refused:
        limits.take(a_caller())
    headers = dict(refused.value.headers)
    assert (refused.value.status, refused.value.code) == (429, "rate_limit_exceeded")
    now = float(headers[b"retry-after"])
    limits.take(a_caller())


@given(
    limit=st.integers(1, 100),
    gaps=st.lists(st.floats(0, 30, allow_nan=False, width=16), min_size=1, max_size=300),
)
def test_no_pattern_of_asking_gets_more_than_a_burst_and_the_refill(limit: int, gaps: list[float]) -> None:
    now, served = 0.0, 0
    limits = RateLimits(clock=lambda: now)
    for gap in gaps:
        now += gap
        try:
            limits.take(a_caller(limit))
        except ApiError:
            continue
        served += 1
    assert served <= limit + now * limit / 60 + 1e-6
