"""Feedback tokens: nobody makes or changes one but the service."""

from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from feedback.errors import Refused
from feedback.tokens import check_use, shown, sign, verify

SECRET, OTHER = b"s" * 32, b"o" * 32
SOON = int(datetime.now(UTC).timestamp()) + 3600
IDS = st.from_regex(r"(chatcmpl|cmpl|resp)-[0-9a-f]{32}", fullmatch=True) | st.sampled_from(("a|b", "|", "é"))
PROJECTS = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,62}", fullmatch=True)
RATERS = st.none() | st.from_regex(r"rater-[0-9a-f]{24}", fullmatch=True)


@given(completion_id=IDS, project=PROJECTS, rater=RATERS, expires=st.integers(SOON, 2**40))
def test_a_token_says_what_was_signed(
    completion_id: str, project: str, rater: str | None, expires: int
) -> None:
    grant = verify(SECRET, sign(SECRET, completion_id, project, rater, expires))
    assert (grant.completion_id, grant.project, grant.rater) == (completion_id, project, rater)


@given(position=st.integers(0, 200), other=st.sampled_from("AQgw_-.09azZ=~ \n"))
def test_a_token_with_one_character_changed_is_refused(position: int, other: str) -> None:
    token = sign(SECRET, "chatcmpl-1", "default", "rater-a", SOON)
    position %= len(token)
    changed = token[:position] + other + token[position + 1 :]
    if changed != token:
        with pytest.raises(Refused) as refused:
            verify(SECRET, changed)
        assert (refused.value.status, refused.value.code) == (401, "feedback_token_invalid")


@given(token=st.text() | st.binary().map(lambda data: data.decode("latin-1")))
@example("")
@example(".")
@example("a.b.c")
@example("é.é")
def test_whatever_is_sent_as_a_token_is_refused_with_its_code(token: str) -> None:
    with pytest.raises(Refused) as refused:
        verify(SECRET, token)
    assert refused.value.code == "feedback_token_invalid"


@given(completion_id=IDS, project=PROJECTS, rater=RATERS)
def test_a_token_of_another_service_is_refused(completion_id: str, project: str, rater: str | None) -> None:
    with pytest.raises(Refused) as refused:
        verify(SECRET, sign(OTHER, completion_id, project, rater, SOON))
    assert refused.value.code == "feedback_token_invalid"


@given(expires=st.integers(0, SOON - 7200))
def test_a_token_is_refused_once_it_has_expired(expires: int) -> None:
    with pytest.raises(Refused) as refused:
        verify(SECRET, sign(SECRET, "chatcmpl-1", "default", None, expires))
    assert refused.value.code == "feedback_token_expired"


@given(one=st.tuples(IDS, PROJECTS, RATERS), other=st.tuples(IDS, PROJECTS, RATERS))
def test_a_token_is_good_for_exactly_what_it_was_signed_for(
    one: tuple[str, str, str | None], other: tuple[str, str, str | None]
) -> None:
    grant = verify(SECRET, sign(SECRET, *one, SOON))
    fits = one[:2] == other[:2] and (one[2] is None or other[2] in (None, one[2]))
    try:
        check_use(grant, completion_id=other[0], session=None, project=other[1], rater=other[2])
    except Refused as refused:
        assert not fits and refused.status == 403
    else:
        assert fits


def test_a_token_is_shown_with_its_address_and_its_end() -> None:
    assert shown("a.b", 1_800_000_000, "https://llm.example/") == {
        "id": "a.b",
        "url": "https://llm.example/v1/feedback/tokens/a.b",
        "expires_at": "2027-01-15T08:00:00Z",
    }
