"""Sums that are kept up to date equal those that are made anew, whatever arrived, changed or went, in any order."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

from feedback import erasures, experiments, exposure_sums, exposures, submissions
from feedback.completions import Completion, insert_many
from feedback.database import Database
from feedback.experiments import CHAMPION_ARM, Experiment
from feedback.metrics import FeedbackPolicy, Metric
from feedback.submissions import Submission
from monitoring.outcomes import UnitOutcome
from monitoring.tally import outcomes_of, tally
from monitoring.totals import Totals
from tests.builders import PROJECT, a_completion, a_rated_completion, an_adapter

WEIGHTS = {"champion": 0.9, "candidate": 0.1}
THUMBS = FeedbackPolicy()
STARS = FeedbackPolicy(
    metrics={"stars": Metric(type="number", minimum=1, maximum=5)}, votes=("thumbs", "stars")
)
TABLES = "exposure_changes, exposure_sums, experiment_totals, feedback, retractions, token_raters"


async def an_experiment(connection: Any) -> Experiment:
    return await experiments.start_canary(
        connection, await an_adapter(connection, state="approved"), by="ada"
    )


async def kept(
    database: Database, experiment: Experiment, votes: FeedbackPolicy = THUMBS, seconds: float = 0.0
) -> tuple[Totals, Totals]:
    """The totals as they are kept, and as they would be made anew at the same moment."""
    async with database.begin() as connection:
        await exposure_sums.look_up_votes(connection)
    async with database.begin() as connection:
        now = await tally(
            connection, experiment, WEIGHTS, control=CHAMPION_ARM, votes=votes, maturation_seconds=seconds
        )
        counts = await exposures.unit_counts(connection, experiment, votes=votes, maturation_seconds=seconds)
    return now, Totals.of(outcomes_of(counts), WEIGHTS, control=CHAMPION_ARM)


def in_arm(experiment: Experiment) -> dict[str, Any]:
    return {"experiment_id": experiment.experiment_id, "arm": "candidate", "propensity": 0.1}


class Record(RuleBasedStateMachine):
    """People who ask and vote, a gateway whose rows come late, erasures, changes of the rules, and looks in between."""

    def __init__(self, url: str) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.database = Database(url, pool_size=2)
        self.asked: list[Completion] = []
        self.waiting: list[Completion] = []
        self.said: list[Submission] = []
        self.votes, self.seconds, self.clock = THUMBS, 0.0, 0

    def run(self, work: Any) -> Any:
        return self.runner.run(work)

    async def execute(self, work: Any) -> Any:
        async with self.database.begin() as connection:
            return await work(connection)

    @initialize()
    def start(self) -> None:
        async def clean(connection: Any) -> Experiment:
            await connection.execute(text(f"TRUNCATE {TABLES}"))
            await connection.execute(text("DELETE FROM completions"))
            running = await experiments.of_model(connection, PROJECT, "support")
            return running or await an_experiment(connection)

        self.experiment = self.run(self.execute(clean))

    @rule(
        unit=st.integers(0, 2),
        arm=st.sampled_from([("champion", 0.99), ("champion", 0.9), ("candidate", 0.01), ("candidate", 0.1)]),
        status=st.sampled_from(["ok", "ok", "error", "aborted"]),
        tokens=st.integers(1, 9),
        hours=st.sampled_from([0.0, 0.2, 30.0]),
        late=st.booleans(),
    )
    def ask(
        self, unit: int, arm: tuple[str, float], status: str, tokens: int, hours: float, late: bool
    ) -> None:
        rater = f"rater-{unit:024x}"
        made = a_completion(
            unit=rater, rater=rater, status=status, output_tokens=tokens, arm=arm[0], propensity=arm[1],
            experiment_id=self.experiment.experiment_id, time_to_first_token_seconds=tokens / 7,
            created_at=datetime.now(UTC) - timedelta(hours=hours),
        )  # fmt: skip
        self.asked.append(made)
        if late:
            self.waiting.append(made)
        else:
            self.run(self.execute(lambda connection: insert_many(connection, [made])))

    @precondition(lambda self: self.waiting)
    @rule()
    def the_late_rows_arrive_twice(self) -> None:
        for _ in range(2):
            self.run(self.execute(lambda connection: insert_many(connection, self.waiting)))
        self.waiting = []

    @precondition(lambda self: self.asked)
    @rule(
        which=st.integers(0, 99),
        rater=st.integers(0, 3),
        vote=st.sampled_from([("thumbs", True), ("thumbs", False), ("stars", 5), ("stars", 1)]),
        regenerated=st.booleans(),
    )
    def vote(self, which: int, rater: int, vote: tuple[str, Any], regenerated: bool) -> None:
        about = self.asked[which % len(self.asked)].completion_id
        kind, name, value = ("signal", "regenerate", True) if regenerated else ("rating", *vote)
        given = submissions.submission(
            project=PROJECT,
            completion_id=about,
            rater=f"rater-{rater:024x}",
            kind=kind,
            name=name,
            value=value,
        )
        self.said.append(given)
        self.run(self.execute(lambda connection: submissions.store(connection, given)))

    @precondition(lambda self: self.said)
    @rule(which=st.integers(0, 99))
    def take_back(self, which: int) -> None:
        one = self.said[which % len(self.said)]

        async def retract(connection: Any) -> None:
            await submissions.apply_all(
                connection, [submissions.Retraction(PROJECT, one.feedback_id, None, None, datetime.now(UTC))]
            )

        self.run(self.execute(retract))

    @precondition(lambda self: self.asked)
    @rule(which=st.integers(0, 99))
    def a_completion_is_deleted(self, which: int) -> None:
        gone = self.asked[which % len(self.asked)].completion_id

        async def delete(connection: Any) -> None:
            await connection.execute(text("DELETE FROM feedback WHERE completion_id = :id"), {"id": gone})
            await connection.execute(text("DELETE FROM completions WHERE completion_id = :id"), {"id": gone})

        self.run(self.execute(delete))

    @rule(votes=st.sampled_from([THUMBS, STARS]), seconds=st.sampled_from([0.0, 3600.0]))
    def the_policy_changes(self, votes: FeedbackPolicy, seconds: float) -> None:
        self.votes, self.seconds = votes, seconds

    @precondition(lambda self: self.asked)
    @rule(which=st.integers(0, 99))
    def an_hour_passes_for_one(self, which: int) -> None:
        """Move the moment of ripening, as if the clock had gone on: the row's own time and its sums alike."""
        one = self.asked[which % len(self.asked)]
        made = {"id": one.completion_id, "unit": one.unit}

        async def age(connection: Any) -> None:
            await connection.execute(
                text(
                    "UPDATE completions SET created_at = created_at - interval '1h' WHERE completion_id = :id"
                ),
                made,
            )

        self.run(self.execute(age))

    @rule()
    def look(self) -> None:
        now, anew = self.run(kept(self.database, self.experiment, self.votes, self.seconds))
        assert now == anew

    def teardown(self) -> None:
        self.look()
        self.run(self.database.close())
        self.runner.close()


def test_sums_that_are_kept_equal_those_made_anew_in_any_order_of_events(database_url: str) -> None:
    run_state_machine_as_test(
        lambda: Record(database_url),  # type: ignore[arg-type]  # it takes a factory, too
        settings=settings(
            max_examples=12, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


async def test_a_look_after_which_nothing_happened_reads_no_unit(database: Database) -> None:
    async with database.begin() as connection:
        experiment = await an_experiment(connection)
        await a_rated_completion(connection, value=True, **in_arm(experiment))
    await kept(database, experiment)
    async with database.begin() as connection:
        change = await exposure_sums.take_changes(connection, experiment, maturation_seconds=0.0)
    assert change.totals and (change.before, change.after) == ([], [])


async def test_a_look_reads_only_the_units_that_changed(database: Database) -> None:
    async with database.begin() as connection:
        experiment = await an_experiment(connection)
        for number in range(5):
            await a_rated_completion(connection, value=True, rater=f"rater-{number}", **in_arm(experiment))
    await kept(database, experiment)
    async with database.begin() as connection:
        await a_rated_completion(connection, value=False, rater="rater-3", **in_arm(experiment))
        change = await exposure_sums.take_changes(connection, experiment, maturation_seconds=0.0)
    assert [(one.unit, one.exposed) for one in change.before] == [("rater-3", 1)]
    assert [(one.unit, one.exposed) for one in change.after] == [("rater-3", 2)]


async def test_a_vote_that_commits_after_a_look_at_its_completion_is_counted_by_the_next(
    database: Database,
) -> None:
    async with database.begin() as connection:
        experiment = await an_experiment(connection)
    made = a_completion(**in_arm(experiment))
    given = submissions.submission(
        project=PROJECT, completion_id=made.completion_id, rater="rater-a", kind="rating", value=False
    )
    async with database.begin() as voting:
        await submissions.store(voting, given)
        async with database.begin() as recording:
            await insert_many(recording, [made])
        before, _ = await kept(database, experiment)
    after, anew = await kept(database, experiment)
    assert (before.arm("candidate").counts["downs"], after.arm("candidate").counts["downs"]) == (0, 1)
    assert after == anew


async def test_requests_are_scored_when_they_are_old_enough_without_anything_else_happening(
    database: Database,
) -> None:
    async with database.begin() as connection:
        experiment = await an_experiment(connection)
        almost = datetime.now(UTC) - timedelta(seconds=3598)
        await a_rated_completion(connection, value=True, created_at=almost, **in_arm(experiment))
    young, _ = await kept(database, experiment, seconds=3600.0)
    await asyncio.sleep((almost + timedelta(seconds=3600.2) - datetime.now(UTC)).total_seconds())
    ripe, anew = await kept(database, experiment, seconds=3600.0)
    assert (young.arm("candidate").counts["exposed"], ripe.arm("candidate").counts["ups"]) == (1, 1)
    assert ripe == anew


async def test_after_an_erasure_no_sum_names_the_rater_and_the_totals_follow(
    database: Database, state_dir: Path
) -> None:
    gone = f"rater-{0:024x}"
    async with database.begin() as connection:
        experiment = await an_experiment(connection)
        await a_rated_completion(connection, value=True, rater=gone, **in_arm(experiment))
        await a_rated_completion(connection, value=True, rater="rater-b", **in_arm(experiment))
    await kept(database, experiment)
    async with database.begin() as connection:
        asked = await erasures.request(connection, PROJECT, rater=gone, by="ada")
    await erasures.advance(database, asked.erasure_id, state_dir)
    async with database.begin() as connection:
        for table in ("exposure_sums", "exposure_changes"):
            left = await connection.scalar(
                text(f"SELECT count(*) FROM {table} WHERE unit = :unit"), {"unit": gone}
            )
            assert left == 0
    now, anew = await kept(database, experiment)
    assert now.arm("candidate").counts["units"] == 1 and now == anew


@pytest.mark.parametrize("project", [PROJECT, "other"])
async def test_an_erasure_takes_no_request_that_stays_out_of_a_verdict(
    database: Database, state_dir: Path, project: str
) -> None:
    """Neither of another project's unit of the same name, nor of a person who comes back before a look."""
    gone = f"rater-{0:024x}"
    async with database.begin() as connection:
        experiment = await an_experiment(connection)
        erased = a_completion(project=project, rater=gone, unit=gone, session="chat-1")
        await insert_many(connection, [erased])
    await kept(database, experiment)
    async with database.begin() as connection:
        asked = await erasures.request(connection, project, rater=gone, by="ada")
    unit = {"rater": gone, "unit": gone} if project == PROJECT else {"rater": None, "unit": "chat-1"}
    unknown = state_dir / "notes.txt"
    unknown.write_text(gone)
    assert (await erasures.advance(database, asked.erasure_id, state_dir)).phase == "record"
    unknown.unlink()
    async with database.begin() as connection:
        await insert_many(connection, [a_completion(**unit, session="chat-1", **in_arm(experiment))])
    assert (await erasures.advance(database, asked.erasure_id, state_dir)).phase == "done"
    now, anew = await kept(database, experiment)
    assert now.arm("candidate").counts["exposed"] == 1 and now == anew


async def test_a_split_that_has_ended_leaves_no_sums(database: Database) -> None:
    async with database.begin() as connection:
        experiment = await an_experiment(connection)
        await a_rated_completion(connection, value=True, **in_arm(experiment))
    await kept(database, experiment)
    async with database.begin() as connection:
        await experiments.end(connection, experiment, outcome="aborted", reason="test")
        await a_rated_completion(connection, value=True, **in_arm(experiment))
    async with database.begin() as connection:
        await exposure_sums.let_go_of_ended(connection)
        await exposure_sums.look_up_votes(connection)
        for table in ("exposure_sums", "exposure_changes", "experiment_totals"):
            assert await connection.scalar(text(f"SELECT count(*) FROM {table}")) == 0


@pytest.mark.parametrize("units", [1, 7])
def test_totals_do_not_depend_on_the_order_in_which_units_came(units: int) -> None:
    rows = [
        UnitOutcome(f"r{n % units}", ("champion", "candidate")[n % 2], n % 5 + 1, ups=n % 3, propensity=share,
                    first_tokens=n, log_first_token_seconds=n / 3)
        for n, share in enumerate((0.99, 0.01, 0.95, 0.05) * 20)
    ]  # fmt: skip
    whole = Totals.of(rows, WEIGHTS, control=CHAMPION_ARM)
    piecewise = Totals(tuple(WEIGHTS), CHAMPION_ARM)
    by_unit = {row.unit: [one for one in rows if one.unit == row.unit] for row in rows}
    for some in reversed(by_unit.values()):
        piecewise.add(some[:-1], WEIGHTS)
        piecewise.take_out(some[:-1], WEIGHTS)
        piecewise.add(some[::-1], WEIGHTS)
    assert piecewise == whole
    assert Totals.restored(whole.stored(), WEIGHTS, control=CHAMPION_ARM) == whole


def test_the_sums_of_one_unit_with_ten_million_requests_are_exact() -> None:
    rows = [UnitOutcome("robot", "candidate", 10_000_000, ups=9_999_999)]
    events = Totals.of(rows, WEIGHTS, control=CHAMPION_ARM).arm("candidate").events["bad_answers"]
    assert float(events.nn) == 1e14
