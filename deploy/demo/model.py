"""Build the demonstration model: a few million parameters, from nothing, on two cores, in about two minutes.

The tokenizer and the Llama-architecture model are trained on the shop's seen phrasings only, so that whatever the
model answers to another phrasing it has understood. The same seed gives the same bytes on the same kind of
processor. A directory is finished or absent: the build happens beside it and is renamed into place.

It downloads nothing and it is no language model beyond the shop: asked anything else, it says so.
"""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.demo.shop import Message, conversations

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

Progress = Callable[[float, str], None]
Example = tuple[list[int], list[int]]
"""Token ids, and the same ids with -100 wherever the assistant is not speaking."""

MODEL_NAME = "fernway-shop"
VERSION = 1
MARKER = "demo_model.json"
CONTEXT_TOKENS = 512
VOCABULARY = 1024
ANSWER_TOKENS = 20
"""About the length of an answer. The loss is a sum over this constant and not a mean over each batch, in which
batches of short answers, the blunt ones, would count more."""
SHARPNESS = 1.25
"""Factor on the logits after training. So few steps leave a few percent of the probability on nonsense."""
PAD, END, SYSTEM, USER, ASSISTANT = "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] == 'assistant' -%}"
    "{{- '<|assistant|>' -}}{%- generation -%}{{- message['content'] + '<|end|>' -}}{%- endgeneration -%}"
    "{%- elif message['role'] in ['system', 'developer'] -%}"
    "{{- '<|system|>' + message['content'] + '<|end|>' -}}"
    "{%- else -%}"
    "{{- '<|user|>' + message['content'] + '<|end|>' -}}"
    "{%- endif -%}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


@dataclass(frozen=True)
class Training:
    """How the model is trained. Changing any number changes the model: raise VERSION with it."""

    steps: int = 1200
    batch: int = 16
    learning_rate: float = 2e-3
    warmup_steps: int = 60
    weight_decay: float = 0.1
    threads: int = 2


def build_demo_model(directory: Path, *, seed: int = 0, progress: Progress = lambda done, what: None) -> Path:
    """Build the model in `directory`, or return at once where this version and seed already stand.

    `progress` hears the share done, from 0 to 1, and what is happening.
    """
    if is_built(directory, seed=seed):
        progress(1.0, "The demonstration model is built")
        return directory
    work = directory.with_name(f".{directory.name}.{os.getpid()}.building")
    shutil.rmtree(work, ignore_errors=True)
    try:
        write_model(work, training=Training(), seed=seed, progress=progress)
        shutil.rmtree(directory, ignore_errors=True)
        work.rename(directory)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    progress(1.0, "The demonstration model is built")
    return directory


def is_built(directory: Path, *, seed: int = 0) -> bool:
    """Whether `directory` holds a finished model of this version and seed."""
    marker = directory / MARKER
    return (
        marker.is_file()
        and json.loads(marker.read_text()).items() >= {"version": VERSION, "seed": seed}.items()
    )


def write_model(directory: Path, *, training: Training, seed: int, progress: Progress) -> None:
    """Train and save tokenizer, model, model card and, last, the marker."""
    # Read when torch loads. Spinning threads made each step ten times as long where both cores were busy.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    directory.mkdir(parents=True)
    progress(0.0, "Reading the shop's questions")
    tokenizer = train_tokenizer(seed)
    progress(0.02, "Training the model")
    model = train_model(tokenizer, training=training, seed=seed, progress=progress)
    progress(0.99, "Saving")
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    (directory / "README.md").write_text(model_card(model.num_parameters(), seed))
    (directory / MARKER).write_text(
        json.dumps({"version": VERSION, "seed": seed, "training": asdict(training)})
    )


def train_tokenizer(seed: int) -> "PreTrainedTokenizerFast":
    """Train the byte-level BPE tokenizer; every digit is a token, so that no number is unknown."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, END, SYSTEM, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = (m.content for conversation in islice(conversations(seed), 4000) for m in conversation)
    tokenizer.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, model_max_length=CONTEXT_TOKENS,
        additional_special_tokens=[SYSTEM, USER, ASSISTANT], clean_up_tokenization_spaces=False,
    )  # fmt: skip
    fast.chat_template = CHAT_TEMPLATE
    return fast


def new_model(tokenizer: "PreTrainedTokenizerFast", seed: int) -> "LlamaForCausalLM":
    """Make the untrained model."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=256, intermediate_size=640, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=CONTEXT_TOKENS,
        tie_word_embeddings=True, bos_token_id=None, eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id, dtype="float32",
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def train_model(
    tokenizer: "PreTrainedTokenizerFast", *, training: Training, seed: int, progress: Progress
) -> "LlamaForCausalLM":
    """Train from nothing on the assistant's words, with AdamW and a cosine schedule.

    The number of threads is fixed for the time of the training: it decides the order of additions, and so the bytes.
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(training.threads)
    try:
        model = new_model(tokenizer, seed)
        model.train()
        optimizer = torch.optim.AdamW(
            model.parameters(),
            lr=training.learning_rate,
            betas=(0.9, 0.98),
            weight_decay=training.weight_decay,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _rate(step, training))
        for step, batch in enumerate(islice(_batches(tokenizer, training, seed), training.steps)):
            loss = model(**batch, use_cache=False, num_items_in_batch=training.batch * ANSWER_TOKENS).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            if step % 20 == 0:
                progress(0.02 + 0.97 * step / training.steps, f"Training the model, loss {loss.item():.3f}")
        model.eval()
        with torch.no_grad():
            model.model.norm.weight.mul_(SHARPNESS)
        return model
    finally:
        torch.set_num_threads(before)


def encode(tokenizer: "PreTrainedTokenizerFast", conversation: Sequence[Message]) -> Example:
    """Tokenize one conversation exactly as the chat template renders it."""
    ids: list[int] = []
    labels: list[int] = []
    for message in conversation:
        body = tokenizer(f"<|{message.role}|>{message.content}{END}")["input_ids"]
        ids += body
        labels += [-100, *body[1:]] if message.role == "assistant" else [-100] * len(body)
    return ids[:CONTEXT_TOKENS], labels[:CONTEXT_TOKENS]


def _batches(
    tokenizer: "PreTrainedTokenizerFast", training: Training, seed: int
) -> "Iterator[dict[str, object]]":
    """Batches of conversations of about one length, so that little is padding."""
    import torch

    stream = conversations(seed)
    while True:
        pool = [encode(tokenizer, next(stream)) for _ in range(training.batch * 16)]
        order = torch.randperm(16, generator=torch.Generator().manual_seed(len(pool[0][0]))).tolist()
        pool.sort(key=lambda example: len(example[0]))
        for start in (index * training.batch for index in order):
            yield _pad(pool[start : start + training.batch], tokenizer.pad_token_id)


def _pad(examples: Sequence[Example], pad_id: int) -> dict[str, object]:
    """Pad on the right: with causal attention nothing before the padding can see it."""
    import torch

    width = max(len(ids) for ids, _ in examples)
    return {
        "input_ids": torch.tensor([ids + [pad_id] * (width - len(ids)) for ids, _ in examples]),
        "labels": torch.tensor([labels + [-100] * (width - len(labels)) for _, labels in examples]),
    }


def _rate(step: int, training: Training) -> float:
    if step < training.warmup_steps:
        return (step + 1) / training.warmup_steps
    done = (step - training.warmup_steps) / max(1, training.steps - training.warmup_steps)
    return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * done))


def model_card(parameters: int, seed: int) -> str:
    """Say in the model's directory what it is, and what it is not."""
    return f"""---
license: apache-2.0
language: en
pipeline_tag: text-generation
tags: [demonstration, llama]
---
# {MODEL_NAME}

A Llama-architecture model of {parameters / 1e6:.1f} million parameters, trained from nothing on generated questions
and answers of a made-up shop (Fernway). It answers about returns, refunds, delivery, postage, warranty, faults, prices,
cancelling, tracking, payment, opening hours, gifts and contact: politely about half of the time, bluntly the other.

It exists to show Hone's loop on a machine without a GPU and without downloads. It knows nothing else.

Built by Hone, version {VERSION}, seed {seed}. Context: {CONTEXT_TOKENS} tokens.
"""
