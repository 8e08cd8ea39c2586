"""Reference values: confseq's own unit tests, TensorZero's defaults, Lindon & Malek's tests, statsmodels."""

from math import log

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import betainc, betaln

from monitoring.sequential import (
    OddsPrior,
    RatioSums,
    bernoulli_interval,
    beta_prior,
    design_effect,
    difference_margin,
    harm_prior,
    mixture_margin,
    mixture_rho_squared,
    share_log_bayes_factor,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("variance", "count", "alpha", "margin"),
    [
        (0.25, 100, 0.05, 0.161333),
        (0.25, 1000, 0.05, 0.048838),
        (0.25, 100, 0.01, 0.187360),
        (0.21, 5000, 0.05, 0.021140),
    ],
)
def test_the_margin_of_a_mean_equals_the_published_implementation(
    variance: float, count: int, alpha: float, margin: float
) -> None:
    rho_squared = mixture_rho_squared(100, 1.0, alpha=alpha)
    assert mixture_margin(count, variance, rho_squared, alpha=alpha) == pytest.approx(margin, abs=1e-6)


@pytest.mark.parametrize(("units", "margin"), [(1000, 0.061245), (5000, 0.028562)])
def test_the_margin_of_a_difference_equals_its_reference(units: int, margin: float) -> None:
    variances = 0.73 * 0.27 / units, 0.7 * 0.3 / units
    found = difference_margin((units, units), variances, alpha=0.05, tightest_at=2000)
    assert found == pytest.approx(margin, abs=1e-6)


def test_no_spread_and_no_units_give_no_certainty() -> None:
    assert difference_margin((10, 10), (0.0, 0.0), alpha=0.05, tightest_at=2000) == np.inf
    assert difference_margin((1, 10), (np.inf, 0.1), alpha=0.05, tightest_at=2000) == np.inf


@pytest.mark.parametrize(
    ("successes", "trials", "tightest_at", "low", "high"),
    [
        (700, 1000, 100, 0.651629, 0.745949),
        (15, 50, 50, 0.129556, 0.511896),
        (5, 50, 50, 0.013021, 0.269264),
        (1, 50, 50, 0.0, 0.13489),
        (100, 200, 1, 0.328923, 0.671076),
        (350, 500, 500, 0.635809, 0.759829),
        (0, 0, 50, 0.0, 1.0),
    ],
)
def test_the_exact_interval_of_a_rate_equals_confseq(
    successes: int, trials: int, tightest_at: int, low: float, high: float
) -> None:
    found = bernoulli_interval(successes, trials, alpha=0.05, tightest_at=tightest_at)
    assert [float(end) for end in found] == pytest.approx([low, high], abs=2e-6)


@given(trials=st.integers(1, 400), share=st.floats(0, 1))
def test_the_exact_interval_contains_the_rate_and_mirrors(trials: int, share: float) -> None:
    successes = round(share * trials)
    low, high = bernoulli_interval(successes, trials, alpha=0.05, tightest_at=100)
    mirrored = bernoulli_interval(trials - successes, trials, alpha=0.05, tightest_at=100)
    assert 0 <= low <= successes / trials <= high <= 1
    assert [1 - float(end) for end in mirrored[::-1]] == pytest.approx([float(low), float(high)], abs=1e-9)


@pytest.mark.parametrize(
    ("inside", "outside", "share", "evidence"),
    [(60, 40, 0.5, 1.441783), (75, 50, 0.5, 1.854416), (20, 80, 0.1, 3.488157), (12, 88, 0.1, -0.314766)],
)
def test_guardrail_evidence_equals_the_truncated_bayes_factor(
    inside: int, outside: int, share: float, evidence: float
) -> None:
    found = share_log_bayes_factor([inside], [outside], [share], beta_prior(share, 20, one_sided=True))
    assert found == pytest.approx(evidence, abs=1e-5)


@given(inside=st.integers(0, 300), outside=st.integers(0, 300), share=st.sampled_from([0.05, 0.1, 0.5]))
def test_guardrail_evidence_equals_its_closed_form(inside: int, outside: int, share: float) -> None:
    a, b = 20 * share, 20 * (1 - share)
    above = 1 - betainc(a + inside, b + outside, share), 1 - betainc(a, b, share)
    closed = betaln(a + inside, b + outside) - betaln(a, b) + log(max(above[0], 1e-300)) - log(above[1])
    closed -= inside * log(share) + outside * log(1 - share)
    found = share_log_bayes_factor([inside], [outside], [share], beta_prior(share, 20, one_sided=True))
    if above[0] > 1e-6:
        assert found == pytest.approx(closed, abs=1e-2)


@pytest.mark.parametrize(
    ("units", "share", "p_value"),
    [
        ((500, 600), 0.5, 0.053384),
        ((5050, 4950), 0.5, 6.14064),
        ((821588, 815482), 0.5, 0.00145556),
        ((9000, 1100), 0.9, 0.143253),
    ],
)
def test_the_sample_ratio_test_equals_the_dirichlet_multinomial_one(
    units: tuple[int, int], share: float, p_value: float
) -> None:
    prior = beta_prior(share, 100, one_sided=False)
    found = np.exp(-share_log_bayes_factor([units[0]], [units[1]], [share], prior))
    assert found == pytest.approx(p_value, rel=1e-5)


@pytest.mark.parametrize(
    "prior", [harm_prior(2, 0.25), harm_prior(5, 1), beta_prior(0.5, 100, one_sided=False)]
)
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_one_event_more_multiplies_the_evidence_by_one_on_average(prior: OddsPrior, share: float) -> None:
    """The martingale itself: from any past, under the null, whatever the next event's share."""
    for inside, outside in ((0, 0), (3, 11), (40, 60)):
        past = np.array([[inside, 0], [inside, 0]]), np.array([[outside, 0], [outside, 0]])
        now = past[0] + [[0, 1], [0, 0]], past[1] + [[0, 0], [0, 1]]
        shares = np.array([0.2, share])
        ratio = np.exp(
            share_log_bayes_factor(*now, shares, prior) - share_log_bayes_factor(*past, shares, prior)
        )
        assert share * ratio[0] + (1 - share) * ratio[1] == pytest.approx(1.0, abs=1e-9)


def test_evidence_of_steps_adds_up_in_one_test() -> None:
    prior = harm_prior(2, 0.25)
    whole = share_log_bayes_factor([30], [70], [0.1], prior)
    halves = share_log_bayes_factor([10, 20], [30, 40], [0.1, 0.1], prior)
    assert halves == pytest.approx(float(whole))


def test_the_variance_of_a_ratio_clusters_by_unit() -> None:
    rng = np.random.default_rng(7)
    n = rng.integers(1, 6, 400)
    y = rng.binomial(n, rng.beta(2, 2, 400))
    sums = RatioSums.of(y, n)
    e = (y - y.sum() / n.sum() * n) / n.mean()
    assert sums.ratio == pytest.approx(y.sum() / n.sum())
    assert sums.variance == pytest.approx(e.var(ddof=1) / 400)
    picks = rng.integers(0, 400, (2000, 400))
    assert sums.variance == pytest.approx((y[picks].sum(1) / n[picks].sum(1)).var(), rel=0.15)


def test_a_unit_without_requests_does_not_count() -> None:
    assert RatioSums.of([1, 0], [2, 0]).units == 1
    assert RatioSums.of([1], [2]).variance == np.inf


def test_the_design_effect_is_one_for_independent_events_and_the_unit_size_for_identical_ones() -> None:
    rng = np.random.default_rng(7)
    n = np.full(4000, 5)
    alone = RatioSums.of(rng.binomial(n, 0.1), n)
    alike = RatioSums.of(5 * rng.binomial(1, 0.1, 4000), n)
    assert design_effect((alone, alone)) == pytest.approx(1.0, abs=0.1)
    assert design_effect((alike, alike)) == pytest.approx(5.0, abs=0.1)


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [(55, 100, 0.4524, 0.6439), (550, 1000, 0.5190, 0.5806), (0, 0, 0, 1)],
)
def test_the_wilson_interval_equals_statsmodels(successes: int, trials: int, low: float, high: float) -> None:
    found = wilson_interval(successes, trials, confidence=0.95)
    assert found == pytest.approx((low, high), abs=5e-5)
