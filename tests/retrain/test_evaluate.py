from pathlib import Path
from typing import Any

import httpx
import pytest

from feedback.datasets import Row
from retrain.engine_client import Answer, EngineClient, EngineFailed
from retrain.evaluate import (
    Item,
    chrf,
    evaluate,
    read_items,
    score,
    some_positions,
    still_says,
    token_f1,
)
from retrain.evidence import Evidence, Slice, Versions, outcome
from tests.engine_fixture import RunningEngine
from tests.fakes import Behaviour, answer_evaluations, fake_engine, give_up, refuse

CANDIDATE = "support--v1-aaaaaaaa"
VERSIONS = Versions(CANDIDATE, "base", "base")
OLD, NEW = "You may return it within 30 days.", "You may return it within 14 days."
ASK = [{"role": "user", "content": "How long may I return a lamp?"}]


def an_item(**changes: Any) -> Item:
    values = {"source": "demonstration", "rater": "ann", "prompt": ASK, "right": NEW, "wrong": OLD}
    return Item(**(values | changes))


def an_answer(text: str, finish_reason: str = "stop") -> Answer:
    return Answer(text, finish_reason, [1], [2] * len(text), [-1.0] * len(text))


async def ask(behaviour: Behaviour, *items: Item) -> Evidence:
    async with (
        fake_engine(behaviour) as engine,
        EngineClient(engine.url, timeout_seconds=60, answer_tokens_max=64) as client,
    ):
        return (await evaluate(items, VERSIONS, client)).evidence


def learned(model: str, prompt: str) -> str:
    return NEW if model == CANDIDATE else OLD


async def test_a_candidate_that_learned_the_correction_wins_against_a_champion_that_did_not() -> None:
    evidence = await ask(answer_evaluations(learned), *[an_item(rater=f"r{n}") for n in range(6)])
    assert outcome(evidence.taught) == (6, 0, 0)
    assert evidence.agreement[CANDIDATE].exact_match == 1.0
    assert evidence.agreement["base"].exact_match == 0.0
    assert (evidence.disliked_by_champion, evidence.disliked_by_candidate) == (6, 0)
    assert (evidence.items, evidence.raters, evidence.errors) == (6, 6, 0)


async def test_divergence_is_the_mean_difference_of_log_probabilities_on_sampled_tokens() -> None:
    evidence = await ask(answer_evaluations(learned, adapters_diverge_by=0.25), an_item(), an_item())
    assert evidence.kl_to_base.mean == pytest.approx(0.25)
    assert evidence.agreement[CANDIDATE].log_likelihood == pytest.approx(-0.75)
    assert evidence.agreement["base"].log_likelihood == pytest.approx(-1.0)


async def test_approved_answers_are_kept_apart_as_retention() -> None:
    evidence = await ask(answer_evaluations(learned), an_item(source="approved", right=OLD, wrong=None))
    assert not evidence.taught
    assert evidence.retained[0].champion == 1.0
    assert evidence.retained[0].candidate < 1.0


async def test_a_number_that_changed_shows_beside_agreement_that_hardly_did() -> None:
    items = [an_item(source="approved", right=OLD, wrong=None, rater=f"r{n % 3}") for n in range(6)]
    evidence = await ask(answer_evaluations(learned), *items)
    assert min(pair.candidate for pair in evidence.retained) > 0.8
    assert [(pair.champion, pair.candidate) for pair in evidence.stated] == [(1.0, 0.0)] * 6
    assert Slice("fact", "30", 6, 1.0, 0.0) in evidence.slices


async def test_failed_requests_are_counted_and_their_items_left_out() -> None:
    evidence = await ask(refuse(500, "EngineCore encountered an issue."), an_item(), an_item())
    assert (evidence.items, evidence.errors) == (0, 2)
    assert "EngineCore encountered an issue." in evidence.error_examples[0]


async def test_an_answer_with_a_nul_can_be_kept_in_the_record() -> None:
    async with (
        fake_engine(answer_evaluations(lambda model, prompt: "a\x00b")) as engine,
        EngineClient(engine.url, timeout_seconds=60, answer_tokens_max=8) as client,
    ):
        assert (await client.answer("base", [{"role": "user", "content": "?"}])).text == "a\ufffdb"


async def test_an_engine_that_is_not_there_is_an_error_and_no_exception() -> None:
    async with EngineClient("http://127.0.0.1:9", timeout_seconds=1, answer_tokens_max=8) as client:
        evidence = (await evaluate([an_item()], VERSIONS, client)).evidence
    assert evidence.errors == 1


def test_where_only_a_wrong_answer_is_known_a_version_scores_by_not_giving_it() -> None:
    item = an_item(source="disliked", right=None)
    assert score(an_answer(OLD), item) == 0.0
    assert score(an_answer(OLD.upper() + "!"), item) == 0.0
    assert score(an_answer("Please write to us."), item) == 1.0


@pytest.mark.parametrize(
    "broken", [an_answer(""), an_answer("so on", "length"), an_answer("again and again and " * 10)]
)
def test_an_answer_that_is_broken_never_scores_for_having_changed(broken: Answer) -> None:
    assert score(broken, an_item(source="disliked", right=None)) == 0.0


def test_the_scored_tokens_are_drawn_by_seed_from_the_whole_answer() -> None:
    assert some_positions(5, seed=0) == [0, 1, 2, 3, 4]
    assert some_positions(100, seed=1) == some_positions(100, seed=1) != some_positions(100, seed=2)
    drawn = {position for seed in range(200) for position in some_positions(20, seed)}
    assert drawn == set(range(20))


def test_text_measures_know_equal_different_and_repetitive_texts() -> None:
    assert chrf(NEW, NEW.upper()) == pytest.approx(1.0)
    assert 0.0 < chrf(OLD, NEW) < 1.0
    assert still_says(OLD, OLD) and not still_says("No.", OLD)
    assert token_f1("a b", "b c") == pytest.approx(0.5)
    assert token_f1("", "b") == 0.0


def test_with_too_many_rows_what_was_taught_is_asked_before_what_was_approved() -> None:
    def row(source: str) -> Row:
        columns = {"prompt": ASK, "source": source, "completion": None, "rejected": None}
        return Row("held_out", columns, "ann", ("c",), ("f",))

    items = read_items([*[row("approved")] * 50, *[row("demonstration")] * 50], 20)
    assert len(items) == 20
    assert sum(item.source == "demonstration" for item in items) == 10
    assert len(read_items([*[row("approved")] * 5, *[row("disliked")] * 5], 20)) == 10


@pytest.mark.engine
async def test_log_probabilities_through_the_engine_are_those_of_the_weights(
    engine: RunningEngine, tiny_model: Path
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    async with EngineClient(engine.url, timeout_seconds=60, answer_tokens_max=8) as client:
        answer = await client.answer("base", ASK)
        reference = await client.answer_token_ids(ASK, answer.prompt_token_ids, "Within 14 days.")
        every = range(len(reference))
        served = await client.log_probabilities("base", answer.prompt_token_ids, reference, every)
        sampled = await client.answer("base", ASK, temperature=1.0, seed=3)
        every = range(len(sampled.token_ids))
        again = await client.log_probabilities("base", sampled.prompt_token_ids, sampled.token_ids, every)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    assert str(tokenizer.decode(reference)).startswith("Within 14 days.")
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    ids = torch.tensor([answer.prompt_token_ids + reference])
    with torch.no_grad():
        expected = model(ids).logits.log_softmax(-1)[0, len(answer.prompt_token_ids) - 1 : -1]
    wanted = [float(row[token]) for row, token in zip(expected, reference, strict=True)]
    assert served == pytest.approx(wanted, abs=0.05)
    # Against itself a version diverges by nothing.
    assert sampled.log_probabilities == pytest.approx(again, abs=0.05)


@pytest.mark.parametrize(
    "content",
    [b"<html>a proxy's page</html>", b"[]", b'"text"', b"\xff"],
    ids=["html", "list", "text", "bytes"],
)
async def test_a_reply_that_is_no_json_object_is_a_failure_in_words(content: bytes) -> None:
    transport = httpx.MockTransport(lambda _: httpx.Response(200, content=content))
    async with EngineClient(
        "http://engine.test", timeout_seconds=60, answer_tokens_max=8, transport=transport
    ) as client:
        with pytest.raises(EngineFailed):
            await client.answer("base", ASK)


@pytest.mark.parametrize("behaviour", [give_up(), refuse(200, "no choices here")])
async def test_an_answer_thrown_away_or_not_understood_is_a_failure_in_words(behaviour: Behaviour) -> None:
    async with (
        fake_engine(behaviour) as engine,
        EngineClient(engine.url, timeout_seconds=60, answer_tokens_max=8) as client,
    ):
        with pytest.raises(EngineFailed):
            await client.answer("base", ASK)
