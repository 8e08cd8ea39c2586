"""Who gets in: pages by their origin, clients by their address, and each only so often."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback.addresses import client_address, read_networks
from feedback.database import Database
from feedback.errors import HoneError, Refused
from feedback.limits import BUCKETS_MAX, Limit
from feedback.origins import is_allowed
from feedback.settings import FeedbackSettings
from tests.feedback.handing_in import Counter, a_counter, a_token, bearer, code

A = "chatcmpl-a"
PROXIES = read_networks(["10.0.0.0/8", "fd00::/8"])
SHOP = "https://shop.example"


@pytest.fixture
async def counter(database: Database, state_dir: Path) -> AsyncIterator[Counter]:
    async with a_counter(database, state_dir) as counter:
        yield counter


async def preflight(counter: Counter, origin: str, path: str = "/v1/feedback") -> httpx.Response:
    asked = {"origin": origin, "access-control-request-method": "POST"}
    return await counter.client.options(path, headers=asked)


# Pages


async def test_a_page_of_an_allowed_origin_may_send_and_read(counter: Counter) -> None:
    asked = await preflight(counter, SHOP)
    assert asked.status_code == 204
    assert asked.headers["access-control-allow-origin"] == SHOP
    assert "x-hone-feedback-token" in asked.headers["access-control-allow-headers"]
    answer = await counter.post({"value": True}, a_token(A), origin=SHOP)
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, SHOP)
    assert "origin" in answer.headers["vary"]


async def test_a_page_may_read_why_its_token_is_refused(counter: Counter) -> None:
    answer = await counter.post({"value": True}, "forged.token", origin=SHOP)
    assert code(answer) == (401, "feedback_token_invalid")
    assert answer.headers["access-control-allow-origin"] == SHOP


async def test_a_page_of_another_origin_is_refused_and_records_nothing(counter: Counter) -> None:
    assert code(await preflight(counter, "https://elsewhere.example")) == (403, "origin_not_allowed")
    for origin in (
        "https://elsewhere.example",
        "null",
        "http://shop.example",
        "https://shop.example.evil.example",
    ):
        answer = await counter.post({"value": True}, a_token(A), origin=origin)
        assert code(answer) == (403, "origin_not_allowed")
        assert "access-control-allow-origin" not in answer.headers
    assert await counter.rows(A) == []


async def test_an_origin_that_one_project_allows_may_not_send_to_another(counter: Counter) -> None:
    answer = await counter.post({"value": True}, a_token(A, project="other"), origin=SHOP)
    assert code(answer) == (403, "origin_not_allowed")
    assert "access-control-allow-origin" not in answer.headers


async def test_the_gateways_own_pages_need_no_entry(counter: Counter) -> None:
    answer = await counter.post({"value": True}, a_token(A), origin="http://gateway.test")
    assert answer.status_code == 200


async def test_browser_credentials_are_never_allowed(counter: Counter) -> None:
    for answer in (
        await preflight(counter, SHOP),
        await counter.post({"value": True}, a_token(A), origin=SHOP),
    ):
        assert "access-control-allow-credentials" not in answer.headers
        assert answer.headers["access-control-allow-origin"] != "*"


@pytest.mark.parametrize(
    ("origin", "allowed", "expected"),
    [
        ("https://a.shop.example", "https://*.shop.example", True),
        ("https://a.b.shop.example", "https://*.shop.example", True),
        ("https://shop.example", "https://*.shop.example", False),
        ("https://ashop.example", "https://*.shop.example", False),
        ("http://a.shop.example", "https://*.shop.example", False),
        ("http://localhost:5173", "http://localhost:5173", True),
        ("http://localhost:5174", "http://localhost:5173", False),
        ("https://anything.example", "*", True),
    ],
)
def test_an_entry_allows_the_origins_it_describes(origin: str, allowed: str, expected: bool) -> None:
    assert is_allowed(origin, [allowed]) == expected


# Bodies


async def test_a_body_that_is_too_long_is_not_read(database: Database, state_dir: Path) -> None:
    async with a_counter(database, state_dir, feedback_bytes_max=1000) as counter:
        long = await counter.post({"completion_id": A, "comment": "x" * 1000})
        assert code(long) == (413, "request_too_large")

        async def pieces() -> AsyncIterator[bytes]:
            for _ in range(20):
                yield b" " * 100

        streamed = await counter.client.post("/v1/feedback", content=pieces(), headers=bearer())
        assert code(streamed) == (413, "request_too_large")


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[" * 2000 + b"]" * 2000, b'{"value":NaN}', b'{"comment":"\xff"}']
)
async def test_a_body_that_is_no_json_is_refused(counter: Counter, body: bytes) -> None:
    answer = await counter.client.post("/v1/feedback", content=body, headers=bearer())
    assert code(answer) == (400, "invalid_json")


async def test_characters_that_the_database_cannot_hold_are_replaced(counter: Counter) -> None:
    body = rb'{"completion_id":"chatcmpl-a","comment":"a\u0000b","metadata":{"n":123456789012345678901234567890}}'
    answer = await counter.client.post("/v1/feedback", content=body, headers=bearer())
    assert answer.status_code == 200, answer.text
    assert [value for _, value, _ in await counter.effective(A)] == ["a\ufffdb"]


async def test_a_page_may_post_text_to_spare_its_browser_a_preflight(counter: Counter) -> None:
    headers = {"content-type": "text/plain", "origin": SHOP}
    content = b'{"value":true,"token":"%b"}' % a_token(A).encode()
    answer = await counter.client.post("/v1/feedback", content=content, headers=headers)
    assert answer.status_code == 200


# Limits


async def test_a_rater_an_address_and_a_key_each_have_their_own_limit(
    database: Database, state_dir: Path
) -> None:
    limits: dict[str, Any] = {
        "feedback_rater_requests_per_minute": 2,
        "feedback_address_requests_per_minute": 4,
        "feedback_key_requests_per_minute": 3,
    }
    async with a_counter(database, state_dir, **limits) as counter:

        async def vote(rater: str, token: bool = False) -> int:
            body = {"completion_id": A, "value": True}
            if token:
                return (await counter.post(body, a_token(A, rater))).status_code
            return (await counter.post({**body, "rater_id": rater})).status_code

        assert [await vote("ada") for _ in range(3)] == [200, 200, 429]
        assert [await vote("bob") for _ in range(1)] == [429], "the key has said its three"
        assert [await vote(f"rater-{number}", token=True) for number in range(5)] == [200, 200, 200, 200, 429]
        refused = await counter.post({"value": True}, a_token(A, "rater-9"))
        assert code(refused) == (429, "feedback_rate_limited") and int(refused.headers["retry-after"]) > 0


async def test_a_forged_forwarded_address_does_not_escape_the_limit(
    database: Database, state_dir: Path
) -> None:
    limits: dict[str, Any] = {
        "feedback_address_requests_per_minute": 2,
        "feedback_rater_requests_per_minute": None,
    }
    votes = [(a_token(A), f"198.51.100.{number}") for number in range(4)]
    async with a_counter(database, state_dir, **limits) as counter:
        said = [(await counter.post({"value": True}, t, x_forwarded_for=a)).status_code for t, a in votes]
    assert said == [200, 200, 429, 429]
    async with a_counter(database, state_dir, trusted_proxies=("203.0.113.0/24",), **limits) as counter:
        said = [(await counter.post({"value": True}, t, x_forwarded_for=a)).status_code for t, a in votes]
    assert said == [200, 200, 200, 200]


def test_a_limit_fills_up_again_evenly() -> None:
    now = 0.0
    limit = Limit("One rater", 60, clock=lambda: now)
    limit.take("ada", 60)
    with pytest.raises(Refused) as refused:
        limit.take("ada")
    assert (refused.value.status, refused.value.seconds) == (429, 1)
    limit.take("bob")
    now = 1.0
    limit.take("ada")
    with pytest.raises(Refused):
        limit.take("ada")


def test_a_limit_remembers_a_bounded_number_of_names() -> None:
    limit = Limit("One address", 1)
    for number in range(BUCKETS_MAX + 10):
        limit.take(str(number))
    assert len(limit._buckets) == BUCKETS_MAX
    with pytest.raises(Refused):
        limit.take(str(BUCKETS_MAX + 9))


# Addresses


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "forwarded", "expected"),
    [
        ("203.0.113.7", "198.51.100.1", None, "203.0.113.7"),
        ("10.0.0.1", "198.51.100.1", None, "198.51.100.1"),
        ("10.0.0.1", "6.6.6.6, 198.51.100.1, 10.0.0.2", None, "198.51.100.1"),
        ("10.0.0.1", "6.6.6.6, nonsense", None, "10.0.0.1"),
        ("10.0.0.1", None, None, "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1:4711", None, "198.51.100.1"),
        ("10.0.0.1", "[2001:db8:1:2:3:4:5:6]:4711", None, "2001:db8:1:2::"),
        ("10.0.0.1", "::ffff:198.51.100.1", None, "198.51.100.1"),
        ("fd00::1", None, 'for="[2001:db8::1]:80";proto=https, for=10.1.1.1', "2001:db8::"),
        ("10.0.0.1", "6.6.6.6", "for=198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", None, "for=unknown", "10.0.0.1"),
        ("unix", None, None, "unix"),
    ],
)
def test_the_clients_address_is_the_last_that_a_trusted_proxy_vouches_for(
    peer: str, forwarded_for: str | None, forwarded: str | None, expected: str
) -> None:
    assert client_address(peer, forwarded_for, forwarded, PROXIES) == expected


@given(peer=st.ip_addresses().map(str), said=st.text(), forwarded=st.none() | st.text())
def test_without_trusted_proxies_no_header_changes_the_address(
    peer: str, said: str, forwarded: str | None
) -> None:
    assert client_address(peer, said, forwarded, ()) == client_address(peer, None, None, ())


def test_a_setting_that_is_no_network_is_refused() -> None:
    with pytest.raises(HoneError, match="trusted_proxies"):
        FeedbackSettings.load(trusted_proxies=("the proxy",))
