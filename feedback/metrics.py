"""Metrics: what may be rated, on which scale, and what of it counts as up or down.

`thumbs` and the implicit signals always exist; every other name is declared in the model's policy, with its type,
scale, level and direction, and an undeclared one is refused with the list of those that are. What a value counts as is
defined here and nowhere else, as a `Rule` that Python (`Rule.vote`) and PostgreSQL (`NET_VOTES`) read alike. Rules are
applied when votes are read: changing a metric changes what past ratings count as.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Self

import orjson
from pydantic import Field, field_validator, model_validator

from feedback.errors import HoneError, Refused
from feedback.origins import check_origin
from feedback.sections import Section

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_.:/ -]{0,62}[A-Za-z0-9])?")
KIND_NAMES = ("comment", "demonstration", "preference")

MetricType = Literal["boolean", "number", "category", "text"]


class Metric(Section):
    """One thing that people may rate, declared by its name."""

    type: MetricType = "boolean"
    """true or false; a number from `minimum` to `maximum`; one of `values`; or text."""
    level: Literal["completion", "session", "any"] = "completion"
    """Whether it is about one answer, a conversation, or either."""
    direction: Literal["maximize", "minimize"] = "maximize"
    """Whether true, or a higher number, is better or worse."""
    minimum: float | None = None
    """Lowest number of the scale."""
    maximum: float | None = None
    """Highest number of the scale."""
    up_at: float | None = None
    """From this number on, in the better direction, it counts as up. Unset: beyond the middle of the scale."""
    down_at: float | None = None
    """From this number on, in the worse direction, it counts as down. Unset: beyond the middle of the scale."""
    values: tuple[str, ...] = ()
    """The categories."""
    up: tuple[str, ...] = ()
    """Categories that count as up."""
    down: tuple[str, ...] = ()
    """Categories that count as down."""

    @model_validator(mode="after")
    def _fits_its_type(self) -> Self:
        scale = (self.minimum, self.maximum, self.up_at, self.down_at)
        if self.type == "number":
            _check_scale(self)
        elif any(bound is not None for bound in scale):
            raise ValueError("minimum, maximum, up_at and down_at belong to type 'number'")
        if self.type != "category" and (self.values or self.up or self.down):
            raise ValueError("values, up and down belong to type 'category'")
        if self.type == "category" and not (
            self.values and set(self.up) | set(self.down) <= set(self.values)
        ):
            raise ValueError("a category needs values, and up and down may only name some of them")
        if set(self.up) & set(self.down):
            raise ValueError("a category cannot be up and down")
        return self

    def check(self, name: str, value: Any) -> None:
        """Refuse a value that is not on the scale.

        Raises:
            HoneError: it is not; the message says what was expected.
        """
        if not self._takes(value):
            raise Refused(
                f"'{name}' is {value!r:.80}; expected {self.expected}.",
                code="metric_value_invalid",
                param="value",
            )

    @property
    def expected(self) -> str:
        """What a value has to be, in words."""
        return {
            "boolean": "true or false",
            "number": f"a number from {self.minimum or 0:g} to {self.maximum or 0:g}",
            "category": f"one of {', '.join(self.values)}",
            "text": "text",
        }[self.type]

    def _takes(self, value: Any) -> bool:
        if self.type == "boolean":
            return isinstance(value, bool)
        if self.type == "number":
            assert self.minimum is not None and self.maximum is not None
            number = isinstance(value, int | float) and not isinstance(value, bool)
            return number and self.minimum <= value <= self.maximum
        if self.type == "category":
            return value in self.values
        return isinstance(value, str) and bool(value.strip())


def _check_scale(metric: Metric) -> None:
    low, high = metric.minimum, metric.maximum
    if low is None or high is None or not -math.inf < low < high < math.inf:
        raise ValueError("a number needs minimum and maximum, the first below the second")
    up, down = metric.up_at, metric.down_at
    if any(bound is not None and not low <= bound <= high for bound in (up, down)):
        raise ValueError("up_at and down_at must be on the scale")
    middle = (low + high) / 2
    up, down = middle if up is None else up, middle if down is None else down
    if (up < down) if metric.direction == "maximize" else (up > down):
        raise ValueError("up_at must be on the better side of down_at")
    if metric.up_at is not None and metric.up_at == metric.down_at:
        raise ValueError("up_at and down_at cannot be the same number")


SIGNALS = {
    "regenerate": Metric(direction="minimize"),
    "copy": Metric(),
    "edit_distance": Metric(type="number", minimum=0, maximum=1, direction="minimize"),
    "follow_up": Metric(direction="minimize"),
}
"""What people do rather than say: asked for another answer, copied it, kept it changed by this share, asked again."""

BUILT_IN = {"thumbs": Metric(level="any"), **SIGNALS}


class FeedbackPolicy(Section):
    """What people may say of a model's answers, and from where."""

    metrics: dict[str, Metric] = Field(default_factory=dict)
    """Metrics beside `thumbs` and the signals, by name. `null` in a change takes one away."""
    votes: tuple[str, ...] = ("thumbs",)
    """Metrics whose ups and downs count, in training and in verdicts. Signals never do unless they are named here."""
    allowed_origins: tuple[str, ...] = ()
    """Web origins whose pages may send feedback, such as `https://shop.example` or `https://*.shop.example`.
    The gateway's own pages always may. `*` allows any page that has an answer's token."""

    @field_validator("metrics", mode="before")
    @classmethod
    def _without_those_taken_away(cls, value: Any) -> Any:
        return {k: v for k, v in value.items() if v is not None} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _names_are_known(self) -> Self:
        for name in self.metrics:
            if not NAME.fullmatch(name) or name in (*BUILT_IN, *KIND_NAMES):
                raise ValueError(
                    f"metric '{name}' cannot be declared: the name is taken, or not 1-64 plain characters"
                )
        if len(set(self.votes)) < len(self.votes):
            raise ValueError("votes names a metric twice")
        for name in self.votes:
            if self.metric(name) is None:
                raise ValueError(f"votes names '{name}', which is not declared")
        for origin in self.allowed_origins:
            check_origin(origin)
        return self

    @property
    def declared(self) -> Mapping[str, Metric]:
        """Every metric by name, the built-in ones first."""
        return BUILT_IN | self.metrics

    def metric(self, name: str) -> Metric | None:
        """The metric of that name, if there is one."""
        return self.declared.get(name)

    def rules(self) -> list["Rule"]:
        """What counts as up and down, for the metrics that count."""
        return [rule_of(name, self.declared[name]) for name in self.votes]

    def vote(self, name: str, value: Any) -> bool | None:
        """Whether a value counts as up (True), down (False), or neither."""
        return rule_of(name, self.declared[name]).vote(value) if name in self.votes else None


@dataclass(frozen=True, slots=True)
class Rule:
    """What counts as up and down of one metric: a value among `up` or `down`, or a number in a closed interval."""

    name: str
    up: tuple[bool | str, ...] = ()
    down: tuple[bool | str, ...] = ()
    up_from: float | None = None
    up_to: float | None = None
    down_from: float | None = None
    down_to: float | None = None

    def vote(self, value: Any) -> bool | None:
        """True for up, False for down, None for neither."""
        if isinstance(value, bool | str):
            return True if value in self.up else False if value in self.down else None
        if isinstance(value, int | float) and self.up_from is not None:
            assert self.up_to is not None and self.down_from is not None and self.down_to is not None
            up = self.up_from <= value <= self.up_to
            return up or (False if self.down_from <= value <= self.down_to else None)
        return None


def rule_of(name: str, metric: Metric) -> Rule:
    """The rule of a metric."""
    better = metric.direction == "maximize"
    if metric.type == "boolean":
        return Rule(name, up=(better,), down=(not better,))
    if metric.type == "number":
        assert metric.minimum is not None and metric.maximum is not None
        low, high = metric.minimum, metric.maximum
        middle = (low + high) / 2
        above, below = math.nextafter(middle, math.inf), math.nextafter(middle, -math.inf)
        if better:
            up, down = _or(metric.up_at, above), _or(metric.down_at, below)
            return Rule(name, up_from=up, up_to=high, down_from=low, down_to=down)
        up, down = _or(metric.up_at, below), _or(metric.down_at, above)
        return Rule(name, up_from=low, up_to=up, down_from=down, down_to=high)
    return Rule(name, up=metric.up, down=metric.down)


def _or(value: float | None, default: float) -> float:
    return default if value is None else value


def rules_document(rules: Iterable[Rule]) -> str:
    """Rules as the JSON that `NET_VOTES` takes as `:rules`."""
    return orjson.dumps(list(rules)).decode()


NET_VOTES = """
    SELECT completion_id, sum(CASE
        WHEN rule.up @> said.value OR said.number BETWEEN rule.up_from AND rule.up_to THEN 1
        WHEN rule.down @> said.value OR said.number BETWEEN rule.down_from AND rule.down_to THEN -1
        ELSE 0 END) AS net
    FROM (
        SELECT completion_id, name, value,
               CASE WHEN jsonb_typeof(value) = 'number' THEN CAST(value #>> '{}' AS float8) END AS number
        FROM feedback
        WHERE project = :project AND effective AND kind IN ('rating', 'signal') AND completion_id IS NOT NULL
    ) AS said
    JOIN jsonb_to_recordset(CAST(:rules AS jsonb)) AS rule (
        name text, up jsonb, down jsonb, up_from float8, up_to float8, down_from float8, down_to float8
    ) USING (name)
    GROUP BY completion_id
"""
"""Ups less downs of each completion of `:project` that has a vote, as a subquery (`completion_id`, `net`)."""


def find_metric(policies: Mapping[str, FeedbackPolicy], model: str | None, name: str, value: Any) -> Metric:
    """The metric that a rating names, by a project's policies; the value is on its scale.

    An answer that is not in the record yet has no known model: then a metric of any of the project's models will do.

    Raises:
        HoneError: no metric of that name is declared, or the value is not on its scale.
    """
    asked = [policies[model]] if model is not None and model in policies else list(policies.values())
    found = [metric for policy in asked or [FeedbackPolicy()] if (metric := policy.metric(name)) is not None]
    if not found:
        raise _undeclared(asked, model, name)
    for metric in found[:-1]:
        try:
            metric.check(name, value)
        except HoneError:
            continue
        return metric
    found[-1].check(name, value)
    return found[-1]


def _undeclared(asked: list[FeedbackPolicy], model: str | None, name: str) -> Refused:
    declared: dict[str, Metric] = dict(BUILT_IN)
    for policy in asked:
        declared |= policy.metrics
    known = "; ".join(f"{known} ({metric.expected})" for known, metric in declared.items())
    whose = f"model '{model}'" if model else "this project"
    return Refused(
        f"Metric '{name}' is not declared for {whose}. Declared are: {known}. "
        "Declare it in the model's policy, under feedback.metrics, or use one of these.",
        code="metric_not_declared",
        param="name",
    )
