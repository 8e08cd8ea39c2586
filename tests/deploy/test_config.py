"""`hone config`: what holds and why, and no name that means nothing."""

import json
from pathlib import Path

import pytest

from deploy.config import MASK, key_lines, refuse_unknown_names, resolve
from deploy.settings import CLASSES, Settings
from feedback.errors import HoneError
from tests.deploy.test_cli import hone


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HONE_CONFIG", str(tmp_path / "hone.toml"))
    return tmp_path / "hone.toml"


def sources() -> dict[str, str]:
    return {one.name: one.source for one in resolve()}


def test_each_value_says_where_it_came_from(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(
        "# ours\n[serving]\ngateway_port = 9000\ngateway_host = '127.0.0.2'\n\n[retrain]\ntraining_threads = 2\n"
    )
    monkeypatch.setenv("HONE_GATEWAY_HOST", "127.0.0.3")
    assert sources()["gateway_port"] == f"{file}:3"
    assert sources()["training_threads"] == f"{file}:7"
    assert sources()["gateway_host"] == "HONE_GATEWAY_HOST"
    assert sources()["state_dir"] == "default"
    assert {one.name: one.value for one in resolve()}["gateway_host"] == "127.0.0.3"


def test_an_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HONE_GATEWAY_PORT", "")
    assert sources()["gateway_port"] == "default"


def test_secrets_are_masked_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HONE_DATABASE_URL", "postgresql://hone:geheim@db/hone")
    for arguments in (("config",), ("config", "--json")):
        shown = hone(*arguments).stdout
        assert "geheim" not in shown
        assert MASK in shown


def test_an_unknown_variable_is_refused_with_the_nearest_known_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HONE_GATEWAY_PROT", "9000")
    done = hone("config")
    assert done.returncode == 2
    assert "HONE_GATEWAY_PROT is no setting" in done.stderr
    assert "Did you mean 'HONE_GATEWAY_PORT' (table [serving])?" in done.stderr


def test_an_unknown_key_is_refused_with_its_line_and_the_nearest_known_one(file: Path) -> None:
    file.write_text("[serving]\ngateway_port = 9000\ngatway_host = 'x'\n")
    with pytest.raises(
        HoneError, match=r"hone\.toml, line 3: \[serving\] has no setting 'gatway_host'.*gateway_host"
    ):
        refuse_unknown_names()


def test_a_key_in_the_wrong_table_is_told_where_it_belongs(file: Path) -> None:
    file.write_text("[retrain]\ngateway_port = 9000\n")
    with pytest.raises(HoneError, match=r"\[retrain\] has no setting 'gateway_port'.*table \[serving\]"):
        refuse_unknown_names()


@pytest.mark.parametrize("command", ["up", "gateway", "engine", "worker"])
def test_what_serves_refuses_the_same_names(command: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HONE_ENGINE_URL", "http://127.0.0.1:1")
    done = hone(command)
    assert done.returncode == 2
    assert "Did you mean 'HONE_ENGINE_URLS'" in done.stderr


def test_a_list_that_is_not_json_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HONE_ENGINE_URLS", "http://127.0.0.1:1")
    done = hone("config")
    assert done.returncode == 2
    assert "engine_urls" in done.stderr
    assert "Traceback" not in done.stderr


def test_json_has_every_setting_with_its_meaning() -> None:
    shown = json.loads(hone("config", "--json").stdout)
    assert {one["name"] for one in shown} == {name for package in CLASSES for name in package.model_fields}
    assert all(one["help"] for one in shown)


def test_lines_are_found_in_any_toml(file: Path) -> None:
    file.write_text('[serving]\nengine_urls = [\n  "http://a",\n]\n"engine_port" = 1\n[ retrain ]\n')
    assert key_lines(file) == {("serving", "engine_urls"): 2, ("serving", "engine_port"): 5}


def test_field_names_are_unique_so_that_a_variable_means_one_thing() -> None:
    names = [name for package in CLASSES for name in package.model_fields]
    assert len(names) == len(set(names))


def test_an_override_reaches_the_package_that_has_the_field() -> None:
    settings = Settings.load(gateway_port=1234, state_dir=Path("/elsewhere"))
    assert (settings.serving.gateway_port, settings.feedback.state_dir) == (1234, Path("/elsewhere"))
