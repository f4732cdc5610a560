"""Definitions of the benchmark's statistics, against values computed by hand."""

import numpy as np
import pytest

from textrl_agents.reports.statistics import (
    bootstrap_interval,
    improvement_interval,
    interquartile_mean,
    iqms,
    mean_interval,
    normalize,
    performance_profile,
    probability_of_improvement,
    profiles,
    student_t_quantile,
)
from textrl_env.errors import ConfigError


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ([8, 1, 7, 2, 6, 3, 5, 100], 5.25),  # two go at each end: (3 + 5 + 6 + 7) / 4
        ([100, 1, 2, 3, -50], 2.0),  # a quarter of 5 is 1.25: one goes at each end, as in scipy.stats.trim_mean
        ([1, 2, 30], 11.0),  # a quarter of 3 is less than one: none goes
        ([4], 4.0),
        ([[0, 10], [1, 11], [2, 12], [3, 13]], 6.5),  # pooled: (2 + 3 + 10 + 11) / 4, not a mean of task means
    ],
)
def test_interquartile_mean_by_hand(scores, expected):
    assert interquartile_mean(scores) == pytest.approx(expected)


def test_probability_of_improvement_by_hand():
    x = [[1.0, 5.0], [3.0, 5.0]]
    y = [[2.0, 5.0], [3.0, 6.0], [0.0, 5.0]]
    # Task 0: 1 is above 0 alone (1), 3 is above 2 and 0 and ties with 3 (2.5): 3.5 of 6 pairs.
    # Task 1: two ties and one below, twice: (0.5 + 0 + 0.5) * 2 = 2 of 6 pairs.
    assert probability_of_improvement(x, y) == pytest.approx((3.5 / 6 + 2 / 6) / 2)
    assert probability_of_improvement(y, x) == pytest.approx(1 - (3.5 / 6 + 2 / 6) / 2)
    assert probability_of_improvement(x, x) == 0.5


def test_profile_is_the_share_strictly_above_the_threshold():
    scores = [[0.0, 1.0], [0.5, 1.0]]
    assert performance_profile(scores, [-1.0, 0.0, 0.25, 0.5, 1.0]) == pytest.approx([1.0, 0.75, 0.75, 0.5, 0.0])


def test_normalize_by_hand():
    assert normalize([2.0, 3.0, 7.0], zero=2.0, one=6.0) == pytest.approx([0.0, 0.25, 1.25])


@pytest.mark.parametrize(
    ("degrees", "expected"),  # two-sided 95% quantiles as tables print them
    [(1, 12.7062), (2, 4.30265), (3, 3.18245), (4, 2.77645), (9, 2.26216), (30, 2.04227), (120, 1.97993)],
)
def test_student_quantile_is_the_tables(degrees, expected):
    assert student_t_quantile(degrees) == pytest.approx(expected, rel=1e-5)


def test_mean_interval_by_hand():
    # Mean 2, standard deviation 1: 2 +- 4.30265 / sqrt(3).
    assert mean_interval([1.0, 2.0, 3.0]) == pytest.approx((2 - 2.484138, 2 + 2.484138), abs=1e-5)


def test_mean_interval_of_three_values_holds_the_truth_in_95_percent():
    rng = np.random.default_rng(0)
    intervals = [mean_interval(rng.normal(size=3)) for _ in range(2_000)]
    # A normal quantile in place of Student's holds it in 81%.
    assert np.mean([low <= 0 <= high for low, high in intervals]) == pytest.approx(0.95, abs=0.015)


def test_resampling_stays_within_each_task():
    """Tasks on different levels without any spread: pooled resampling would give anything between 0 and 10."""
    scores = np.tile([0.0, 10.0], (5, 1))
    low, high = bootstrap_interval(lambda drawn: drawn.mean(axis=(1, 2)), scores, rng=0, repetitions=500)
    assert (low, high) == (5.0, 5.0)


def test_each_task_is_resampled_on_its_own():
    """Each row's mean is 0.5, so that drawing whole rows would give an interval without width."""
    scores = [[0.0, 1.0], [1.0, 0.0]] * 4
    low, high = bootstrap_interval(lambda drawn: drawn.mean(axis=(1, 2)), scores, rng=0, repetitions=2_000)
    # The mean of 16 independent draws of 0 or 1 has a standard deviation of 0.125.
    assert high - low == pytest.approx(2 * 1.96 * 0.125, abs=0.07)


def test_bootstrap_of_few_values_has_their_exact_distribution():
    """Of two runs, 0 and 1, the mean is 0, 0.5 and 1 in 25, 50 and 25% of resamples."""
    means: list[np.ndarray] = []

    def mean(drawn):
        means.append(drawn.mean(axis=(1, 2)))
        return means[-1]

    bootstrap_interval(mean, [[0.0], [1.0]], rng=0, repetitions=20_000)
    values, counts = np.unique(np.concatenate(means), return_counts=True)
    assert values.tolist() == [0.0, 0.5, 1.0]
    assert counts / 20_000 == pytest.approx([0.25, 0.5, 0.25], abs=0.015)


def test_interval_of_the_iqm_holds_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(1)
    held = []
    for _ in range(300):
        low, high = bootstrap_interval(iqms, rng.normal(size=(10, 3)), rng=rng, repetitions=400)
        held.append(low <= 0 <= high)
    assert 0.89 <= np.mean(held) <= 0.98


def test_interval_of_improvement_is_about_its_value_and_narrows_with_runs():
    rng = np.random.default_rng(2)
    widths = []
    for runs in (5, 80):
        x, y = rng.normal(0.5, size=(runs, 2)), rng.normal(size=(runs + 1, 2))
        low, high = improvement_interval(x, y, rng=0, repetitions=1_000)
        assert low <= probability_of_improvement(x, y) <= high
        widths.append(high - low)
    # Four times the runs halve it; sixteen times, quarter it.
    assert widths[1] < widths[0] / 2.5


def test_improvement_draws_both_sides_independently():
    """The same runs on both sides are a tie of every run with itself, and of nothing else."""
    x = np.arange(6.0)[:, None]
    low, high = improvement_interval(x, x, rng=0, repetitions=1_000)
    assert low < 0.4
    assert high > 0.6


def test_profile_interval_is_pointwise_and_in_bounds():
    scores = np.random.default_rng(3).uniform(size=(8, 2))
    taus = np.array([-0.1, 0.5, 1.0])
    interval = bootstrap_interval(lambda drawn: profiles(drawn, taus), scores, rng=0, repetitions=500)
    assert interval.shape == (2, 3)
    assert interval[:, 0].tolist() == [1.0, 1.0]
    assert interval[:, 2].tolist() == [0.0, 0.0]
    assert interval[0, 1] < performance_profile(scores, taus)[1] < interval[1, 1]


def test_one_seed_gives_one_interval():
    scores = np.random.default_rng(4).normal(size=(5, 2))
    first, again, other = (bootstrap_interval(iqms, scores, rng=rng) for rng in (7, np.random.default_rng(7), 8))
    assert first.tolist() == again.tolist() != other.tolist()


def test_a_draw_in_which_a_statistic_has_no_value_does_not_count():
    """Of two runs, 0 and 1, the draws without any 1 have no value; the others have means of 0.5 and 1."""

    def positive(drawn):
        means = drawn.mean(axis=(1, 2))
        return np.where(means > 0, means, np.nan)

    assert bootstrap_interval(positive, [[0.0], [1.0]], rng=0).tolist() == [0.5, 1.0]
    drawn = np.array([[[1.0], [2.0]], [[1.0], [np.nan]]])
    assert iqms(drawn).tolist()[0] == 1.5
    assert np.isnan(iqms(drawn)[1])
    shares = profiles(drawn, np.array([0.0, 1.5]))
    assert shares[0].tolist() == [1.0, 0.5]
    assert np.isnan(shares[1]).all()


def test_batches_of_resamples_are_all_counted():
    """Of so many scores that they are resampled in several batches."""
    sizes: list[int] = []

    def mean(drawn):
        sizes.append(len(drawn))
        return drawn.mean(axis=(1, 2))

    bootstrap_interval(mean, np.zeros((1_000, 3)), rng=0, repetitions=1_500)
    assert sum(sizes) == 1_500
    assert len(sizes) > 1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: interquartile_mean([]), "at least one number"),
        (lambda: interquartile_mean([1.0, float("nan")]), "1 of 2 are NaN or infinite"),
        (lambda: interquartile_mean(["a"]), "rectangular array of numbers"),
        (
            lambda: bootstrap_interval(iqms, [[1.0, 2.0], [3.0]], rng=0),
            "rectangular array of numbers, with as many runs",
        ),
        (lambda: bootstrap_interval(iqms, [1.0, 2.0], rng=0), r"\[runs, tasks\], got one of shape \(2,\)"),
        (
            lambda: bootstrap_interval(iqms, [[1.0]], rng=0, repetitions=0),
            "repetitions must be a whole number >= 1, got 0",
        ),
        (lambda: bootstrap_interval(iqms, [[1.0]], rng=0, confidence=95), "between 0 and 1, such as 0.95; got 95"),
        (lambda: bootstrap_interval(np.mean, rng=0), "at least one array"),
        (lambda: probability_of_improvement([[1.0, 2.0]], [[1.0]]), "same tasks: x has 2 of them, y 1"),
        (lambda: probability_of_improvement([[1.0]], [[float("inf")]]), "y must be finite"),
        (lambda: performance_profile([[1.0]], [[0.5]]), "taus must be a list"),
        (lambda: performance_profile([[1.0]], []), "taus must hold at least one number"),
        (lambda: normalize([1.0], 2.0, 2.0), "one > zero, got zero=2.0 and one=2.0"),
        (lambda: mean_interval([1.0]), "at least two values, got 1"),
        (lambda: student_t_quantile(0), "at least 1, got 0"),
    ],
)
def test_refusals_say_what_was_got(call, message):
    with pytest.raises(ConfigError, match=message):
        call()
