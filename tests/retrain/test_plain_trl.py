from pathlib import Path

import pytest

from retrain.context import Progress, TrainingContext
from retrain.sft import train_sft
from tests.bench import plain_trl
from tests.retrain.test_training import recipe_for, rows_for

pytestmark = pytest.mark.filterwarnings("ignore")


def test_a_plain_trl_script_with_the_same_recipe_has_the_same_losses(
    tiny_model: Path, tmp_path: Path
) -> None:
    recipe, rows = recipe_for("sft", tiny_model), [dict(row) for row in rows_for("sft")]
    seen: list[Progress] = []
    ours = TrainingContext(tmp_path / "ours", report=seen.append, report_interval_seconds=0.0)
    assert train_sft(rows, recipe, ours) is not None
    plain = plain_trl.train(recipe.to_json(), rows, tmp_path / "plain")
    assert [progress.loss for progress in seen] == plain
