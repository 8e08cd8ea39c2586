import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from retrain.publish import BadWeights, publish

pytestmark = pytest.mark.filterwarnings("ignore")

ADAPTER = "support--v1-1a2b3c4d"


def with_weights(good: Path, directory: Path, change: Any) -> Path:
    """A copy of an adapter with its tensors changed."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(good, directory)
    file = directory / "adapter_model.safetensors"
    save_file({name: change(name, tensor) for name, tensor in load_file(file).items()}, file)
    return directory


def test_a_published_adapter_is_whole_names_its_base_and_holds_nothing_else(
    tiny_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    published = publish(tiny_adapters[0], tmp_path, ADAPTER, base_model="acme/base", card="# A card\n")
    assert published.path == tmp_path / ADAPTER
    assert {path.name for path in published.path.iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
        "model_card.md",
    }
    configuration = json.loads((published.path / "adapter_config.json").read_text())
    assert configuration["base_model_name_or_path"] == "acme/base"
    assert configuration["target_modules"] == sorted(configuration["target_modules"])
    assert [path.name for path in tmp_path.iterdir()] == [ADAPTER]


def test_publishing_again_changes_nothing(tiny_adapters: tuple[Path, Path], tmp_path: Path) -> None:
    first = publish(tiny_adapters[0], tmp_path, ADAPTER, base_model="acme/base", card="one")
    again = publish(tiny_adapters[1], tmp_path, ADAPTER, base_model="other", card="two")
    assert again == first


def test_leftovers_of_a_killed_publication_do_not_get_into_the_next(
    tiny_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    leftover = tmp_path / f".staging-{ADAPTER}"
    leftover.mkdir()
    (leftover / "half").write_text("written")
    published = publish(tiny_adapters[0], tmp_path, ADAPTER, base_model="acme/base", card="")
    assert not (published.path / "half").exists()


def test_the_hash_covers_every_file(tiny_adapters: tuple[Path, Path], tmp_path: Path) -> None:
    def published(name: str, card: str) -> str:
        return publish(
            tiny_adapters[0], tmp_path / name, ADAPTER, base_model="acme/base", card=card
        ).files_hash

    assert published("a", "x") == published("b", "x") != published("c", "y")


def test_two_runs_with_equal_weights_have_one_weights_hash(
    tiny_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    """A card names its run, so the hash of all files tells runs apart; that of the weights compares them."""
    one, again, other = (
        publish(trained, tmp_path, f"support--v{n}-0a1b2c3d", base_model="acme/base", card=f"run {n}")
        for n, trained in enumerate((tiny_adapters[0], tiny_adapters[0], tiny_adapters[1]))
    )
    assert one.weights_hash == again.weights_hash != other.weights_hash
    assert one.files_hash != again.files_hash


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda name, tensor: tensor * float("nan"), "not finite"),
        (lambda name, tensor: tensor * (0 if "lora_B" in name else 1), "changes nothing"),
    ],
)
def test_weights_that_must_not_be_served_are_refused_and_leave_no_trace(
    change: Any, complaint: str, tiny_adapters: tuple[Path, Path], tmp_path: Path
) -> None:
    bad = with_weights(tiny_adapters[0], tmp_path / "bad", change)
    with pytest.raises(BadWeights, match=complaint):
        publish(bad, tmp_path / "adapters", ADAPTER, base_model="acme/base", card="")
    assert not list((tmp_path / "adapters").iterdir())


def test_a_file_cut_short_is_refused(tiny_adapters: tuple[Path, Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    shutil.copytree(tiny_adapters[0], bad)
    file = bad / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(BadWeights, match="cannot be read"):
        publish(bad, tmp_path / "adapters", ADAPTER, base_model="acme/base", card="")
