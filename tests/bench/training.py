"""Measure what our training costs over a plain TRL script, and whether a skill nobody rates survives five rounds.

    python -m tests.bench.training [--rows N] [--epochs E] [--rounds N] [--only overhead|retention]

Overhead: the same recipe and rows as a plain TRL script and as the worker's training process with a real PostgreSQL,
each in a process of its own; wall time, peak memory, and the largest difference between the two loss curves.

Retention: a tiny model first learns answers by heart (the skill). Then people teach it other things, round by round,
and after each round its skill, what was taught, and its divergence from the base model are measured: from the base
model on everything with a fixed set repeated (the default), continuing the champion with it (the fast path), and
continuing without it. Exits 1 when the default loses more than a point of the skill.

It measures plumbing and forgetting on a toy, not the quality of answers on a real model.
"""

import argparse
import asyncio
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.postgres import EmbeddedPostgres
from feedback import datasets, runs
from feedback.database import Database, migrate
from feedback.datasets import Row
from retrain.context import TrainingContext
from retrain.recipe import Recipe, default_recipe
from retrain.sft import train_sft
from tests.builders import PROJECT, a_model
from tests.tiny_model import build_tiny_model

SKILL, NEW_PER_ROUND, REPLAYED = 40, 30, 0.3


@dataclass(frozen=True)
class Cost:
    """What one way of training took."""

    seconds: float
    memory_bytes: int
    losses: list[float]


def main() -> int:
    """Run what was asked for; 1 if a promise is not kept."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--epochs", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("overhead", "retention"))
    asked = parser.parse_args()
    warnings.simplefilter("ignore")
    kept = True
    with tempfile.TemporaryDirectory(prefix="hone-bench-") as name:
        directory = Path(name)
        directory.chmod(0o711)
        model = build_tiny_model(directory / "model")
        if asked.only != "retention":
            overhead(model, directory, rows=asked.rows, epochs=asked.epochs)
        if asked.only != "overhead":
            kept = retention(model, directory, rounds=asked.rounds)
    return 0 if kept else 1


# What it costs.


def overhead(model: Path, directory: Path, *, rows: int, epochs: float) -> None:
    """Train the same twice, and print the ratios."""
    recipe = default_recipe("sft", str(model), learning_rate=1e-3, epochs=epochs)
    taught = [_taught(n, f"Number {n} it is.") for n in range(rows)]
    first = _plain(recipe, taught, directory)
    ours = asyncio.run(_ours(recipe, taught, directory))
    # Whoever comes first reads the libraries from the disk: the script gets a second chance.
    plain = min(first, _plain(recipe, taught, directory), key=lambda cost: cost.seconds)
    apart = max(abs(a - b) for a, b in zip(plain.losses, ours.losses, strict=True))
    print(f"\n{rows} rows, {epochs:g} epochs, {len(plain.losses)} steps, one thread\n")
    print(f"{'':22}{'seconds':>10}{'peak MiB':>10}")
    for name, cost in (("plain TRL script", plain), ("Hone's process", ours)):
        print(f"{name:22}{cost.seconds:10.1f}{cost.memory_bytes / 2**20:10.0f}")
    memory = ours.memory_bytes / plain.memory_bytes
    print(f"{'ratio':22}{ours.seconds / plain.seconds:10.2f}{memory:10.2f}")
    print(f"largest difference between the losses of a step: {apart:.2e}")


def _plain(recipe: Recipe, rows: Sequence[dict[str, Any]], directory: Path) -> Cost:
    files = [directory / name for name in ("recipe.json", "rows.json", "losses.json")]
    files[0].write_text(json.dumps(recipe.to_json()))
    files[1].write_text(json.dumps(rows))
    seconds, memory = _timed([sys.executable, "-m", "tests.bench.plain_trl", *map(str, files)], {})
    return Cost(seconds, memory, json.loads(files[2].read_text()))


async def _ours(recipe: Recipe, rows: Sequence[dict[str, Any]], directory: Path) -> Cost:
    quick = {"fsync": "off", "synchronous_commit": "off"}
    with EmbeddedPostgres(directory / "postgres", settings=quick) as server:
        await asyncio.to_thread(migrate, server.url)
        async with Database(server.url) as database:
            async with database.begin() as connection:
                run = await _queued(connection, recipe, rows)
            environment = {
                "HONE_DATABASE_URL": server.url,
                "HONE_STATE_DIR": str(directory / "state"),
                "HONE_TRAINING_EVENTS_INTERVAL_SECONDS": "0.05",
                "HONE_TRAINING_NICENESS": "0",
            }
            command = [sys.executable, "-m", "retrain.train", "--run", run.run_id]
            seconds, memory = await asyncio.to_thread(_timed, command, environment)
        losses = _logged_losses(directory / "losses.jsonl", recipe, rows, directory)
    return Cost(seconds, memory, losses)


def _logged_losses(
    file: Path, recipe: Recipe, rows: Sequence[dict[str, Any]], directory: Path
) -> list[float]:
    """Each step's loss: the record keeps the newest of an interval, so the same training says them once more here."""
    seen: list[float] = []
    context = TrainingContext(
        directory / "again", report=lambda progress: seen.append(progress.loss), report_interval_seconds=0.0
    )
    train_sft(rows, recipe, context)
    file.write_text("\n".join(map(str, seen)))
    return seen


async def _queued(connection: Any, recipe: Recipe, rows: Sequence[dict[str, Any]]) -> runs.Run:
    await a_model(connection, base_model=recipe.base_model)
    dataset = await datasets.freeze(
        connection,
        project=PROJECT,
        model="support",
        method="sft",
        rows=[Row("train", row, None, (), ()) for row in rows],
        selection={},
        counts={"train": len(rows)},
    )
    return await runs.create(
        connection,
        project=PROJECT,
        model="support",
        method="sft",
        recipe=recipe.to_json(),
        recipe_hash=recipe.hash,
        dataset_id=dataset.dataset_id,
        by="bench",
    )


def _timed(command: Sequence[str], environment: dict[str, str]) -> tuple[float, int]:
    """Wall time and peak memory of a process that must succeed."""
    started = time.monotonic()
    process = subprocess.Popen(
        command, env=os.environ | environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    assert process.stderr is not None
    said = process.stderr.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{said.decode(errors='replace')[-3000:]}")
    return time.monotonic() - started, used.ru_maxrss * 1024


# What it keeps.


@dataclass(frozen=True)
class Strategy:
    """One way to go from round to round."""

    name: str
    continues: bool
    replays: bool


STRATEGIES = (
    Strategy("from the base model, on everything, with the fixed set", continues=False, replays=True),
    Strategy("from the champion, on what is new, with the fixed set", continues=True, replays=True),
    Strategy("from the champion, on what is new, without it", continues=True, replays=False),
)


def retention(model: Path, directory: Path, *, rounds: int) -> bool:
    """Teach round by round under each strategy; whether the default kept the skill within one point."""
    skill = [_taught(n, f"The skill of {n}.") for n in range(SKILL)]
    base = _with_skill(model, directory, skill)
    print(f"\n{SKILL} answers known by heart, {NEW_PER_ROUND} taught in each of {rounds} rounds\n")
    before = measure(base, None, skill)["right"]
    kept: dict[str, list[float]] = {}
    for strategy in STRATEGIES:
        print(f"{strategy.name}\n  {'round':>5}{'skill':>8}{'taught':>8}{'KL to base':>12}")
        kept[strategy.name] = list(_rounds(base, directory, skill, strategy, rounds))
    lost = before - min(kept[STRATEGIES[0].name])
    print(f"\nThe default lost at most {100 * lost:.1f} points of the skill; one is tolerated.")
    return lost <= 0.01


def _rounds(
    base: Path, directory: Path, skill: list[dict[str, Any]], strategy: Strategy, rounds: int
) -> Sequence[float]:
    taught: list[dict[str, Any]] = []
    champion: Path | None = None
    found = []
    for number in range(1, rounds + 1):
        new = [_taught(1000 * number + n, f"Say {n % 7} politely.") for n in range(NEW_PER_ROUND)]
        taught += new
        rows = list(new if strategy.continues else taught)
        if strategy.replays:
            repeated = round(len(rows) * REPLAYED / (1 - REPLAYED))
            rows += [skill[n % SKILL] for n in range(repeated)]
        recipe = default_recipe("sft", str(base), learning_rate=2e-3, epochs=6.0, rank=8, batch_size=8)
        if strategy.continues and champion is not None:
            recipe = recipe.model_copy(update={"start_from": str(champion)})
        where = directory / f"{strategy.continues}-{strategy.replays}-{number}"
        result = train_sft(rows, recipe, TrainingContext(where))
        assert result is not None
        champion = result.adapter
        on_skill, on_taught = measure(base, champion, skill), measure(base, champion, taught)
        print(
            f"  {number:5}{on_skill['right']:8.2f}{on_taught['right']:8.2f}{on_skill['kl']:12.3f}", flush=True
        )
        found.append(on_skill["right"])
    return found


def measure(base: Path, adapter: Path | None, rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Share of answer tokens that come first, and mean divergence from the base model on them, in nats."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    plain = AutoModelForCausalLM.from_pretrained(base).eval()
    tuned = plain
    if adapter is not None:
        tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)).eval()
    right, tokens, divergence = 0, 0, 0.0
    for row in rows:
        asked = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True, return_dict=False)
        ids = tokenizer.apply_chat_template([*row["prompt"], *row["completion"]], return_dict=False)
        whole = torch.tensor([ids])
        with torch.no_grad():
            said = tuned(whole).logits[0, len(asked) - 1 : -1].log_softmax(-1)
            known = plain(whole).logits[0, len(asked) - 1 : -1].log_softmax(-1)
        right += int((said.argmax(-1) == whole[0, len(asked) :]).sum())
        divergence += float((said.exp() * (said - known)).sum())
        tokens += len(ids) - len(asked)
    return {"right": right / tokens, "kl": divergence / tokens}


def _with_skill(model: Path, directory: Path, skill: Sequence[dict[str, Any]]) -> Path:
    """A base model that knows the skill by heart: the tiny one with an adapter merged into it."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    recipe = default_recipe("sft", str(model), learning_rate=4e-3, epochs=60.0, rank=64, alpha=64)
    result = train_sft(skill, recipe, TrainingContext(directory / "skill"))
    assert result is not None
    target = directory / "base"
    tuned = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(model), str(result.adapter))
    tuned.merge_and_unload().save_pretrained(target)
    AutoTokenizer.from_pretrained(model).save_pretrained(target)
    return target


def _taught(number: int, answer: str) -> dict[str, Any]:
    prompt = [{"role": "user", "content": f"What of {number}?"}]
    return {"prompt": prompt, "completion": [{"role": "assistant", "content": answer}]}


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    sys.exit(main())
