"""Cost and return: what each version's answers took, what each run took, and how much better people liked the result.

Amounts are computed from prices in the settings. Without a price there is no amount: nothing is ever shown as free
because nobody said what it costs. The return of a run is its version's difference in net approval per request, with the
interval of the verdict; it is not turned into money.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from feedback import costs
from feedback.completions import UPSTREAM
from feedback.costs import Served, Trained
from monitoring.settings import MonitoringSettings

HOUR_SECONDS = 3600.0
MILLION = 1e6


@dataclass(frozen=True, slots=True)
class Prices:
    """What things cost, in `currency`; None where nobody said."""

    currency: str = "USD"
    engine_hour: float | None = None
    training_hour: float | None = None
    million_prompt_tokens: float | None = None
    million_output_tokens: float | None = None
    upstream_million_prompt_tokens: float | None = None
    upstream_million_output_tokens: float | None = None

    @classmethod
    def of(cls, settings: MonitoringSettings) -> "Prices":
        """As the settings say."""
        return cls(**{name: getattr(settings, f"price_{name}") for name in cls.__slots__})

    def of_answers(self, one: Served) -> float | None:
        """What a version's answers cost."""
        elsewhere = one.upstream is not None
        prompt = self.upstream_million_prompt_tokens if elsewhere else self.million_prompt_tokens
        output = self.upstream_million_output_tokens if elsewhere else self.million_output_tokens
        return _sum(
            [
                (prompt, one.prompt_tokens / MILLION),
                (output, one.output_tokens / MILLION),
                (None if elsewhere else self.engine_hour, one.engine_seconds / HOUR_SECONDS),
            ]
        )

    def of_run(self, one: Trained) -> float | None:
        """What a run cost, its evaluation included."""
        took = [seconds for seconds in (one.training_seconds, one.evaluation_seconds) if seconds is not None]
        return _sum([(self.training_hour, sum(took) / HOUR_SECONDS)]) if took else None


def _sum(parts: Sequence[tuple[float | None, float]]) -> float | None:
    known = [price * amount for price, amount in parts if price is not None]
    return sum(known) if known else None


async def report(
    connection: AsyncConnection,
    project: str,
    prices: Prices,
    *,
    since: datetime,
    until: datetime,
    model: str | None = None,
) -> dict[str, Any]:
    """Everything that `hone cost` shows, of a stretch of time."""
    answers = await costs.served(connection, project, model=model, since=since, until=until)
    runs = await costs.trained(connection, project, model=model, since=since, until=until)
    versions = [{**asdict(one), "name": _name(one), "cost": prices.of_answers(one)} for one in answers]
    improvements = [_improvement(one, prices) for one in runs]
    amounts = [one["cost"] for one in (*versions, *improvements) if one["cost"] is not None]
    return {
        "project": project,
        "since": since,
        "until": until,
        "currency": prices.currency,
        "versions": versions,
        "improvements": improvements,
        "engine_seconds": sum(one.engine_seconds for one in answers),
        "training_seconds": sum(one.training_seconds or 0.0 for one in runs),
        "prompt_tokens": sum(one.prompt_tokens for one in answers),
        "output_tokens": sum(one.output_tokens for one in answers),
        "cost": sum(amounts) if amounts else None,
    }


def _improvement(one: Trained, prices: Prices) -> dict[str, Any]:
    verdict = one.verdict or {}
    lift = {name: verdict.get(name) for name in ("state", "difference", "low", "high")}
    known = {name: value for name, value in asdict(one).items() if name != "verdict"}
    return {
        **known,
        "name": None if one.version is None else f"{one.model}@{one.version}",
        "cost": prices.of_run(one),
        "lift": lift if lift["difference"] is not None else None,
    }


def _name(one: Served) -> str:
    return f"{one.model}@{UPSTREAM if one.version is None else one.version}"
