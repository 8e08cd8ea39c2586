"""What the engine sent becomes the row that people and training read."""

from types import SimpleNamespace
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st

from serving.transcript import read_row

HEAD: dict[str, Any] = {
    "completion_id": "chatcmpl-1",
    "project": "default",
    "model": "support",
    "adapter_id": "support--v0-x",
    "version": 0,
    "experiment_id": None,
    "arm": None,
    "propensity": 1.0,
    "unit": "rater-a",
    "rater": "rater-a",
    "session": None,
    "key_id": "key-1",
    "engine": "http://gpu-0",
    "endpoint": "/v1/chat/completions",
    "consent": True,
    "status": "ok",
    "error": None,
    "metadata": None,
    "request": {"model": "support", "messages": []},
    "created_at": "2026-11-21T03:00:00+00:00",
    "time_to_first_token_seconds": None,
    "time_per_output_token_seconds": None,
    "duration_seconds": 0.1,
}


def row(raw: bytes) -> SimpleNamespace:
    return SimpleNamespace(**orjson.loads(read_row(orjson.dumps(HEAD) + b"\n" + raw)))


def events(*deltas: dict[str, Any], finish: str = "stop") -> bytes:
    chunks = [{"choices": [{"index": 0, "delta": delta, "token_ids": [n]}]} for n, delta in enumerate(deltas)]
    chunks.append({"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
    return b"".join(b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in chunks)


@given(words=st.lists(st.text(min_size=1), min_size=1, max_size=10))
def test_a_stream_adds_up_to_its_text(words: list[str]) -> None:
    found = row(events({"role": "assistant", "content": ""}, *({"content": word} for word in words)))
    assert found.output_text == "".join(words)
    assert found.message == {"role": "assistant", "content": "".join(words)}
    assert found.output_token_ids == list(range(len(words) + 1))
    assert found.finish_reason == "stop"


def test_tool_calls_come_together_from_their_pieces() -> None:
    found = row(
        events(
            {"role": "assistant", "content": None},
            {"tool_calls": [{"index": 0, "id": "call-1", "function": {"name": "look_up", "arguments": ""}}]},
            {"tool_calls": [{"index": 0, "function": {"arguments": '{"order":'}}]},
            {"tool_calls": [{"index": 0, "function": {"arguments": "7}"}}]},
            {"tool_calls": [{"index": 1, "id": "call-2", "function": {"name": "wait", "arguments": "{}"}}]},
            finish="tool_calls",
        )
    )
    first, second = found.message["tool_calls"]
    assert first == {
        "id": "call-1",
        "type": "function",
        "function": {"name": "look_up", "arguments": '{"order":7}'},
    }
    assert second["function"]["name"] == "wait"
    assert found.finish_reason == "tool_calls"


def test_reasoning_is_kept_beside_the_answer() -> None:
    found = row(
        events({"role": "assistant"}, {"reasoning": "Let me "}, {"reasoning": "see."}, {"content": "Yes."})
    )
    assert found.message == {"role": "assistant", "reasoning": "Let me see.", "content": "Yes."}


def test_of_several_choices_the_first_is_recorded() -> None:
    choices = [{"index": 1, "delta": {"content": "no"}}, {"index": 0, "delta": {"content": "yes"}}]
    assert row(b"data: " + orjson.dumps({"choices": choices}) + b"\n\n").output_text == "yes"


@given(cut=st.integers(0, 400))
def test_a_stream_cut_short_gives_what_came(cut: int) -> None:
    raw = events({"role": "assistant", "content": "a"}, {"content": "b"}, {"content": "c"})
    assert "abc".startswith(row(raw[:cut]).output_text)


@given(raw=st.binary(max_size=200))
def test_whatever_the_engine_sent_makes_a_row(raw: bytes) -> None:
    assert row(raw).completion_id == "chatcmpl-1"


def test_comments_between_events_are_skipped() -> None:
    raw = b": keep-alive\n\n" + events({"content": "a"}) + b": keep-alive\n\ndata: [DONE]\n\n"
    assert row(raw).output_text == "a"
