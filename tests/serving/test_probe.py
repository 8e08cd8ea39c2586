"""The probe knows an adapter again, on the engine and across engines, and notices one that is not what it was."""

import math
from pathlib import Path

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.engine_api import EngineApi, EngineRefusal, EngineUnavailable
from serving.probe import (
    PROMPTS,
    STEPS,
    Fingerprint,
    ProbeFailed,
    Step,
    check_takes_part,
    compare,
    distance,
    take_fingerprint,
)
from tests.engine_fixture import RunningEngine
from tests.ports import free_port
from tests.tiny_model import build_bad_adapter, build_null_adapter, copy_adapter

# The first test of a session waits for the engine to start, which a busy machine draws out.
pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

values = st.floats(-20, 0).map(lambda value: round(value, 3))
steps = st.tuples(st.tuples(st.just(1), values), st.tuples(st.just(9), values))
fingerprints = st.builds(Fingerprint, st.tuples(st.tuples(steps, steps), st.tuples(steps, steps)))


def one_answer(*steps: Step) -> Fingerprint:
    return Fingerprint((steps,))


@given(fingerprints)
def test_a_fingerprint_survives_the_record(fingerprint: Fingerprint) -> None:
    assert Fingerprint.from_json(orjson.loads(orjson.dumps(fingerprint.to_json()))) == fingerprint


@given(fingerprints, fingerprints)
def test_distance_is_nothing_to_itself_and_the_same_in_both_directions(
    one: Fingerprint, other: Fingerprint
) -> None:
    assert distance(one, one) == 0
    assert distance(one, other) == pytest.approx(distance(other, one))


def test_answers_that_part_at_a_near_tie_agree_and_at_a_clear_choice_do_not() -> None:
    tied = one_answer(((5, -0.70), (6, -0.71)), ((7, -1.0), (8, -2.0)))
    parted = one_answer(((6, -0.70), (5, -0.71)), ((9, -0.1), (3, -4.0)))
    compare(tied, parted, tolerance_nats=0.1)
    clear = one_answer(((5, -0.1), (6, -3.0)), ((7, -1.0), (8, -2.0)))
    assert distance(clear, parted, tie_nats=0.4) == math.inf
    with pytest.raises(ProbeFailed, match=r"clearly other tokens.*at most 0\.1 nats"):
        compare(clear, parted, tolerance_nats=0.1)


def test_an_answer_of_another_length_is_another_answer() -> None:
    step: Step = ((5, -0.5), (6, -0.9))
    assert distance(one_answer(step), one_answer(step, step), tie_nats=9.0) == math.inf


def test_an_adapter_must_differ_from_the_base_by_more_than_the_base_does_from_itself() -> None:
    base = one_answer(((5, -1.0), (6, -2.0)))
    check_takes_part(one_answer(((5, -1.0), (6, -2.1))), base, base)
    check_takes_part(one_answer(((7, -1.0), (8, -2.0))), base, base)
    with pytest.raises(ProbeFailed, match="the engine ignores it"):
        check_takes_part(base, base, base)
    with pytest.raises(ProbeFailed, match="the engine ignores it"):
        check_takes_part(one_answer(((5, -1.0), (6, -2.01))), base, one_answer(((5, -1.02), (6, -2.0))))


async def test_adapters_differ_from_each_other_and_the_base_and_agree_with_themselves(
    engine: RunningEngine, tiny_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    async with EngineApi(engine.url) as api:
        base = await take_fingerprint(api, "base")
        assert [len(answer) for answer in base.answers] == [STEPS] * len(PROMPTS)
        for name, adapter in (
            ("probe--v1-00000001", tiny_adapters[0]),
            ("probe--v2-00000002", tiny_adapters[1]),
        ):
            await api.load(name, copy_adapter(adapter, tmp_path / name))
        one = await take_fingerprint(api, "probe--v1-00000001")
        two = await take_fingerprint(api, "probe--v2-00000002")
        for seen in (one, two):
            check_takes_part(seen, base, await take_fingerprint(api, "base"))
        compare(one, await take_fingerprint(api, "probe--v1-00000001"), tolerance_nats=1e-3)
        with pytest.raises(ProbeFailed):
            compare(one, two, tolerance_nats=0.3)
        for name in ("probe--v1-00000001", "probe--v2-00000002"):
            await api.unload(name)


async def test_an_adapter_that_changes_nothing_looks_like_the_base(
    engine: RunningEngine, tiny_model: Path, tmp_path: Path
) -> None:
    name = "probe--v3-00000003"
    async with EngineApi(engine.url) as api:
        await api.load(name, build_null_adapter(tiny_model, tmp_path / name))
        compare(await take_fingerprint(api, "base"), await take_fingerprint(api, name), tolerance_nats=1e-4)
        await api.unload(name)


async def test_the_probe_sees_what_the_engine_accepts_but_serves_wrongly(
    engine: RunningEngine, tiny_model: Path, tmp_path: Path
) -> None:
    """Without the pre-flight check, vLLM loads these two with 200."""
    ignored, broken = "probe--v4-00000004", "probe--v5-00000005"
    async with EngineApi(engine.url) as api:
        await api.load(ignored, build_bad_adapter("wrong_prefix", tiny_model, tmp_path / ignored))
        await api.load(broken, build_bad_adapter("nan", tiny_model, tmp_path / broken))
        base = await take_fingerprint(api, "base")
        with pytest.raises(ProbeFailed, match="ignores it"):
            check_takes_part(await take_fingerprint(api, ignored), base, base)
        with pytest.raises(ProbeFailed):
            await take_fingerprint(api, broken)
        for name in (ignored, broken):
            await api.unload(name)
        compare(base, await take_fingerprint(api, "base"), tolerance_nats=1e-4)


async def test_the_engine_says_what_it_holds_and_since_when(
    engine: RunningEngine, tiny_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    adapter = copy_adapter(tiny_adapters[0], tmp_path / "probe--v6-00000006")
    async with EngineApi(engine.url) as api:
        await api.load(adapter.name, adapter)
        state = await api.look()
        assert (state.base_name, state.base_model) == ("base", str(engine.model))
        assert state.adapters[adapter.name] == str(adapter)
        assert state.started_at is not None
        await api.unload(adapter.name)
        assert adapter.name not in (await api.look()).adapters


async def test_what_the_engine_refuses_is_told_in_its_words(engine: RunningEngine, tmp_path: Path) -> None:
    async with EngineApi(engine.url) as api:
        with pytest.raises(EngineRefusal) as refusal:
            await api.unload("probe--v9-nothere")
        assert refusal.value.status == 404
        with pytest.raises(EngineRefusal):
            await api.load("probe--v9-nothere", tmp_path / "nothing")


async def test_an_engine_that_is_not_there_is_unavailable() -> None:
    async with EngineApi(f"http://127.0.0.1:{free_port()}") as api:
        with pytest.raises(EngineUnavailable, match="cannot be reached"):
            await api.look()
