"""OpenAI's fine-tuning calls on a real service: a file goes in, and a model that answers by its name comes out."""

import asyncio
import json
from typing import Any

import pytest

from tests.loop.service import Service
from tests.loop.told_apart import Computed, agree, ask

pytestmark = [pytest.mark.engine, pytest.mark.slow, pytest.mark.timeout(900)]

ENDED = ("succeeded", "failed", "cancelled")


def row(number: int) -> dict[str, Any]:
    asked = {"role": "user", "content": f"{number:05b}{number}: may it come back?"}
    return {"messages": [asked, {"role": "assistant", "content": f"Yes, number {number} may."}]}


async def test_a_fine_tuned_model_answers_by_its_name(tiny_service: Service) -> None:
    lines = "\n".join(json.dumps(row(number)) for number in range(40)).encode()
    async with tiny_service.client() as client:
        file = await client.files.create(file=("shop.jsonl", lines), purpose="fine-tune")
        job = await client.fine_tuning.jobs.create(
            model="support",
            training_file=file.id,
            suffix="loop",
            hyperparameters={"n_epochs": 4, "learning_rate_multiplier": 20},
        )
        async with asyncio.timeout(800):
            while job.status not in ENDED:
                await asyncio.sleep(1)
                job = await client.fine_tuning.jobs.retrieve(job.id)
        events = [event.message async for event in client.fine_tuning.jobs.list_events(job.id, limit=100)]
        assert job.status == "succeeded", (job.error, events)
        assert job.fine_tuned_model is not None and job.fine_tuned_model.startswith("ft:")
        assert job.fine_tuned_model in events[0] and "gate" in events[0]
        tuned = await ask(client, job.fine_tuned_model)
        base = await ask(client, "support@0")
        metrics = (await client.files.content(job.result_files[0])).text.splitlines()
        (checkpoint,) = [one async for one in client.fine_tuning.jobs.checkpoints.list(job.id)]
    assert tuned.model.startswith("support@") and tuned.model != "support@0"
    # How far forty rows move it depends on their order; rounding moves nothing as far.
    assert not agree(Computed.of(tuned), Computed.of(base)), (
        f"tuned {Computed.of(tuned)}\nbase  {Computed.of(base)}"
    )
    assert len(metrics) == checkpoint.step_number + 1 and job.trained_tokens
    assert checkpoint.metrics.train_loss and checkpoint.metrics.valid_loss
