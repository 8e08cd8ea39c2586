"""Count requests and latencies per version and arm, cheaply enough for the request path.

A `Series` is plain integers that the event loop thread adds to; Prometheus' own types are built only when somebody
scrapes. One request costs a few additions and three bisections. Counts start at zero with the process: rates and
quantiles over time are the scraper's to compute.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1.0)
LABELS = ("project", "model_version", "arm")

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Histogram:
    """Counts per bucket, and their sum."""

    __slots__ = ("bounds", "counts", "sum")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value, in seconds."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def buckets(self) -> list[tuple[str, float]]:
        """Cumulative counts by upper bound, as Prometheus wants them."""
        total, cumulative = 0, []
        for bound, count in zip((*map(str, self.bounds), "+Inf"), self.counts, strict=True):
            total += count
            cumulative.append((bound, float(total)))
        return cumulative


class Series:
    """What is counted for one version in one arm."""

    __slots__ = (
        "duration",
        "errors",
        "output_tokens",
        "prompt_tokens",
        "requests",
        "time_per_output_token",
        "time_to_first_token",
    )

    def __init__(self) -> None:
        self.output_tokens = 0
        self.prompt_tokens = 0
        self.requests: dict[str, int] = {}
        self.errors: dict[str, int] = {}
        self.duration = Histogram(SECONDS)
        self.time_to_first_token = Histogram(SECONDS)
        self.time_per_output_token = Histogram(TOKEN_SECONDS)

    def finished(
        self,
        status: str,
        output_tokens: int,
        *,
        duration_seconds: float,
        time_to_first_token_seconds: float | None,
        time_per_output_token_seconds: float | None,
        error_class: str | None = None,
        prompt_tokens: int = 0,
    ) -> None:
        """Count one answer; `status` is `ok`, `error` or `aborted`. Only `ok` answers enter the histograms."""
        self.requests[status] = self.requests.get(status, 0) + 1
        self.output_tokens += output_tokens
        self.prompt_tokens += prompt_tokens
        if status != "ok":
            if status == "error":
                name = error_class or "unknown"
                self.errors[name] = self.errors.get(name, 0) + 1
            return
        self.duration.observe(duration_seconds)
        if time_to_first_token_seconds is not None:
            self.time_to_first_token.observe(time_to_first_token_seconds)
        if time_per_output_token_seconds is not None:
            self.time_per_output_token.observe(time_per_output_token_seconds)


class RequestMetrics(Collector):
    """All series of one gateway, and gauges that are read when somebody scrapes."""

    def __init__(self) -> None:
        self._series: dict[tuple[str, str, str | None], Series] = {}
        self._gauges: dict[str, tuple[str, Callable[[], float]]] = {}
        self._counters: dict[str, tuple[str, Callable[[], float]]] = {}
        self.refusals: dict[int, int] = {}

    def of(self, project: str, model_version: str, arm: str | None) -> Series:
        """The series of a version in an arm; None is outside any experiment."""
        key = (project, model_version, arm)
        series = self._series.get(key)
        if series is None:
            series = self._series[key] = Series()
        return series

    def gauge(self, name: str, help: str, read: Callable[[], float]) -> None:
        """Show what `read` returns at every scrape."""
        self._gauges[name] = (help, read)

    def counter(self, name: str, help: str, read: Callable[[], float]) -> None:
        """Like `gauge`, for a number that only grows."""
        self._counters[name] = (help, read)

    def collect(self) -> Iterable[Metric]:
        """Build Prometheus' view of now."""
        yield self._requests()
        yield self._errors()
        yield self._refusals()
        yield self._tokens("output_tokens", "Generated tokens.")
        yield self._tokens("prompt_tokens", "Tokens of what was asked, as the engine counted them.")
        yield self._latency("hone_request_duration_seconds", "Request until the last byte.", "duration")
        yield self._latency(
            "hone_time_to_first_token_seconds", "Streams: until the first byte.", "time_to_first_token"
        )
        yield self._latency(
            "hone_time_per_output_token_seconds",
            "Streams: time per token after the first.",
            "time_per_output_token",
        )
        for name, (help, read) in self._gauges.items():
            yield GaugeMetricFamily(name, help, value=read())
        for name, (help, read) in self._counters.items():
            yield CounterMetricFamily(name, help, value=read())

    def _rows(self) -> Iterator[tuple[list[str], Series]]:
        for (project, model_version, arm), series in self._series.items():
            yield [project, model_version, arm or ""], series

    def _requests(self) -> Metric:
        family = CounterMetricFamily(
            "hone_requests", "Answered requests by outcome.", labels=[*LABELS, "status"]
        )
        for labels, series in self._rows():
            for status, count in series.requests.items():
                family.add_metric([*labels, status], count)
        return family

    def _errors(self) -> Metric:
        family = CounterMetricFamily(
            "hone_errors", "Requests that failed, by whose failure it was.", labels=[*LABELS, "class"]
        )
        for labels, series in self._rows():
            for name, count in series.errors.items():
                family.add_metric([*labels, name], count)
        return family

    def _refusals(self) -> Metric:
        family = CounterMetricFamily(
            "hone_refusals", "Requests refused before any version was chosen, by status.", labels=["status"]
        )
        for status, count in self.refusals.items():
            family.add_metric([str(status)], count)
        return family

    def _tokens(self, field: str, help: str) -> Metric:
        family = CounterMetricFamily(f"hone_{field}", help, labels=LABELS)
        for labels, series in self._rows():
            family.add_metric(labels, getattr(series, field))
        return family

    def _latency(self, name: str, help: str, field: str) -> Metric:
        family = HistogramMetricFamily(name, help, labels=LABELS)
        for labels, series in self._rows():
            histogram: Histogram = getattr(series, field)
            family.add_metric(labels, buckets=histogram.buckets(), sum_value=histogram.sum)
        return family


def render(metrics: RequestMetrics) -> bytes:
    """The text that `/metrics` answers with."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(metrics)
    return generate_latest(registry)
