"""What leaves is what was served, and what comes in still has to prove itself."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from feedback import adapters, datasets, lineage, runs
from feedback.adapters import Adapter
from feedback.database import Database
from feedback.errors import Conflict, HoneError
from retrain.bring_in import bring_in
from retrain.export import FORMS, export
from retrain.file_rows import FileRow, held_out_row
from retrain.publish import BadWeights
from tests.builders import PROJECT
from tests.retrain.record import MODEL, queued_run, teach
from tests.serving.publishing import copy_of, published

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture
async def version(
    database: Database, tiny_model: Path, tiny_adapters: tuple[Path, Path], tmp_path: Path
) -> Adapter:
    return await published(database, tiny_model, copy_of(tiny_adapters[0]), tmp_path / "published")


def logits(model: Any, tokenizer: Any) -> Any:
    import torch

    with torch.no_grad():
        return model(**tokenizer("How long may I return a lamp?", return_tensors="pt")).logits


def test_a_merged_export_says_what_the_base_with_the_adapter_says(
    version: Adapter, tiny_model: Path, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    served = PeftModel.from_pretrained(base, str(version.path))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    expected = logits(served, tokenizer)
    folders = {form: export(version, tmp_path / form, form, {"name": version.name}) for form in FORMS}

    again = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32), str(folders["peft"])
    )
    assert torch.equal(logits(again, tokenizer), expected)
    for weights, words in (
        (folders["merged"], folders["merged"]),
        (folders["mlflow"] / "model", folders["mlflow"] / "components" / "tokenizer"),
    ):
        merged = AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32)
        assert torch.allclose(logits(merged, AutoTokenizer.from_pretrained(words)), expected, atol=1e-4)
    flavor = yaml.safe_load((folders["mlflow"] / "MLmodel").read_text())["flavors"]["transformers"]
    assert (flavor["pipeline_model_type"], flavor["model_binary"]) == ("LlamaForCausalLM", "model")
    for folder in folders.values():
        assert json.loads((folder / "lineage.json").read_text()) == {"name": "support@1"}
        assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]


def test_an_export_writes_over_nothing_and_takes_no_changed_files(version: Adapter, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(Conflict, match="already there"):
        export(version, tmp_path / "there", "peft", {})
    assert version.path is not None
    (Path(version.path) / "README.md").write_text("other")
    with pytest.raises(HoneError, match="somebody changed them"):
        export(version, tmp_path / "new", "peft", {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["published", "there"]


async def test_an_imported_adapter_waits_for_the_gate(
    database: Database, tiny_model: Path, tiny_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    async with database.begin() as connection:
        await teach(connection, tiny_model)
        made = await bring_in(
            connection, PROJECT, MODEL, tiny_adapters[0], adapters_dir=tmp_path / "adapters", by="ada"
        )
    assert (made.name, made.state) == ("support@1", "trained")
    assert made.path is not None and (Path(made.path) / "model_card.md").exists()
    async with database.begin() as connection:
        (run,) = await runs.unfinished(connection)
        assert (run.phase, run.adapter_id) == ("evaluating", made.adapter_id)
        with pytest.raises(Conflict, match=run.run_id):
            await bring_in(
                connection, PROJECT, MODEL, tiny_adapters[0], adapters_dir=tmp_path / "adapters", by="ada"
            )


async def test_an_imported_adapter_is_not_evaluated_with_the_rows_of_a_fine_tuning_job(
    database: Database, tiny_model: Path, tiny_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    async with database.begin() as connection:
        await teach(connection, tiny_model)
        row = FileRow([{"role": "user", "content": "Hello?"}], "Hello.")
        of_a_job = await datasets.freeze(
            connection,
            project=PROJECT,
            model=MODEL,
            method="sft",
            rows=[held_out_row(row)],
            selection={"job_id": "ftjob-1"},
            counts={"train": 0, "held_out": 1},
        )
        made = await bring_in(
            connection, PROJECT, MODEL, tiny_adapters[0], adapters_dir=tmp_path / "adapters", by="ada"
        )
        assert made.run_id is not None
        run = await runs.by_id(connection, made.run_id)
        used = await datasets.get(connection, run.dataset_id)
    assert used.dataset_id != of_a_job.dataset_id and used.counts["raters"] == 10


async def test_an_adapter_that_cannot_be_served_is_not_imported(database: Database, tmp_path: Path) -> None:
    (tmp_path / "adapter_model.safetensors").touch()
    (tmp_path / "adapter_config.json").write_text(
        '{"peft_type": "LORA", "r": 8, "lora_alpha": 8, "use_dora": true}'
    )
    async with database.begin() as connection:
        await teach(connection, "tiny")
        for directory, says in ((tmp_path / "none", "has no adapter_model"), (tmp_path, "use_dora = True")):
            with pytest.raises(BadWeights, match=says):
                await bring_in(connection, PROJECT, MODEL, directory, adapters_dir=tmp_path, by="ada")
        assert [one.version for one in await adapters.of_model(connection, PROJECT, MODEL)] == [0]


async def test_lineage_names_run_dataset_people_parents_and_children(database: Database) -> None:
    async with database.begin() as connection:
        run = await queued_run(connection, "tiny")
        parent = await _registered(connection, run, 1, "/adapters/one")
        await runs.finish(connection, run.run_id, status="succeeded")
        recipe = run.recipe | {"start_from": "/adapters/one"}
        second = await runs.create(
            connection,
            project=PROJECT,
            model=MODEL,
            method=run.method,
            recipe=recipe,
            recipe_hash="r",
            dataset_id=run.dataset_id,
            by="ada",
        )
        child = await _registered(connection, second, 2, "/adapters/two")
        of_child = await lineage.of_adapter(connection, child, rows=True)
        of_parent = await lineage.of_adapter(connection, parent)
    assert (of_child["parents"], of_parent["children"]) == (["support@1"], ["support@2"])
    assert of_child["dataset"]["dataset_id"] == run.dataset_id
    assert of_child["dataset"]["rows"]["train"] + of_child["dataset"]["rows"]["held_out"] <= len(
        of_child["rows"]
    )
    assert of_child["dataset"]["people_trained_on"] == 8
    assert all(row["completion_ids"] and "columns" not in row for row in of_child["rows"])


async def _registered(connection: Any, run: runs.Run, version: int, path: str) -> Adapter:
    assert run.adapter_id is not None
    return await adapters.register(
        connection,
        adapter_id=run.adapter_id,
        project=PROJECT,
        model=MODEL,
        version=version,
        base_model="tiny",
        path=path,
        files_hash="0" * 64,
        run_id=run.run_id,
        by="test",
    )
