"""Every adapter that vLLM would refuse, crash on or serve wrongly is refused first, with a reason."""

import json
import re
import shutil
from pathlib import Path

import httpx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from serving.base_files import same_base_model
from serving.preflight import CONFIGURATION, WEIGHTS, Report, check_adapter, expected_rank, largest_value
from tests.engine_fixture import MAX_LORA_RANK, RunningEngine
from tests.tiny_model import BAD_ADAPTERS, build_adapter, build_bad_adapter, build_null_adapter, copy_adapter

# The first test of a session waits for the engine to start, which a busy machine draws out.
pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

REASONS = {
    "nan": r"NaN.*layers\.0\.self_attn\.q_proj\.lora_B",
    "wrong_shape": r"q_proj\.lora_A is made for 64 instead of 128",
    "wrong_rank": r"8 instead of 4.*scaled wrongly",
    "wrong_prefix": r"does not have: model\.language_model\.layers.*as the base model",
    "wrong_base": r"trained on base model 'Qwen/Qwen3-0\.6B', but the engine serves",
    "rank_too_high": r"Its rank is 64, but the engine was started for at most 16\..*engine_max_lora_rank",
    "dora": r"use_dora = true: the engine cannot serve DoRA",
    "bias": r"bias = 'lora_only'",
    "lora_bias": r"lora_bias = true",
    "modules_to_save": r"modules_to_save = \[\"norm\"\]",
    "trainable_tokens": r"trainable_token_indices",
    "pickle": r"does not exist\. There is adapter_model\.bin, which can run code.*safe_serialization=True",
    "truncated": r"not a whole safetensors file",
    "corrupt": r"not a whole safetensors file",
    "no_config": r"adapter_config\.json cannot be read \(No such file or directory\)",
    "no_weights": r"adapter_model\.safetensors does not exist",
    "no_targets": r"names no target_modules",
    "missing_factor": r"layers\.0\.self_attn\.q_proj\.lora_A without the other factor",
}


def check(directory: Path, model: Path) -> Report:
    return check_adapter(directory, base_model=str(model), max_lora_rank=MAX_LORA_RANK)


def edit(directory: Path, **changes: object) -> None:
    path = directory / CONFIGURATION
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def adapter(tiny_adapters: tuple[Path, Path], tmp_path: Path) -> Path:
    return copy_adapter(tiny_adapters[0], tmp_path / "adapter")


def test_a_good_adapter_passes(adapter: Path, tiny_model: Path) -> None:
    assert check(adapter, tiny_model) == Report(adapter, (), (), changes_output=True)


@pytest.mark.parametrize("kind", BAD_ADAPTERS)
@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_a_bad_adapter_is_refused_with_a_reason_before_the_engine_sees_it(
    kind: str, tiny_model: Path, engine: RunningEngine, tmp_path: Path
) -> None:
    before = httpx.get(f"{engine.url}/v1/models").json()["data"]
    report = check(build_bad_adapter(kind, tiny_model, tmp_path / kind), tiny_model)
    assert not report.passed
    assert any(re.search(REASONS[kind], problem) for problem in report.problems), report.problems
    after = httpx.get(f"{engine.url}/v1/models").json()["data"]
    assert [model["id"] for model in after] == [model["id"] for model in before]


def test_an_adapter_that_changes_nothing_passes_and_is_known_as_such(
    tiny_model: Path, tmp_path: Path
) -> None:
    report = check(build_null_adapter(tiny_model, tmp_path / "null"), tiny_model)
    assert report.passed
    assert not report.changes_output


def test_what_the_engine_serves_right_passes(tiny_model: Path, tmp_path: Path) -> None:
    kinds: dict[str, dict[str, object]] = {
        "rank_1": {"rank": 1},
        "odd_rank": {"rank": 5},
        "one_layer": {"target_modules": ["q_proj"], "layers_to_transform": [1]},
        "regex": {"target_modules": r".*\.(q|v)_proj"},
        "rs_lora": {"use_rslora": True},
        "ranks_by_layer": {
            "rank_pattern": {"q_proj": 4, r"layers\.1\.mlp\.up_proj": 2},
            "alpha_pattern": {"q_proj": 3},
        },
    }
    reports = {
        name: check(build_adapter(tiny_model, tmp_path / name, **options), tiny_model)  # type: ignore[arg-type]
        for name, options in kinds.items()
    }
    assert {name: report.problems for name, report in reports.items()} == dict.fromkeys(kinds, ())


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_adapters_of_the_embeddings_and_the_tied_head_fit_their_shapes(
    tiny_model: Path, tmp_path: Path
) -> None:
    targets = ["q_proj", "embed_tokens"]
    embedding = build_adapter(tiny_model, tmp_path / "embedding", target_modules=targets)
    assert check(embedding, tiny_model).problems == ()


def test_every_problem_is_reported_at_once(adapter: Path, tiny_model: Path) -> None:
    edit(adapter, use_dora=True, base_model_name_or_path="Qwen/Qwen3-0.6B", r=3)
    assert len(check(adapter, tiny_model).problems) == 3


def test_a_configuration_of_strange_types_is_refused_and_not_a_crash(adapter: Path, tiny_model: Path) -> None:
    edit(adapter, rank_pattern=["q_proj"], r="8", lora_alpha=None, peft_type=7)
    assert len(check(adapter, tiny_model).problems) == 3
    (adapter / CONFIGURATION).write_text("[]")
    assert "expected an object" in check(adapter, tiny_model).problems[0]


def test_an_unknown_base_model_is_said_to_be_unchecked(adapter: Path) -> None:
    edit(adapter, base_model_name_or_path="nobody/knows")
    report = check_adapter(adapter, base_model="nobody/knows", max_lora_rank=16)
    assert report.passed
    assert "no safetensors files of 'nobody/knows'" in report.unchecked[0]


def test_values_that_float16_cannot_hold_are_refused_for_a_float16_model(
    adapter: Path, tiny_model: Path, tmp_path: Path
) -> None:
    tensors = load_file(adapter / WEIGHTS)
    next(iter(tensors.values()))[0, 0] = 1e6
    save_file(tensors, adapter / WEIGHTS)
    half = tmp_path / "half"
    shutil.copytree(tiny_model, half)
    config = json.loads((half / "config.json").read_text())
    (half / "config.json").write_text(json.dumps({**config, "dtype": "float16"}))
    edit(adapter, base_model_name_or_path=str(half))
    assert "float16, where they are infinite" in check(adapter, half).problems[0]
    edit(adapter, base_model_name_or_path=str(tiny_model))
    assert check(adapter, tiny_model).passed


def test_a_base_model_is_known_by_its_files_wherever_they_lie(tiny_model: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tiny_model, copy)
    link = tmp_path / "link"
    link.symlink_to(tiny_model)
    assert same_base_model(str(tiny_model), str(copy))
    assert same_base_model(str(tiny_model), str(link))
    weights = bytearray((copy / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (copy / "model.safetensors").write_bytes(weights)
    assert not same_base_model(str(tiny_model), str(copy))


def test_a_hub_name_and_its_cached_files_are_one_model(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached = tmp_path / "models--acme--tiny" / "snapshots" / "abc"
    cached.parent.mkdir(parents=True)
    cached.symlink_to(tiny_model)
    (tmp_path / "models--acme--tiny" / "refs").mkdir()
    (tmp_path / "models--acme--tiny" / "refs" / "main").write_text("abc")
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    assert same_base_model("acme/tiny", str(cached))
    assert not same_base_model("acme/other", str(cached))


@given(values=st.lists(st.floats(width=32), min_size=1, max_size=8))
def test_the_largest_value_is_found_in_every_number_format(values: list[float]) -> None:
    numbers = np.array(values, dtype="<f4")
    finite = bool(np.isfinite(numbers).all())
    expected = float(np.abs(numbers).max()) if finite else float("inf")
    assert largest_value(numbers.tobytes(), "F32") == expected
    truncated = (numbers.view("<u4") >> 16).astype("<u2")
    as_bfloat16 = largest_value(truncated.tobytes(), "BF16")
    assert as_bfloat16 <= expected
    assert finite or as_bfloat16 == float("inf")


def test_numbers_that_are_no_floats_are_no_weights() -> None:
    assert largest_value(b"\1\2\3\4", "I8") == float("inf")


def test_the_rank_of_a_layer_comes_from_the_pattern_that_names_its_end() -> None:
    config = {"r": 8, "rank_pattern": {"q_proj": 4}}
    assert expected_rank("model.layers.0.self_attn.q_proj", config) == 4
    assert expected_rank("model.layers.0.self_attn.not_q_proj", config) == 8
