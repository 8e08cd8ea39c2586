"""Zeros in the shape of a candidate stand for the base model beside it, and can never be shipped."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from feedback import adapters, experiments, models, null_adapters, shipping
from feedback.adapters import CONTROL, MOVES, Adapter
from feedback.completions import insert_many
from feedback.database import Database
from feedback.errors import HoneError, IllegalMove
from monitoring.verdict import Verdict
from retrain import null_adapter, rollout
from serving.preflight import check_adapter
from serving.routing_table import load_table
from tests.builders import PROJECT, a_completion, an_adapter

NAME = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"


def files(directory: Path, rank: int = 4) -> Path:
    """A small LoRA adapter as PEFT saves it."""
    directory.mkdir()
    rng = np.random.default_rng(rank)
    weights = {
        NAME.format("A"): rng.normal(size=(rank, 16)).astype(np.float16),
        NAME.format("B"): rng.normal(size=(16, rank)).astype(np.float16),
    }
    save_file(weights, directory / "adapter_model.safetensors", metadata={"format": "pt"})
    configuration = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": 8,
        "target_modules": ["q_proj"],
        "base_model_name_or_path": "tiny",
    }
    (directory / "adapter_config.json").write_text(json.dumps(configuration))
    return directory


async def null_beside(database: Database, version: Adapter) -> Adapter:
    async with database.begin() as connection:
        found = await null_adapters.of(connection, version.adapter_id)
        assert found is not None
        return await adapters.by_id(connection, found)


async def a_candidate(database: Database, tmp_path: Path, state: str = "approved", rank: int = 4) -> Adapter:
    directory = tmp_path / f"{state}-{rank}"
    async with database.begin() as connection:
        return await an_adapter(connection, state=state, path=str(files(directory, rank)))


async def test_a_null_adapter_has_the_candidates_shape_and_changes_nothing(
    database: Database, tmp_path: Path
) -> None:
    candidate = await a_candidate(database, tmp_path)
    [said] = await null_adapter.tick(database, tmp_path / "adapters")
    null = await null_beside(database, candidate)
    own, zeros = (load_file(f"{one.path}/adapter_model.safetensors") for one in (candidate, null))
    assert {name: (one.shape, one.dtype) for name, one in own.items()} == {
        name: (one.shape, one.dtype) for name, one in zeros.items()
    }
    assert not any(one.any() for one in zeros.values())
    report = check_adapter(Path(null.path or ""), base_model="tiny", max_lora_rank=16)
    assert (report.problems, report.changes_output) == ((), False)
    assert said.startswith("support@0-null1 stands for the base beside support@1")


async def test_candidates_of_one_shape_share_a_null_adapter_and_others_do_not(
    database: Database, tmp_path: Path
) -> None:
    one = await a_candidate(database, tmp_path, "approved")
    same = await a_candidate(database, tmp_path, "candidate")
    other = await a_candidate(database, tmp_path, "candidate", rank=8)
    assert len(await null_adapter.tick(database, tmp_path / "adapters")) == 3
    assert await null_adapter.tick(database, tmp_path / "adapters") == []
    nulls = [(await null_beside(database, version)).name for version in (one, same, other)]
    assert nulls == ["support@0-null1", "support@0-null1", "support@0-null2"]


async def test_a_null_adapter_is_wanted_on_engines_but_is_no_version_and_no_move_ships_it(
    database: Database, tmp_path: Path
) -> None:
    candidate = await a_candidate(database, tmp_path)
    await null_adapter.tick(database, tmp_path / "adapters")
    null = await null_beside(database, candidate)
    async with database.begin() as connection:
        wanted = await adapters.wanted_on_engines(connection)
        assert null in wanted and null.state == CONTROL
        assert null not in await adapters.of_model(connection, PROJECT, "support")
        for reference in (null.name, "support@-1"):
            with pytest.raises(HoneError, match="does not name an adapter version"):
                await shipping.promote(connection, PROJECT, reference, by="ada")
        for verb in MOVES:
            with pytest.raises(IllegalMove):
                await adapters.move(connection, null, verb, by="ada")
        with pytest.raises(IllegalMove):
            await adapters.promote(connection, null, by="ada", reason="")
        await shipping.promote(connection, PROJECT, candidate.name, by="ada")
        assert null not in await adapters.wanted_on_engines(connection)


@pytest.mark.parametrize("first", ["null adapter", "canary"])
async def test_whichever_comes_first_the_null_adapter_is_the_control_of_the_canary(
    database: Database, tmp_path: Path, first: str
) -> None:
    candidate = await a_candidate(database, tmp_path)
    if first == "null adapter":
        await null_adapter.tick(database, tmp_path / "adapters")
    async with database.begin() as connection:
        split = await experiments.start_canary(connection, candidate, by="ada")
    await null_adapter.tick(database, tmp_path / "adapters")
    null = await null_beside(database, candidate)
    async with database.begin() as connection:
        split = await experiments.get(connection, PROJECT, split.experiment_id)
    assert split.arm("champion").adapter_id == null.adapter_id
    route = (await load_table(database, [])).models[PROJECT, "support"]
    assert route.experiment is not None
    answering = route.experiment.arms[0].version
    assert (answering.name, answering.served_name) == ("support@0", null.adapter_id)
    assert sorted(route.versions) == [0, 1]


async def test_a_candidate_that_meets_another_adapter_needs_no_null_adapter(
    database: Database, tmp_path: Path
) -> None:
    async with database.begin() as connection:
        await an_adapter(connection, state="champion")
    await a_candidate(database, tmp_path)
    assert await null_adapter.tick(database, tmp_path / "adapters") == []


def break_weights(version: Adapter) -> None:
    Path(version.path or "", "adapter_model.safetensors").write_bytes(b"no safetensors")


async def test_files_that_are_elsewhere_or_broken_leave_the_base_as_it_is(
    database: Database, tmp_path: Path
) -> None:
    async with database.begin() as connection:
        await an_adapter(connection, state="candidate", path="s3://bucket/support--v1-1a2b3c4d")
    break_weights(await a_candidate(database, tmp_path))
    assert await null_adapter.tick(database, tmp_path / "adapters") == []
    assert not list((tmp_path / "adapters").glob("*"))


async def judged(database: Database, split: experiments.Experiment, seconds: tuple[float, float]) -> Verdict:
    """The verdict on sixty raters of each arm; the pair is (champion, candidate)."""
    async with database.begin() as connection:
        for arm, first in zip(("champion", "candidate"), seconds, strict=True):
            where: dict[str, Any] = {"experiment_id": split.experiment_id, "arm": arm, "propensity": 0.5}
            rows = [
                a_completion(unit=f"{arm}-{n}", time_to_first_token_seconds=first * (1 + n % 5 / 10), **where)
                for n in range(60)
            ]
            await insert_many(connection, rows)
        found = await experiments.get(connection, PROJECT, split.experiment_id)
        policy = (await models.get(connection, PROJECT, "support")).policy
        return await rollout.judge(connection, found, policy)


@pytest.mark.parametrize(("with_null", "state"), [(True, "worse"), (False, "insufficient_data")])
async def test_times_are_compared_with_a_null_adapter_and_never_with_a_bare_base_model(
    database: Database, tmp_path: Path, with_null: bool, state: str
) -> None:
    candidate = await a_candidate(database, tmp_path)
    if with_null:
        await null_adapter.tick(database, tmp_path / "adapters")
    async with database.begin() as connection:
        split = await experiments.start_canary(connection, candidate, by="ada")
    verdict = await judged(database, split, (0.1, 0.8))
    fired = [one.name for one in verdict.guardrails if one.fired]
    assert (verdict.state, fired) == (state, ["time_to_first_token"] if with_null else [])
