import json
import math
import random

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrain.judge import Judge, Judged, JudgeFailed, length_controlled, summarise_judged

ASK = [{"role": "user", "content": "When?"}]


def judge_that(prefers: str) -> Judge:
    """A judging endpoint that prefers the answer with a word, the first answer ("first"), or says something else."""

    def reply(request: httpx.Request) -> httpx.Response:
        shown = json.loads(request.content)["messages"][-1]["content"]
        a, b = shown.split("# Answer A\n")[1].split("\n\n# Answer B\n")
        said = {"first": "A", "nonsense": "Both are fine"}.get(
            prefers, "A" if prefers in a and prefers not in b else "B" if prefers in b else "T"
        )
        return httpx.Response(200, json={"choices": [{"message": {"content": said}}]})

    return Judge("http://judge.test/v1", "judge-1", transport=httpx.MockTransport(reply))


@pytest.mark.parametrize(
    ("prefers", "verdict"), [("fourteen", 1.0), ("thirty", 0.0), ("first", 0.5), ("sixty", 0.5)]
)
async def test_a_win_needs_both_orders(prefers: str, verdict: float) -> None:
    async with judge_that(prefers) as judge:
        assert (await judge.compare(ASK, "fourteen", "thirty")).verdict == verdict


async def test_equal_answers_are_a_tie_without_asking() -> None:
    async with judge_that("nonsense") as judge:
        assert (await judge.compare(ASK, "same", "same")).verdict == 0.5


async def test_an_answer_that_is_no_verdict_is_an_error() -> None:
    async with judge_that("nonsense") as judge:
        with pytest.raises(JudgeFailed, match="'Both are fine', not A, B or T"):
            await judge.compare(ASK, "a", "b")


@pytest.mark.parametrize(
    "response", [httpx.Response(500, text="out of memory"), httpx.Response(200, json={"choices": []})]
)
async def test_an_endpoint_that_fails_says_so_with_its_address(response: httpx.Response) -> None:
    transport = httpx.MockTransport(lambda _: response)
    async with Judge("http://judge.test/v1", "judge-1", transport=transport) as judge:
        with pytest.raises(JudgeFailed, match=r"http://judge\.test/v1"):
            await judge.ask(ASK)


async def test_an_address_that_is_none_is_a_judge_that_fails() -> None:
    async with Judge("http://judge:80a/v1", "judge-1") as judge:
        with pytest.raises(JudgeFailed, match="80a"):
            await judge.ask(ASK)


def test_a_judge_that_likes_only_length_gives_no_win_at_equal_length() -> None:
    draw = random.Random(4)
    judged = []
    for _ in range(400):
        longer_by = draw.gauss(60, 100)  # the candidate writes more, and longer answers win
        wins = draw.random() < 1 / (1 + math.exp(-3 * math.tanh(longer_by / 117)))
        judged.append(Judged(float(wins), longer_by))
    result = summarise_judged("judge-1", judged, errors=0)
    controlled = result.length_controlled_win_rate
    assert result.win_rate is not None and controlled is not None
    assert result.win_rate > 0.6
    assert abs(controlled - 0.5) < 0.07


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.floats(-1e4, 1e4)), min_size=2, max_size=60))
def test_turning_every_comparison_round_turns_the_controlled_rate_round(
    rows: list[tuple[float, float]],
) -> None:
    there = length_controlled([Judged(v, d) for v, d in rows])
    back = length_controlled([Judged(1 - v, -d) for v, d in rows])
    assert there is not None and back is not None
    assert 0 < there < 1
    assert there + back == pytest.approx(1.0, abs=1e-6)


def test_without_a_comparison_nothing_is_known() -> None:
    result = summarise_judged("judge-1", [], errors=3)
    assert (result.win_rate, result.length_controlled_win_rate, result.low, result.errors) == (
        None,
        None,
        None,
        3,
    )
