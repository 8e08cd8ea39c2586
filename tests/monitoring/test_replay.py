"""Replayed splits against simulations in which the truth is known."""

import asyncio
import random

import pytest
from sqlalchemy import text
from typer.testing import CliRunner, Result

from deploy.cli import app
from feedback import experiments
from feedback.completions import insert_many
from feedback.database import Database
from feedback.errors import HoneError
from monitoring.replay import Choice, give, replay
from tests.builders import a_completion, an_adapter


def logged(
    seed: int, *, units: int = 600, share: float = 0.2, rewards: dict[tuple[str, str], float]
) -> list[Choice]:
    """Units of two segments, three requests each; P(up) by arm and segment, everything else is no vote."""
    draw = random.Random(seed)
    choices = []
    for unit in range(units):
        segment = "pro" if draw.random() < 0.3 else "free"
        arm = "candidate" if draw.random() < share else "champion"
        propensity = share if arm == "candidate" else 1 - share
        for _ in range(3):
            up = draw.random() < rewards[arm, segment]
            choices.append(Choice(f"unit-{unit}", arm, propensity, float(up), segment))
    return choices


TRUTH = {
    ("champion", "free"): 0.5, ("champion", "pro"): 0.3, ("candidate", "free"): 0.4, ("candidate", "pro"): 0.8,
}  # fmt: skip


def test_estimates_of_a_rule_that_was_never_run_are_right_on_average_and_their_intervals_hold() -> None:
    """Candidate to `pro`, champion to the rest: 0.3 * 0.8 + 0.7 * 0.5."""
    rule, truth = give("candidate", to="pro", otherwise="champion"), 0.3 * 0.8 + 0.7 * 0.5
    replays = [replay(logged(seed, rewards=TRUTH), rule) for seed in range(200)]
    for name in ("inverse_propensity", "self_normalised", "doubly_robust"):
        found = [getattr(one, name) for one in replays]
        assert sum(one.mean for one in found) / len(found) == pytest.approx(truth, abs=0.01)
        covered = sum(one.low <= truth <= one.high for one in found) / len(found)
        assert covered >= 0.90, f"{name}: {covered:.2f} of the 95% intervals hold the truth"


def test_the_doubly_robust_interval_is_the_narrower_one() -> None:
    rule = give("candidate", to="pro", otherwise="champion")
    found = replay(logged(3, rewards=TRUTH), rule)
    width = found.doubly_robust.high - found.doubly_robust.low
    assert width < found.inverse_propensity.high - found.inverse_propensity.low


def test_replaying_the_rule_that_was_run_gives_what_was_seen() -> None:
    found = replay(logged(5, rewards=TRUTH), lambda segment: {"candidate": 0.2, "champion": 0.8})
    assert found.inverse_propensity == pytest.approx(found.logged)
    assert found.effective_units == pytest.approx(found.units)


def test_everybody_on_one_arm_is_that_arms_mean() -> None:
    choices = logged(7, rewards=TRUTH)
    found = replay(choices, give("candidate"))
    own = [one.reward for one in choices if one.arm == "candidate"]
    assert found.self_normalised.mean == pytest.approx(sum(own) / len(own))
    assert found.effective_units < 0.5 * found.units


def test_one_rare_assignment_cannot_decide() -> None:
    choices = [Choice("rare", "candidate", 0.0001, 1.0), *logged(1, rewards=TRUTH)]
    found = replay([Choice(c.unit, c.arm, c.propensity, c.reward) for c in choices], give("candidate"))
    assert found.weights_cut == 1
    assert found.inverse_propensity.mean <= 1.0


@pytest.mark.parametrize(
    ("choices", "rule", "complaint"),
    [
        ([], give("candidate"), "nothing to replay"),
        ([Choice("a", "champion", 1.0, 1.0)], give("candidate"), r"'candidate' was never given"),
        ([Choice("a", "champion", 1.0, 1.0)], lambda _: {"champion": 0.5}, "sum to 0.5"),
    ],
)
def test_what_cannot_be_known_is_refused_with_the_reason(
    choices: list[Choice], rule: object, complaint: str
) -> None:
    with pytest.raises(HoneError, match=complaint):
        replay(choices, rule)  # type: ignore[arg-type]


async def test_requests_whose_metadata_are_gone_are_left_out_of_where_and_counted(
    database: Database, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HONE_DATABASE_URL", database_url)
    async with database.begin() as connection:
        split = await experiments.start_canary(
            connection, await an_adapter(connection, state="approved"), by="ada"
        )
        arms = [{"arm": arm, "propensity": 0.5, "metadata": f'{{"plan": "{plan}"}}'} for arm, plan in TRUTH]
        rows = [
            a_completion(experiment_id=split.experiment_id, unit=f"unit-{number}", **arms[number % 4])
            for number in range(12)
        ]
        await insert_many(connection, rows)

    async def replayed(gone: int) -> Result:
        ids = [row.completion_id for row in rows[:gone]]
        async with database.begin() as connection:
            await connection.execute(
                text("DELETE FROM completion_texts WHERE completion_id = ANY(:ids)"), {"ids": ids}
            )
        asked = ["replay", split.experiment_id, "--where", "plan=pro"]
        return await asyncio.to_thread(CliRunner().invoke, app, asked)

    assert "Left out" not in (await replayed(0)).output
    some = (await replayed(4)).output
    assert "8 requests of 8 people" in some and "Left out: 4 requests whose metadata are" in some
    assert "the metadata of all 12 requests are over their time" in str((await replayed(12)).exception)
