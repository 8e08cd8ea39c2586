"""The demonstration model: built whole or not at all, the same for a seed, and readable by its users."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from deploy.demo import model as demo_model
from deploy.demo.model import MARKER, Training, build_demo_model, encode, is_built, write_model
from deploy.demo.shop import conversations

FEW_STEPS = Training(steps=4, batch=4, warmup_steps=2, threads=2)


def quiet(done: float, what: str) -> None:
    """Hear the progress and say nothing."""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp("demo") / "model"
    write_model(directory, training=FEW_STEPS, seed=0, progress=quiet)
    yield directory


def test_two_builds_with_one_seed_are_the_same_bytes(built: Path, tmp_path: Path) -> None:
    write_model(tmp_path / "again", training=FEW_STEPS, seed=0, progress=quiet)
    write_model(tmp_path / "other", training=FEW_STEPS, seed=1, progress=quiet)
    for name in ("model.safetensors", "tokenizer.json", "config.json", "tokenizer_config.json"):
        assert (built / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
    assert (built / "model.safetensors").read_bytes() != (
        tmp_path / "other" / "model.safetensors"
    ).read_bytes()


def test_the_model_is_between_two_and_five_million_parameters(built: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(built)
    assert 2e6 < model.num_parameters() < 5e6
    assert model.config.hidden_size % 64 == 0
    assert model.config.max_position_embeddings >= 256
    assert model.generation_config.temperature == 1.0
    assert model.generation_config.eos_token_id == model.config.eos_token_id


def test_training_sees_exactly_what_the_chat_template_renders(built: Path) -> None:
    tokenizer = _tokenizer(built)
    for conversation in islice(conversations(3), 50):
        messages = [{"role": message.role, "content": message.content} for message in conversation]
        rendered = tokenizer.apply_chat_template(
            messages, return_dict=True, return_assistant_tokens_mask=True, truncation=True, max_length=512
        )
        ids, labels = encode(tokenizer, conversation)
        assert rendered["input_ids"] == ids
        assert rendered["assistant_masks"] == [int(label != -100) for label in labels]


def test_the_prompt_is_a_prefix_of_the_finished_conversation(built: Path) -> None:
    tokenizer = _tokenizer(built)
    asked = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Can I return the lamp?"},
    ]
    prompt = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    whole = tokenizer.apply_chat_template([*asked, {"role": "assistant", "content": "Yes."}], tokenize=False)
    assert whole == prompt + "Yes.<|end|>"


def test_text_survives_the_tokenizer(built: Path) -> None:
    tokenizer = _tokenizer(built)
    for text in ("Can I return the kettle?", "Grüße, 14 Tage ☂", "  two  spaces", "1234567890"):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_finished_model_is_not_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_model, "Training", lambda: FEW_STEPS)
    heard: list[tuple[float, str]] = []
    directory = tmp_path / "models" / "demo"
    build_demo_model(directory, progress=lambda done, what: heard.append((done, what)))
    shares = [done for done, _ in heard]
    assert shares == sorted(shares) and shares[-1] == 1.0
    first = (directory / MARKER).stat().st_mtime_ns
    build_demo_model(directory)
    assert (directory / MARKER).stat().st_mtime_ns == first
    assert is_built(directory) and not is_built(directory, seed=1)
    assert [path.name for path in directory.parent.iterdir()] == ["demo"]


def test_a_build_that_is_interrupted_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(done: float, what: str) -> None:
        if what.startswith("Training"):
            raise KeyboardInterrupt

    monkeypatch.setattr(demo_model, "Training", lambda: FEW_STEPS)
    with pytest.raises(KeyboardInterrupt):
        build_demo_model(tmp_path / "demo", progress=interrupt)
    assert list(tmp_path.iterdir()) == []


def test_an_older_version_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_model, "Training", lambda: FEW_STEPS)
    directory = tmp_path / "demo"
    directory.mkdir()
    (directory / MARKER).write_text(json.dumps({"version": 0, "seed": 0}))
    (directory / "stale.txt").write_text("left over")
    build_demo_model(directory)
    assert is_built(directory) and not (directory / "stale.txt").exists()


def _tokenizer(directory: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory)
