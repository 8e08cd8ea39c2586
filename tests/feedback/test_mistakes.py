"""What is wrong with a value from outside is said in words that a person can act on."""

from typing import Any

import pytest

from feedback.errors import HoneError
from feedback.policy import read_policy
from feedback.settings import FeedbackSettings


@pytest.mark.parametrize(
    ("policy", "sentence"),
    [
        ({"trainin": {}}, "Policy field 'trainin' is {}: there is no such field; did you mean 'training'?"),
        ({"training": {"epoch": 3}}, "'training.epoch' is 3: there is no such field; there are augment, "),
        ({"gate": {"suites": ["safety"]}}, "'gate.suites.0' is 'safety': expected an object."),
        ({"gate": {"suites": [{"path": "x"}]}}, "'gate.suites.0.name' is left out: it is needed."),
        ({"rollout": {"steps": [5, "a"]}}, "'rollout.steps.1' is 'a': expected a valid number."),
        ({"approval": "never"}, "'approval' is 'never': expected 'operator'"),
        ({"rollout": {"units_min": -1}}, "'rollout.units_min' is -1: expected greater than"),
    ],
)
def test_a_policy_that_is_wrong_is_told_where_and_what_was_expected(
    policy: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(HoneError) as told:
        read_policy(policy)
    assert sentence in str(told.value)


def test_a_misspelt_setting_is_told_which_one_was_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(HoneError, match="did you mean 'database_url'"):
        FeedbackSettings.load(databse_url="postgresql:///hone")
