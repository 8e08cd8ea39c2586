"""What may be rated, and what counts as up and down: in Python and in PostgreSQL alike."""

import asyncio
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from feedback import submissions
from feedback.database import Database
from feedback.errors import HoneError
from feedback.metrics import NET_VOTES, FeedbackPolicy, Metric, rule_of, rules_document
from feedback.policy import read_policy
from tests.builders import PROJECT


def number(**changes: Any) -> Metric:
    return Metric.model_validate({"type": "number", "minimum": 1, "maximum": 5, **changes})


@pytest.mark.parametrize(
    ("metric", "ups", "downs", "neither"),
    [
        (Metric(), [True], [False], []),
        (Metric(direction="minimize"), [False], [True], []),
        (number(), [4, 5, 3.01], [1, 2, 2.99], [3]),
        (number(direction="minimize"), [1, 2], [4, 5], [3]),
        (number(up_at=5, down_at=2), [5], [1, 2], [3, 4, 4.9]),
        (number(direction="minimize", up_at=1), [1], [3.5, 5], [1.5, 3]),
        (number(minimum=-1, maximum=1), [0.1, 1], [-1], [0]),
        (Metric(type="category", values=("a", "b", "c"), up=("a",), down=("b",)), ["a"], ["b"], ["c"]),
        (Metric(type="text"), [], [], ["up", "true"]),
    ],
)
def test_a_metric_says_what_counts_as_up_and_down(
    metric: Metric, ups: list[Any], downs: list[Any], neither: list[Any]
) -> None:
    rule = rule_of("m", metric)
    assert [rule.vote(value) for value in ups] == [True] * len(ups)
    assert [rule.vote(value) for value in downs] == [False] * len(downs)
    assert [rule.vote(value) for value in neither] == [None] * len(neither)


def test_only_the_metrics_that_the_policy_names_count_as_votes() -> None:
    policy = FeedbackPolicy.model_validate(
        {"metrics": {"stars": {"type": "number", "minimum": 1, "maximum": 5}}}
    )
    assert (policy.vote("thumbs", True), policy.vote("stars", 5), policy.vote("copy", True)) == (
        True,
        None,
        None,
    )
    counting = FeedbackPolicy.model_validate({**policy.model_dump(), "votes": ["stars", "regenerate"]})
    assert (counting.vote("thumbs", True), counting.vote("stars", 5)) == (None, True)
    assert counting.vote("regenerate", True) is False


@st.composite
def metrics(draw: st.DrawFn) -> Metric:
    direction = draw(st.sampled_from(["maximize", "minimize"]))
    if draw(st.booleans()):
        return Metric(direction=direction)
    low, high = sorted(draw(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=2, unique=True)))
    bounds = st.none() | st.floats(low, high)
    wanted = {"minimum": low, "maximum": high, "up_at": draw(bounds), "down_at": draw(bounds)}
    try:
        return Metric.model_validate({"type": "number", "direction": direction, **wanted})
    except ValueError:
        return Metric(type="number", direction=direction, minimum=low, maximum=high)


async def test_the_database_counts_votes_as_python_does(database: Database) -> None:
    async def net(policy: FeedbackPolicy, values: list[tuple[str, Any]]) -> int:
        async with database.begin() as connection:
            await connection.execute(text("TRUNCATE feedback"))
            for position, (name, value) in enumerate(values):
                one = submissions.submission(
                    project=PROJECT,
                    completion_id="c",
                    rater=f"r{position}",
                    kind="rating",
                    name=name,
                    value=value,
                )
                await submissions.store(connection, one)
            rules = {"rules": rules_document(policy.rules()), "project": PROJECT}
            row = (await connection.execute(text(NET_VOTES), rules)).one_or_none()
            return 0 if row is None else int(row.net)

    loop = asyncio.get_running_loop()

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(metric=metrics(), data=st.data())
    def check(metric: Metric, data: st.DataObject) -> None:
        value: st.SearchStrategy[Any] = st.booleans()
        if metric.type == "number":
            assert metric.minimum is not None and metric.maximum is not None
            middle = (metric.minimum + metric.maximum) / 2
            edges = st.sampled_from([metric.minimum, metric.maximum, middle, *_set(metric)])
            value = edges | st.floats(metric.minimum, metric.maximum)
        policy = FeedbackPolicy(metrics={"m": metric}, votes=("m",))
        values = data.draw(
            st.lists(st.tuples(st.sampled_from(["m", "other"]), value), min_size=1, max_size=4)
        )
        votes = [policy.vote(name, value) for name, value in values]
        counted = asyncio.run_coroutine_threadsafe(net(policy, values), loop).result()
        assert counted == votes.count(True) - votes.count(False)

    await asyncio.to_thread(check)


def _set(metric: Metric) -> list[float]:
    return [bound for bound in (metric.up_at, metric.down_at) if bound is not None]


@pytest.mark.parametrize(
    ("feedback", "expected"),
    [
        ({"metrics": {"thumbs": {}}}, "name is taken"),
        ({"metrics": {"comment": {}}}, "name is taken"),
        ({"metrics": {"a|b": {}}}, "plain characters"),
        ({"metrics": {"stars": {"type": "number"}}}, "needs minimum and maximum"),
        ({"metrics": {"stars": {"type": "number", "minimum": 5, "maximum": 1}}}, "first below the second"),
        ({"metrics": {"s": {"type": "number", "minimum": 1, "maximum": 5, "up_at": 9}}}, "on the scale"),
        ({"metrics": {"s": {"type": "number", "minimum": 1, "maximum": 5, "up_at": 2}}}, "better side"),
        ({"metrics": {"s": {"minimum": 1}}}, "belong to type 'number'"),
        ({"metrics": {"s": {"type": "category"}}}, "needs values"),
        ({"metrics": {"s": {"type": "category", "values": ["a"], "up": ["b"]}}}, "only name some"),
        ({"votes": ["stars"]}, "not declared"),
        ({"votes": ["thumbs", "thumbs"]}, "twice"),
        ({"allowed_origins": ["https://shop.example/"]}, "cannot match"),
        ({"allowed_origins": ["shop.example"]}, "cannot match"),
    ],
)
def test_a_policy_that_could_not_be_meant_is_refused(feedback: dict[str, Any], expected: str) -> None:
    with pytest.raises(HoneError, match=expected):
        read_policy({"feedback": feedback})


def test_a_metric_is_taken_away_by_null() -> None:
    policy = read_policy({"feedback": {"metrics": {"stars": None, "solved": {"level": "session"}}}})
    assert set(policy.feedback.metrics) == {"solved"}
