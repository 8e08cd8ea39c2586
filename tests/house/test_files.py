import json
import tomllib
from pathlib import Path

import pytest
import yaml

from docs.generate import settings_classes
from tests.house import tree

SHIPPED = tree.files(
    ".yaml", ".yml", ".toml", ".json", under=("deploy", "examples", "docs", ".pre-commit-config.yaml")
)


@pytest.mark.parametrize("path", SHIPPED, ids=tree.name)
def test_every_shipped_file_loads(path: Path) -> None:
    text = path.read_text()
    if path.suffix in (".yaml", ".yml"):
        assert all(document is not None for document in yaml.safe_load_all(text))
    elif path.suffix == ".json":
        json.loads(text)
    else:
        tomllib.loads(text)


@pytest.mark.parametrize("path", [p for p in SHIPPED if p.name.endswith("hone.toml")], ids=tree.name)
def test_every_shipped_hone_toml_is_accepted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HONE_CONFIG", str(path))
    for settings in settings_classes():
        settings.load()


@pytest.mark.parametrize("path", tree.files(".py", under=("examples",)), ids=tree.name)
def test_every_example_compiles(path: Path) -> None:
    compile(path.read_text(), str(path), "exec")
