"""Personal data that has a form is replaced before it is stored, the same way every time."""

import sys

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback.errors import HoneError
from feedback.privacy_policy import PrivacyPolicy
from feedback.redact import Conversation, presidio_finder, redact_row
from tests.bench.redaction import KINDS, measure, sentences

EVERYTHING = PrivacyPolicy(redaction="everything")


def redacted(text: str) -> str:
    """What is left of one text."""
    return Conversation().text(text)


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("Mail jane.doe+shop@example.co.uk.", "Mail <EMAIL_1>."),
        ("Call +49 171 2345678 or (212) 555-0123.", "Call <PHONE_1> or <PHONE_2>."),
        ("Card 4111 1111 1111 1111 123", "Card <CARD_1> 123"),
        ("IBAN DE89 3704 0044 0532 0130 00, please", "IBAN <IBAN_1>, please"),
        ("from 203.0.113.9 and 2001:db8::7", "from <IP_1> and <IP_2>"),
        ("use sk-abcdefghijklmnop1234 now", "use <KEY_1> now"),
        ("postgresql://hone:s3cret@db/hone", "postgresql://<KEY_1>@db/hone"),
        ("my password is hunter2!", "my password is <KEY_1>!"),
    ],
)
def test_personal_data_is_replaced_by_a_typed_placeholder(text: str, left: str) -> None:
    assert redacted(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "Order 4111111111111112 of 2026-11-21 10:30, version 1.2.3.4, 1,234,567 rows",
        "IBAN DE89 3704 0044 0532 0130 02 has a wrong checksum",
        "d41d8cd98f00b204e9800998ecf8427e chatcmpl-0199aabbccdd7eeff8899aabbccddeeff",
        "The token bucket refills; the password is required. See src/feedback/personal_data.py::emails",
        "300.1.2.3 and 12:30:45 and std::vector",
        "data:image/png;base64,iVBORw0KGgo4111111111111111",
    ],
)
def test_what_only_looks_alike_is_left(text: str) -> None:
    assert redacted(text) == text


def test_a_generated_test_set_is_found_and_little_else_is() -> None:
    for kind, score in measure(sentences(100, seed=3)).items():
        assert score.recall >= 0.97, kind
        assert score.precision >= 0.95, kind


def test_one_value_has_one_placeholder_in_the_whole_conversation_and_its_next_turn() -> None:
    def row(*said: str) -> bytes:
        messages = [{"role": "user", "content": one} for one in said]
        return orjson.dumps(
            {"request": {"model": "m", "messages": messages}, "output_text": "Wrote to a@x.org."}
        )

    first = orjson.loads(redact_row(row("I am a@x.org", "not B@x.org"), EVERYTHING))["redacted"]
    second = orjson.loads(redact_row(row("I am a@x.org", "not B@x.org", "b@X.org again"), EVERYTHING))[
        "redacted"
    ]
    said = [message["content"] for message in second["request"]["messages"]]
    assert said == ["I am <EMAIL_1>", "not <EMAIL_2>", "<EMAIL_2> again"]
    assert first["request"]["messages"] == second["request"]["messages"][:2]
    assert first["output_text"] == "Wrote to <EMAIL_1>." and first["found"] == {"EMAIL": 2}


def test_redacting_everything_keeps_no_token_that_decodes_to_the_original() -> None:
    row = {
        "request": {"prompt": "I am a@x.org"},
        "output_text": "Hi",
        "prompt_token_ids": [5, 6],
        "error": "a@x.org?",
    }
    left = orjson.loads(redact_row(orjson.dumps(row), EVERYTHING))
    assert left["request"] is left["prompt_token_ids"] is left["output_text"] is None
    assert b"a@x.org" not in orjson.dumps(left)
    beside = orjson.loads(redact_row(orjson.dumps(row), PrivacyPolicy(redaction="training")))
    assert beside["request"] == row["request"] and beside["redacted"]["request"] == {
        "prompt": "I am <EMAIL_1>"
    }
    assert "prompt_token_ids" not in beside["redacted"]


def test_a_tool_call_keeps_its_id_and_loses_what_its_arguments_tell() -> None:
    call = {
        "id": "call_aB3dE5fG7hI9jK1lM3nO5pQ7",
        "function": {"name": "mail", "arguments": '{"to":"a@x.org"}'},
    }
    assert Conversation().value({"tool_calls": [call]}) == {
        "tool_calls": [call | {"function": {"name": "mail", "arguments": '{"to":"<EMAIL_1>"}'}}]
    }


def test_a_placeholder_that_stands_there_already_keeps_its_number() -> None:
    row = orjson.dumps({"request": {"prompt": "<EMAIL_1> is not b@x.org"}, "output_text": ""})
    assert (
        orjson.loads(redact_row(row, EVERYTHING))["redacted"]["request"]["prompt"]
        == "<EMAIL_1> is not <EMAIL_2>"
    )


def test_a_digit_that_is_no_number_ends_an_account() -> None:
    assert redacted("AT00000000000000000¹") == "AT00000000000000000¹"
    assert redacted("to DE89 3704 0044 0532 0130 00, note ¹") == "to <IBAN_1>, note ¹"


pieces = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.sampled_from(
        ["a@x.org", "4111111111111111", "+49 171 2345678", "token: aB3!x9zz", "10.0.0.1", "<CARD_3>", "::"]
    ),
)


@given(st.lists(pieces, max_size=12).map("".join))
def test_redacting_twice_changes_nothing(text: str) -> None:
    once = redacted(text)
    assert redacted(once) == once


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "piece",
    [
        "a.",
        "1 ",
        "1-",
        "a@",
        "((1",
        "::",
        "AB12",
        "x:",
        "token ",
        "00000000000000000000000A ",
        "1-1 A",
        "1" * 4000 + "A",
        "-----BEGIN PRIVATE KEY-----",
        "eyJaaaaaaaa.",
    ],
)
def test_a_hostile_text_takes_no_more_than_linear_time(piece: str) -> None:
    redacted(piece * (400_000 // len(piece)))


def test_presidio_that_is_not_there_is_an_error_that_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    presidio_finder.cache_clear()
    with pytest.raises(HoneError, match=r"hone-llm\[privacy\]"):
        Conversation(presidio=True)


def test_presidio_finds_what_the_own_patterns_do_not_look_for() -> None:
    pytest.importorskip("presidio_analyzer")
    presidio_finder.cache_clear()
    conversation = Conversation(presidio=True)
    assert (
        conversation.text("My number is 536-22-8726, mail a@x.org")
        == "My number is <US_SSN_1>, mail <EMAIL_1>"
    )


def test_every_type_has_a_generator_in_the_test_set() -> None:
    from feedback.personal_data import FINDERS

    assert set(KINDS) == set(FINDERS)
