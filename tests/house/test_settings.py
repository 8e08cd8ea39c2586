import pytest
from pydantic import SecretStr

from docs.generate import settings_classes
from feedback.settings import HoneSettings

CLASSES = settings_classes()


def test_every_package_with_settings_is_read() -> None:
    assert {one.table for one in CLASSES} >= {"feedback", "serving", "retrain", "deploy"}


def test_a_setting_name_means_one_thing() -> None:
    names = [name for one in CLASSES for name in one.model_fields]
    assert sorted(names) == sorted(set(names))


@pytest.mark.parametrize("settings", CLASSES, ids=lambda one: one.table)
def test_every_setting_says_what_it_is_for(settings: type[HoneSettings]) -> None:
    assert [name for name, field in settings.model_fields.items() if not field.description] == []


@pytest.mark.parametrize("settings", CLASSES, ids=lambda one: one.table)
def test_every_setting_has_a_safe_default(settings: type[HoneSettings]) -> None:
    assert [name for name, field in settings.model_fields.items() if field.is_required()] == []


@pytest.mark.parametrize("settings", CLASSES, ids=lambda one: one.table)
def test_settings_are_frozen_and_refuse_unknown_keys(settings: type[HoneSettings]) -> None:
    assert settings.model_config["frozen"]
    assert settings.model_config["extra"] == "forbid"


@pytest.mark.parametrize("settings", CLASSES, ids=lambda one: one.table)
def test_secrets_do_not_print(settings: type[HoneSettings]) -> None:
    shown = [
        name
        for name, field in settings.model_fields.items()
        if any(word in name for word in ("password", "secret", "api_key", "database_url"))
        and "SecretStr" not in str(field.annotation)
    ]
    assert shown == []
    assert "hunter2" not in repr(SecretStr("hunter2"))


@pytest.mark.parametrize("settings", CLASSES, ids=lambda one: one.table)
def test_every_duration_and_size_has_its_unit_in_its_name(settings: type[HoneSettings]) -> None:
    vague = [
        name
        for name in settings.model_fields
        if any(word in name for word in ("timeout", "interval", "lifetime", "delay", "backoff"))
        and not any(unit in name for unit in ("seconds", "hours", "days", "minutes", "milliseconds"))
    ]
    assert vague == []
