"""Rewriting finds keys, never words, and does not depend on how the network cut the bytes."""

from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.endpoints import CHAT, DONE, MESSAGES, RESPONSES, Endpoint
from serving.streaming import Rewriter, count_tokens, error_said, gave_up

texts = st.text(max_size=40) | st.sampled_from(
    [
        '"model":"base"',
        '"token_ids":[1]',
        '"choices":[],"usage":{}',
        "data: [DONE]\n\n",
        '"finish_reason":"abort"',
    ]
)


def event(word: str, position: int) -> bytes:
    choice = {"index": 0, "delta": {"content": word}, "finish_reason": None, "token_ids": [position, 7]}
    return b"data: " + orjson.dumps({"id": "chatcmpl-1", "model": "base", "choices": [choice]}) + b"\n\n"


USAGE = b'data: {"id":"chatcmpl-1","model":"base","choices":[],"usage":{"completion_tokens":12}}\n\n'


def rewriter(*, hide: bool = True) -> Rewriter:
    return Rewriter(CHAT, served_name="base", name="support@7", hide_token_ids=hide, hide_usage=hide)


def relay(raw: bytes, cuts: list[int], *, hide: bool = True) -> tuple[bytes, bool]:
    one, out, at = rewriter(hide=hide), b"", 0
    for cut in [*sorted(cut % (len(raw) + 1) for cut in cuts), len(raw)]:
        if cut > at:
            out, at = out + one.events(raw[at:cut]), cut
    return out, one.held == DONE


@given(words=st.lists(texts, max_size=8), cuts=st.lists(st.integers(0, 10_000), max_size=12))
def test_a_relayed_stream_says_the_same_however_it_was_cut(words: list[str], cuts: list[int]) -> None:
    raw = b"".join(event(word, position) for position, word in enumerate(words)) + USAGE + DONE
    out, done = relay(raw, cuts)
    assert done
    seen = [orjson.loads(one[6:]) for one in out.split(b"\n\n") if one]
    assert [one["choices"][0]["delta"]["content"] for one in seen] == words
    assert all(one["model"] == "support@7" and one["choices"][0]["token_ids"] is None for one in seen)


@given(words=st.lists(texts, max_size=8), cuts=st.lists(st.integers(0, 10_000), max_size=12))
def test_what_the_client_asked_for_stays(words: list[str], cuts: list[int]) -> None:
    raw = b"".join(event(word, position) for position, word in enumerate(words)) + USAGE
    out, done = relay(raw, cuts, hide=False)
    assert not done
    assert out == raw.replace(b'"model":"base"', b'"model":"support@7"')


@given(text=texts)
def test_a_whole_answer_keeps_its_text(text: str) -> None:
    body = {
        "model": "base",
        "choices": [{"message": {"content": text}, "token_ids": [1, 2]}],
        "prompt_token_ids": [3],
    }
    seen = orjson.loads(rewriter().whole(orjson.dumps(body)))
    choice = {"message": {"content": text}, "token_ids": None}
    assert seen == {"model": "support@7", "choices": [choice], "prompt_token_ids": None}


@given(text=texts, count=st.integers(0, 10**9))
def test_tokens_are_counted_from_the_usage_not_from_the_text(text: str, count: int) -> None:
    usage = {"prompt_tokens": 7, "completion_tokens": count, "prompt_tokens_details": None, "total_tokens": 3}
    body = {"choices": [{"text": text}], "usage": usage}
    assert count_tokens(CHAT, orjson.dumps(body)) == (7, count)
    assert count_tokens(CHAT, orjson.dumps({"text": text})) == (0, 0)


@given(text=texts)
def test_failure_is_read_from_keys_not_from_words(text: str) -> None:
    assert gave_up(CHAT, orjson.dumps({"text": text, "finish_reason": "stop"})) is None
    assert gave_up(CHAT, orjson.dumps({"text": text, "finish_reason": "abort"})) == b'"abort"'
    assert error_said(CHAT, event(text, 0) + DONE) is None
    failed = b'data: {"error":{"message":"x"}}'
    for end in (b"", b"\n\n", b"\n\n" + DONE, b"\n\n" + event(text, 1) + DONE):
        assert error_said(CHAT, event(text, 0) + failed + end) == failed


@given(after=st.integers(0, 20_000), message=st.integers(0, 20_000))
def test_failure_is_found_however_much_stands_after_or_in_it(after: int, message: int) -> None:
    abandoned = b'data: {"choices":[{"finish_reason":"abort","token_ids":[%b]}]}\n\n' % (b"1," * after + b"1")
    assert gave_up(CHAT, event("a", 0) + abandoned + USAGE + DONE)
    failed = b'data: {"error":{"message":"%b"}}' % (b"x" * message)
    assert error_said(CHAT, event("a", 0) + failed + b"\n\n" + event("b", 0) * (after % 100) + DONE) == failed
    assert error_said(CHAT, failed + b"\n\n") == failed


@pytest.mark.parametrize(
    ("endpoint", "body", "given_up"),
    [
        (MESSAGES, {"content": [{"text": '"stop_reason":null'}], "stop_reason": "end_turn"}, False),
        (MESSAGES, {"type": "message_delta", "delta": {"stop_reason": None}}, True),
        (RESPONSES, {"output": [{"status": "completed"}], "status": "cancelled", "text": None}, True),
        (RESPONSES, {"output": [{"status": "failed"}], "status": "completed", "text": None}, False),
        (RESPONSES, {"status": "completed", "text": {"schema": {"examples": [{"status": "failed"}]}}}, False),
        (RESPONSES, {"status": "failed", "text": {"schema": {"status": "string"}}}, True),
    ],
)
def test_each_api_says_in_its_own_way_that_it_gave_up(
    endpoint: Endpoint, body: dict[str, Any], given_up: bool
) -> None:
    assert (gave_up(endpoint, orjson.dumps(body)) is not None) is given_up


@pytest.mark.parametrize("status", ["completed", "failed"])
def test_a_streamed_response_says_its_status_in_its_last_event(status: str) -> None:
    begun = orjson.dumps(
        {"response": {"status": "in_progress", "text": {"examples": [{"status": "failed"}]}}}
    )
    ended = orjson.dumps({"response": {"status": status, "text": {"examples": [{"status": "failed"}]}}})
    raw = b"event: response.created\ndata: %b\n\nevent: response.completed\ndata: %b\n\n" % (begun, ended)
    assert gave_up(RESPONSES, raw) == (b'"failed"' if status == "failed" else None)
