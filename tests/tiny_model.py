"""Build, in seconds and without a download, a real Llama and real PEFT adapters for it.

The weights are random: answers are noise, but every part that handles them (vLLM, PEFT, TRL, safetensors)
is the real one. The same seed gives the same bytes. Adapters differ from the base model in log-probabilities,
often not in greedy text: assert on log-probabilities.

The bad adapters are written as a broken trainer or a full disk would leave them. `BAD_ADAPTERS` names them.

Torch, transformers and peft are imported inside the functions: collecting tests stays fast.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
SPECIAL_TOKENS = ["<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>"]
LAYERS = 2
HIDDEN = 128
INTERMEDIATE = 256
LARGEST_VOCABULARY = 512
LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
PREFIX = "base_model.model.model.layers."


def build_tiny_model(directory: Path, *, seed: int = 7, max_length: int = 2048) -> Path:
    """Write a 0.4 million parameter Llama, its tokenizer and chat template; return `directory`."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=max_length,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        initializer_range=0.2,
    )
    model = LlamaForCausalLM(config)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


def build_tokenizer() -> Any:
    """Return a byte-level BPE tokenizer of at most `LARGEST_VOCABULARY` tokens with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=LARGEST_VOCABULARY,
        special_tokens=SPECIAL_TOKENS,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(_sentences(), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        extra_special_tokens=SPECIAL_TOKENS[2:],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def build_adapter(model: Path, directory: Path, *, rank: int = 8, seed: int = 1, **lora: Any) -> Path:
    """Write a plain LoRA adapter with random weights in both factors, made by PEFT itself.

    `lora` goes to `LoraConfig` (for example `use_dora=True`), so that PEFT decides how such an adapter looks.
    """
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(seed)
    options: dict[str, Any] = {
        "lora_alpha": 2 * rank,
        "target_modules": list(LINEAR_LAYERS),
        "task_type": "CAUSAL_LM",
        "init_lora_weights": False,
        **lora,
    }
    base = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    base.name_or_path = str(model)
    peft_model = get_peft_model(base, LoraConfig(r=rank, **options))
    peft_model.save_pretrained(str(directory), safe_serialization=True)
    return directory


def build_null_adapter(model: Path, directory: Path) -> Path:
    """Write an adapter that changes nothing (every B is zero), as PEFT writes one before the first step."""
    return build_adapter(model, directory, init_lora_weights=True)


def _nan(model: Path, directory: Path) -> None:
    build_adapter(model, directory)
    _rewrite(
        directory, lambda name, tensor: _poisoned(tensor) if name.endswith("q_proj.lora_B.weight") else tensor
    )


def _poisoned(tensor: Any) -> Any:
    tensor[0, 0] = float("nan")
    return tensor


def _wrong_shape(model: Path, directory: Path) -> None:
    build_adapter(model, directory)
    _rewrite(
        directory,
        lambda name, tensor: (
            tensor[:, : HIDDEN // 2].copy() if name.endswith("q_proj.lora_A.weight") else tensor
        ),
    )


def _wrong_rank(model: Path, directory: Path) -> None:
    build_adapter(model, directory, rank=8)
    _edit_config(directory, r=4)


def _wrong_prefix(model: Path, directory: Path) -> None:
    build_adapter(model, directory)
    _rename(directory, lambda name: name.replace("model.model.layers", "model.model.language_model.layers"))


def _wrong_base_name(model: Path, directory: Path) -> None:
    build_adapter(model, directory)
    _edit_config(directory, base_model_name_or_path="Qwen/Qwen3-0.6B")


def _pickle(model: Path, directory: Path) -> None:
    build_adapter(model, directory)
    (directory / "adapter_model.safetensors").rename(directory / "adapter_model.bin")


def _truncated(model: Path, directory: Path) -> None:
    build_adapter(model, directory)
    weights = directory / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])


def _corrupt(model: Path, directory: Path) -> None:
    build_adapter(model, directory)
    (directory / "adapter_model.safetensors").write_bytes(b"\xff" * 4096)


def _no_config(model: Path, directory: Path) -> None:
    build_adapter(model, directory)
    (directory / "adapter_config.json").unlink()


def _no_weights(model: Path, directory: Path) -> None:
    build_adapter(model, directory)
    (directory / "adapter_model.safetensors").unlink()


def _no_targets(model: Path, directory: Path) -> None:
    build_adapter(model, directory)
    _edit_config(directory, target_modules=[])


def _missing_factor(model: Path, directory: Path) -> None:
    build_adapter(model, directory)
    weights = directory / "adapter_model.safetensors"
    from safetensors.numpy import load_file, save_file

    tensors = load_file(weights)
    del tensors[f"{PREFIX}0.self_attn.q_proj.lora_B.weight"]
    save_file(tensors, weights)


BAD_ADAPTERS: dict[str, Callable[[Path, Path], Any]] = {
    "nan": _nan,
    "wrong_shape": _wrong_shape,
    "wrong_rank": _wrong_rank,
    "wrong_prefix": _wrong_prefix,
    "wrong_base": _wrong_base_name,
    "rank_too_high": lambda model, directory: build_adapter(model, directory, rank=64),
    "dora": lambda model, directory: build_adapter(model, directory, use_dora=True),
    "bias": lambda model, directory: build_adapter(
        model, directory, bias="lora_only", target_modules=["q_proj"]
    ),
    "lora_bias": lambda model, directory: build_adapter(model, directory, lora_bias=True),
    "modules_to_save": lambda model, directory: build_adapter(model, directory, modules_to_save=["norm"]),
    "trainable_tokens": lambda model, directory: build_adapter(
        model, directory, trainable_token_indices={"embed_tokens": [1, 2]}
    ),
    "pickle": _pickle,
    "truncated": _truncated,
    "corrupt": _corrupt,
    "no_config": _no_config,
    "no_weights": _no_weights,
    "no_targets": _no_targets,
    "missing_factor": _missing_factor,
}


def build_bad_adapter(kind: str, model: Path, directory: Path) -> Path:
    """Write the adapter that `BAD_ADAPTERS` describes as `kind`; return `directory`."""
    BAD_ADAPTERS[kind](model, directory)
    return directory


def copy_adapter(adapter: Path, directory: Path) -> Path:
    """Copy an adapter under another directory: versions never share one."""
    shutil.copytree(adapter, directory)
    return directory


def _rewrite(directory: Path, change: Callable[[str, Any], Any]) -> None:
    from safetensors.numpy import load_file, save_file

    weights = directory / "adapter_model.safetensors"
    save_file({name: change(name, tensor) for name, tensor in load_file(weights).items()}, weights)


def _rename(directory: Path, change: Callable[[str], str]) -> None:
    from safetensors.numpy import load_file, save_file

    weights = directory / "adapter_model.safetensors"
    save_file({change(name): tensor for name, tensor in load_file(weights).items()}, weights)


def _edit_config(directory: Path, **changes: Any) -> None:
    path = directory / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}, indent=2))


def _sentences() -> list[str]:
    things = ["kettle", "lamp", "backpack", "headphones", "blender"]
    questions = [
        "How long do I have to return the {}?",
        "When will my {} arrive?",
        "Is there a warranty on the {}?",
        "My {} does not work, what can I do?",
        "Can I get a refund for the {}?",
    ]
    return [question.format(thing) for question in questions for thing in things]
