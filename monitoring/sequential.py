"""Statistics that stay valid however often one looks.

Every function is pure, works on plain numbers and on whole arrays at once (the simulations in `tests/bench/verdicts.py`
run on the very code that decides), and keeps its error rate when it is read after every event and acted on at once.

`bernoulli_interval` and `share_log_bayes_factor` hold exactly, at any sample size. `mixture_margin`,
`difference_margin` and `difference_log_evidence` hold from some fifty independent units on. `wilson_interval` holds at
one look only, chosen beforehand. Nothing here knows what a completion or a database is.

Sources: Waudby-Smith, Arbour, Sinha, Kennedy, Ramdas, "Time-uniform central limit theory and asymptotic confidence
sequences" (2024); Howard, Ramdas, McAuliffe, Sekhon, "Time-uniform, nonparametric, nonasymptotic confidence sequences"
(2021); Lindon, Malek, "Anytime-valid inference for multinomial count data" (2022); Deng, Knoblich, Lu, "Applying the
delta method in metric analytics" (2018).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import betaln, logsumexp
from scipy.stats import norm

Floats: TypeAlias = NDArray[np.float64]

Membership: TypeAlias = Callable[[Floats], NDArray[np.bool_]]

BISECTIONS = 60
EPSILON = 1e-12
"""Rates closer to 0 or 1 than this count as 0 or 1."""


def floats(value: ArrayLike) -> Floats:
    """As an array of 64-bit floats."""
    return np.asarray(value, dtype=np.float64)


def mixture_rho_squared(tightest_at: float, variance: ArrayLike, *, alpha: float) -> Floats:
    """The free parameter of the normal mixture that makes its interval tightest near one sample size.

    rho^2 = (-2 ln a + ln(-2 ln a) + 1) / (t* s^2), Waudby-Smith et al. 2024. `tightest_at` counts
    observations; `variance` is that of one observation. Whatever is chosen, the interval stays valid.
    """
    evidence = -2.0 * np.log(alpha)
    return floats((evidence + np.log(evidence) + 1.0) / (tightest_at * floats(variance)))


def mixture_margin(count: ArrayLike, variance: ArrayLike, rho_squared: ArrayLike, *, alpha: float) -> Floats:
    """Half-width of the asymptotic confidence sequence for a mean.

    sqrt((t s^2 r^2 + 1) / (t^2 r^2) * ln((t s^2 r^2 + 1) / a^2)), Waudby-Smith et al. 2024. `count` is t, the number of
    independent observations, `variance` that of one of them; both broadcast.
    """
    t, r2 = floats(count), floats(rho_squared)
    spread = t * floats(variance) * r2 + 1.0
    return floats(np.sqrt(spread / (t * t * r2) * np.log(spread / alpha**2)))


def difference_margin(
    units: tuple[ArrayLike, ArrayLike],
    variances: tuple[ArrayLike, ArrayLike],
    *,
    alpha: float,
    tightest_at: float,
) -> Floats:
    """Half-width of the two-sided confidence sequence for the difference of two arms' means or ratios.

    `units` are the independent units per arm, `variances` the variances of the two *estimates* (not of one unit): for
    t = n0 + n1 the difference behaves like the mean of t observations of variance t (V0 + V1). `tightest_at` counts
    units of both arms together. The margin is infinite where the variances are zero or unknown: that is no evidence.
    """
    total = floats(units[0]) + floats(units[1])
    spread = floats(variances[0]) + floats(variances[1])
    known = (spread > 0.0) & np.isfinite(spread) & (total > 0.0)
    safe_total = np.where(known, total, 1.0)
    variance = safe_total * np.where(known, spread, 1.0)
    rho_squared = mixture_rho_squared(tightest_at, variance, alpha=alpha)
    return np.where(known, mixture_margin(safe_total, variance, rho_squared, alpha=alpha), np.inf)


def difference_log_evidence(
    difference: ArrayLike,
    units: tuple[ArrayLike, ArrayLike],
    variances: tuple[ArrayLike, ArrayLike],
    *,
    alpha: float,
    tightest_at: float,
) -> Floats:
    """Log evidence that a difference of two arms' means or ratios is above zero: the test behind `difference_margin`.

    It reaches ln(1/alpha) exactly when the difference exceeds the margin at `alpha`. Never above zero where the
    difference is not positive or the variances are unknown.
    """
    total = floats(units[0]) + floats(units[1])
    spread = floats(variances[0]) + floats(variances[1])
    known = (spread > 0.0) & np.isfinite(spread) & (total > 0.0) & (floats(difference) > 0.0)
    t = np.where(known, total, 1.0)
    variance = t * np.where(known, spread, 1.0)
    rho_squared = mixture_rho_squared(tightest_at, variance, alpha=alpha)
    width = t * variance * rho_squared + 1.0
    evidence = (floats(difference) * t) ** 2 * rho_squared / (2.0 * width) - 0.5 * np.log(width)
    return np.where(known, evidence, 0.0)


@dataclass(frozen=True, slots=True)
class RatioSums:
    """Sums over the units of one arm, for a ratio such as net approval per request with units as clusters.

    `units` counts clusters; `y` and `n` are sums of each unit's numerator and denominator; `yy`, `yn`, `nn`
    sums of their products. All six broadcast.
    """

    units: Floats
    y: Floats
    n: Floats
    yy: Floats
    yn: Floats
    nn: Floats

    @classmethod
    def of(cls, y: ArrayLike, n: ArrayLike, *, axis: int = -1) -> Self:
        """Sum over units, which lie along `axis`; a unit with n = 0 does not count."""
        top, below = floats(y), floats(n)
        return cls(
            units=floats(np.count_nonzero(below, axis=axis)),
            y=top.sum(axis=axis),
            n=below.sum(axis=axis),
            yy=(top * top).sum(axis=axis),
            yn=(top * below).sum(axis=axis),
            nn=(below * below).sum(axis=axis),
        )

    @property
    def ratio(self) -> Floats:
        """sum(y) / sum(n), and 0 where nothing was counted."""
        return np.divide(self.y, self.n, out=np.zeros_like(self.y), where=self.n > 0)

    @property
    def residual(self) -> Floats:
        """Sum over units of (y_u - r n_u)^2."""
        r = self.ratio
        return np.maximum(self.yy - 2.0 * r * self.yn + r * r * self.nn, 0.0)

    @property
    def variance(self) -> Floats:
        """Variance of `ratio` by the delta method, clustered by unit; infinite with fewer than two units.

        var(e_u, ddof=1) / U for e_u = (y_u - r n_u) / mean(n), Deng et al. 2018.
        """
        enough = (self.units > 1) & (self.n > 0)
        safe_units, safe_n = np.where(enough, self.units, 2.0), np.where(enough, self.n, 1.0)
        return np.where(enough, self.residual * safe_units / ((safe_units - 1.0) * safe_n * safe_n), np.inf)

    @property
    def cautious_variance(self) -> Floats:
        """`variance` as if one more unit had missed the ratio by one, the most that a vote per request can.

        Few votes may all agree by luck; a spread of zero would then pass for certainty.
        """
        return self.variance + 1.0 / np.maximum(self.units, 1.0) ** 2


def design_effect(arms: tuple[RatioSums, RatioSums]) -> Floats:
    """How many times more the events of a unit vary than independent ones would, at least 1.

    The clustered spread around each arm's own rate over the binomial spread, both arms together. Counts divided by it
    carry as much information as that many independent events.
    """
    clustered = arms[0].residual + arms[1].residual
    binomial = sum(floats(arm.n * arm.ratio * (1.0 - arm.ratio)) for arm in arms)
    return np.maximum(
        1.0, np.divide(clustered, binomial, out=np.ones_like(clustered), where=floats(binomial) > 0)
    )


@dataclass(frozen=True, slots=True)
class OddsPrior:
    """A discrete prior on how many times likelier an event is to fall in one arm than chance has it.

    `log_odds` (nodes,) are logarithms of the odds ratio, `log_weights` (nodes,) of the prior weights, which sum to one.
    Being discrete costs no validity: any prior fixed before the data gives a martingale.
    """

    log_odds: Floats
    log_weights: Floats

    @classmethod
    def of_density(cls, log_odds: Floats, log_density: Floats) -> Self:
        """Weigh the nodes by a density and by the room each of them stands for (trapezoids)."""
        gaps = np.diff(log_odds)
        room = np.concatenate([[gaps[0] / 2], (gaps[:-1] + gaps[1:]) / 2, [gaps[-1] / 2]])
        weights = log_density + np.log(room)
        return cls(log_odds, floats(weights - logsumexp(weights)))


def beta_prior(share: float, concentration: float, *, one_sided: bool, nodes: int = 801) -> OddsPrior:
    """The prior of Lindon & Malek 2022: the share of events is Beta(k q, k (1 - q)) around the expected share q.

    `one_sided` truncates it to shares above q. Used at another expected share, the odds ratio keeps its distribution.
    """
    stretch = np.linspace(0.0 if one_sided else -1.0, 1.0, nodes)
    # Nodes are dense near zero: a million units resolve odds ratios of one part in a thousand.
    log_odds = floats(8.0 * np.sinh(8.0 * stretch) / np.sinh(8.0))
    logit = np.log(share) - np.log1p(-share) + log_odds
    log_density = -concentration * (
        share * np.logaddexp(0.0, -logit) + (1.0 - share) * np.logaddexp(0.0, logit)
    )
    return OddsPrior.of_density(log_odds, floats(log_density))


def harm_prior(ratio: float, spread: float, *, nodes: int = 401) -> OddsPrior:
    """A one-sided prior that expects events about `ratio` times as often: log-normal, truncated to ratios above one.

    `spread` is the standard deviation of the logarithm.
    """
    log_odds = floats(np.linspace(0.0, np.log(ratio) + 5.0 * spread, nodes))
    return OddsPrior.of_density(log_odds, floats(-0.5 * ((log_odds - np.log(ratio)) / spread) ** 2))


def share_log_bayes_factor(
    inside: ArrayLike, outside: ArrayLike, share: ArrayLike, prior: OddsPrior
) -> Floats:
    """Log evidence that more (or other) events fall in an arm than its share of the traffic explains.

    `inside` and `outside` (..., groups) count events in the arm and elsewhere, `share` (..., groups) is the probability
    of the arm for an event of that group: one group for every weight that traffic was split with, so that a rollout in
    steps stays one test. Returns (...,).

    Each event multiplies the evidence by s'(x) / s or (1 - s'(x)) / (1 - s), s'(x) = s e^x / (1 - s + s e^x), averaged
    over the prior on x. If the arm makes no difference (for a one-sided prior: or fewer events) this is a martingale
    (supermartingale) that starts at 1, so the chance that it ever reaches 1/a is at most a (Ville). With one group at
    the prior's own share and `beta_prior` it is, one-sided, the truncated Bayes factor of Lindon & Malek 2022, and
    two-sided their Dirichlet-multinomial test of the sample ratio for two arms.
    """
    k1, k0, s = (floats(value)[..., None] for value in (inside, outside, share))
    per_node = k1 * prior.log_odds - (k1 + k0) * np.log1p(s * np.expm1(prior.log_odds))
    return floats(logsumexp(per_node.sum(axis=-2) + prior.log_weights, axis=-1))


def bernoulli_interval(
    successes: ArrayLike, trials: ArrayLike, *, alpha: float, tightest_at: float
) -> tuple[Floats, Floats]:
    """Exact confidence sequence for one rate from independent trials, by the two-sided beta-binomial mixture.

    {p : log M(p) < ln(1/a)}, log M(p) = lnB(k + r/(1-p), n-k + r/p) - lnB(r/(1-p), r/p) - k ln p - (n-k) ln(1-p),
    Howard et al. 2021; r = rho - p (1-p), at least p (1-p) / 1000; rho = p (1-p) t* / (2 ln(1/a) + ln(1 + 2 ln(1/a))).
    `tightest_at` is t*, in trials. Arrays broadcast; no trials give [0, 1].
    """
    k, n = np.broadcast_arrays(floats(successes), floats(trials))
    mean = np.divide(k, n, out=np.full(k.shape, 0.5), where=n > 0)
    evidence = 2.0 * np.log(1.0 / alpha)
    relative = max(tightest_at / (evidence + np.log1p(evidence)) - 1.0, 1e-3)

    def inside(p: Floats) -> NDArray[np.bool_]:
        a, b = relative * p, relative * (1.0 - p)
        log_m = betaln(k + a, n - k + b) - betaln(a, b) - k * np.log(p) - (n - k) * np.log1p(-p)
        return np.asarray(log_m < np.log(1.0 / alpha))

    return _edge(np.zeros(k.shape), mean, inside, k <= 0), _edge(np.ones(k.shape), mean, inside, k >= n)


def _edge(outer: Floats, inner: Floats, inside: Membership, touches: NDArray[np.bool_]) -> Floats:
    """Where membership ends between `outer` (out, or touching) and `inner` (in), by bisection."""
    far, near = outer, inner
    for _ in range(BISECTIONS):
        middle = np.clip((far + near) / 2.0, EPSILON, 1.0 - EPSILON)
        is_in = inside(middle)
        far, near = np.where(is_in, far, middle), np.where(is_in, middle, near)
    return np.where(touches | (np.abs(near - outer) <= 2.0 * EPSILON), outer, near)


def wilson_interval(successes: float, trials: float, *, confidence: float) -> tuple[float, float]:
    """Wilson's score interval for a rate, at one look decided beforehand; [0, 1] without trials."""
    if trials <= 0:
        return 0.0, 1.0
    z = float(norm.ppf(0.5 + confidence / 2.0))
    rate, spread = successes / trials, z * z / trials
    middle = (rate + spread / 2.0) / (1.0 + spread)
    half = z * float(np.sqrt(rate * (1.0 - rate) / trials + spread / (4.0 * trials))) / (1.0 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)
