"""What an experiment's units met and said, as the verdict will read it."""

from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import text

from feedback import experiments, exposures, submissions
from feedback.completions import document, insert_documents, insert_many
from feedback.database import Database
from feedback.experiments import Experiment
from feedback.exposures import UnitCounts
from feedback.privacy_policy import PrivacyPolicy
from feedback.redact import redact_row
from tests.builders import PROJECT, a_completion, a_rated_completion, an_adapter


async def an_experiment(connection: Any) -> Experiment:
    return await experiments.start_canary(
        connection, await an_adapter(connection, state="approved"), by="ada"
    )


def in_arm(experiment: Experiment, arm: str = "candidate", propensity: float = 0.01) -> dict[str, Any]:
    return {"experiment_id": experiment.experiment_id, "arm": arm, "propensity": propensity}


async def counts(
    database: Database, experiment: Experiment, maturation_seconds: float = 0.0
) -> list[UnitCounts]:
    async with database.begin() as connection:
        return await exposures.unit_counts(connection, experiment, maturation_seconds=maturation_seconds)


async def test_units_count_whether_or_not_they_rated(database: Database) -> None:
    async with database.begin() as connection:
        experiment = await an_experiment(connection)
        await a_rated_completion(connection, value=True, rater="rater-a", **in_arm(experiment))
        await insert_many(connection, [a_completion(unit="rater-b", **in_arm(experiment))])
        await insert_many(connection, [a_completion(unit="rater-c")])
    found = {one.unit: (one.requests, one.ups, one.downs) for one in await counts(database, experiment)}
    assert found == {"rater-a": (1, 1, 0), "rater-b": (1, 0, 0)}


async def test_a_completion_is_bad_when_it_failed_or_was_voted_down(database: Database) -> None:
    async with database.begin() as connection:
        experiment = await an_experiment(connection)
        await a_rated_completion(connection, value=False, rater="rater-a", **in_arm(experiment))
        await insert_many(connection, [a_completion(status="error", **in_arm(experiment))])
        await insert_many(connection, [a_completion(status="aborted", **in_arm(experiment))])
    [one] = await counts(database, experiment)
    assert (one.exposed, one.bad, one.errors, one.downs) == (3, 2, 1, 1)
    assert one.error_at is not None and one.bad_at is not None


async def test_a_retracted_vote_is_not_counted_and_neither_is_another_metric(database: Database) -> None:
    async with database.begin() as connection:
        experiment = await an_experiment(connection)
        rated = await a_rated_completion(connection, value=False, **in_arm(experiment))
        [vote] = await submissions.of_completion(connection, PROJECT, rated.completion_id)
        await submissions.retract(connection, PROJECT, vote["feedback_id"])
        stars = submissions.submission(
            project=PROJECT,
            completion_id=rated.completion_id,
            rater="rater-a",
            kind="rating",
            value=1,
            name="stars",
        )
        await submissions.store(connection, stars)
    [one] = await counts(database, experiment)
    assert (one.ups, one.downs, one.bad) == (0, 0, 0)


async def test_completions_inside_the_maturation_window_are_met_but_not_scored(database: Database) -> None:
    async with database.begin() as connection:
        experiment = await an_experiment(connection)
        old = datetime.now(UTC) - timedelta(hours=2)
        await a_rated_completion(connection, value=True, created_at=old, **in_arm(experiment))
        await a_rated_completion(connection, value=True, **in_arm(experiment))
    [one] = await counts(database, experiment, maturation_seconds=3600)
    assert (one.exposed, one.requests, one.ups) == (2, 1, 1)


async def test_a_unit_has_a_row_for_every_propensity_it_was_assigned_with(database: Database) -> None:
    async with database.begin() as connection:
        experiment = await an_experiment(connection)
        for propensity in (0.01, 0.05):
            await insert_many(connection, [a_completion(**in_arm(experiment, propensity=propensity))])
    assert sorted(one.propensity for one in await counts(database, experiment)) == [0.01, 0.05]


async def test_each_exposure_has_its_reward_and_the_segment_that_metadata_names(database: Database) -> None:
    async with database.begin() as connection:
        experiment = await an_experiment(connection)
        await a_rated_completion(connection, value=False, metadata='{"plan": "pro"}', **in_arm(experiment))
        await insert_many(connection, [a_completion(unit="rater-b", **in_arm(experiment, "champion", 0.99))])
        found = await exposures.each(connection, experiment, segment_key="plan")
        plain = await exposures.each(connection, experiment)
    seen = {(one["unit"], one["arm"], one["propensity"], one["reward"], one["segment"]) for one in found}
    assert seen == {("rater-a", "candidate", 0.01, -1.0, "pro"), ("rater-b", "champion", 0.99, 0.0, None)}
    assert {one["segment"] for one in plain} == {None}


async def test_a_segment_is_known_from_the_redacted_copy_too_and_unknown_once_no_text_is_kept(
    database: Database,
) -> None:
    async with database.begin() as connection:
        experiment = await an_experiment(connection)
        rows = [
            a_completion(unit=unit, metadata='{"plan": "pro"}', **in_arm(experiment))
            for unit in ("redacted", "gone")
        ]
        everything = PrivacyPolicy(redaction="everything")
        await insert_documents(connection, [redact_row(document(row), everything) for row in rows])
        await insert_many(connection, [a_completion(unit="without", **in_arm(experiment))])
        await connection.execute(
            text(
                "DELETE FROM completion_redacted USING completions "
                "WHERE unit = 'gone' AND completions.completion_id = completion_redacted.completion_id"
            )
        )
        found = await exposures.each(connection, experiment, segment_key="plan")
        plain = await exposures.each(connection, experiment)
    seen = {one["unit"]: (one["segment"], one["known"]) for one in found}
    assert seen == {"redacted": ("pro", True), "gone": (None, False), "without": (None, True)}
    assert all(one["known"] for one in plain)
