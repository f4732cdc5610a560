"""The learning rate's course, as SB3 calls it and as RLlib's points."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from textrl_agents.training.learning_rate import WarmupSchedule, default_learning_rate
from textrl_env.errors import ConfigError


@pytest.mark.parametrize(
    ("done", "rate"), [(0.0, 0.0), (0.05, 0.5), (0.1, 1.0), (0.55, 0.6), (1.0, 0.2)], ids=lambda value: str(value)
)
def test_the_course_by_hand(done: float, rate: float):
    """Up over the first tenth, then straight down to a fifth."""
    assert WarmupSchedule(3.0, warmup=0.1, final=0.2)(1.0 - done) == pytest.approx(3.0 * rate)


@pytest.mark.parametrize("beyond", [0.01, 0.3, 20.0])
def test_beyond_the_end_the_rate_stays(beyond: float):
    """A rollout is trained on whole, so that the last one may end beyond what was asked for: it was unlearned there."""
    assert WarmupSchedule(3.0, final=0.2)(-beyond) == pytest.approx(0.6)
    assert WarmupSchedule(3.0, final=0.0)(-beyond) == 0.0


def test_without_warmup_it_starts_at_the_peak():
    assert WarmupSchedule(2.0, warmup=0.0)(1.0) == 2.0


@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.5])
@pytest.mark.parametrize(("total", "first"), [(100_000, 2048), (1000, 10), (1000, 100), (1000, 900), (1000, 1)])
def test_points_are_the_course_at_their_places(total: int, first: int, warmup: float):
    """The first update has the rate that the course has at its place; from the bend on the two are the same line."""
    schedule = WarmupSchedule(1e-3, warmup=warmup)
    points = schedule.points(total, first)
    assert (points[0][0], points[-1][0]) == (0, total)
    assert all(earlier[0] < later[0] for earlier, later in itertools.pairwise(points))
    assert points[0][1] == pytest.approx(schedule(1 - first / total))
    for at, rate in points[1:]:
        assert rate == pytest.approx(schedule(1 - at / total))
    bend = points[-2][0]
    for at in np.linspace(bend, total, 7):
        between = np.interp(at, *np.array(points).T)
        assert between == pytest.approx(schedule(1 - at / total), rel=1e-6)


@pytest.mark.parametrize("total", [0, 1, 2, 3, 10, 1000, 10**9])
@pytest.mark.parametrize("first", [1, 2, 64, 5000])
@pytest.mark.parametrize("warmup", [0.0, 0.05, 0.9])
def test_corners_rise_and_no_update_is_done_at_rate_0(total: int, first: int, warmup: float):
    """RLlib takes rates at timesteps 0 (the first update), first, 2 * first, ...; degenerate runs included."""
    points = WarmupSchedule(1e-3, warmup=warmup).points(total, first)
    places, rates = np.array(points).T
    assert places[0] == 0, "RLlib asks for it"
    assert len(points) >= 2
    assert (np.diff(places) > 0).all()
    assert (rates > 0).all()
    assert rates.max() <= 1e-3
    peak = int(rates.argmax())
    assert (np.diff(rates[: peak + 1]) >= 0).all()
    assert (np.diff(rates[peak:]) <= 0).all()
    assert rates[-1] == pytest.approx(1e-4)


def test_a_run_shorter_than_its_first_update():
    assert WarmupSchedule(1.0, warmup=0.5).points(8, 64) == [[0, pytest.approx(1 - 0.9 * 0.75)], *_from(7)]


def _from(at: int) -> list[list[float]]:
    return [[at, pytest.approx(1 - 0.9 * 0.75)], [8, pytest.approx(0.1)]]


def test_rllib_follows_the_points():
    """RLlib's own scheduler, at and between the corners."""
    scheduler = pytest.importorskip("ray.rllib.utils.schedules.scheduler")
    points = WarmupSchedule(1e-2, warmup=0.1).points(1000, 50)
    assert points == [[0, pytest.approx(5e-3)], [100, pytest.approx(1e-2)], [1000, pytest.approx(1e-3)]]
    scheduler.Scheduler.validate(fixed_value_or_schedule=points, setting_name="lr", description="learning rate")
    course = scheduler.Scheduler(fixed_value_or_schedule=points, framework="torch")
    assert float(course.get_current_value()) == pytest.approx(5e-3)
    for at, rate in [(50, 7.5e-3), (100, 1e-2), (550, 5.5e-3), (1000, 1e-3), (5000, 1e-3)]:
        assert float(course.update(timestep=at)) == pytest.approx(rate)


@pytest.mark.parametrize(
    "arguments", [{"peak": -1.0}, {"peak": float("nan")}, {"warmup": 1.0}, {"warmup": -0.1}, {"final": 1.5}]
)
def test_what_cannot_be_a_course(arguments: dict[str, float]):
    with pytest.raises(ConfigError, match=r"need peak >= 0, 0 <= warmup < 1, 0 <= final <= 1; got"):
        WarmupSchedule(**{"peak": 1.0, **arguments})


def test_the_default_falls_with_the_size():
    assert default_learning_rate(10**6) == pytest.approx(1e-3)
    assert default_learning_rate(10**10) == pytest.approx(1e-5)
    assert default_learning_rate(0) == default_learning_rate(1)


def test_settings_name_a_peak_or_scale_the_default():
    assert WarmupSchedule.of(None, 10**6).peak == WarmupSchedule.of({}, 10**6).peak == pytest.approx(1e-3)
    scaled = WarmupSchedule.of({"scale": 0.5, "warmup": 0.2}, 10**8)
    assert (scaled.peak, scaled.warmup, scaled.final) == (pytest.approx(5e-5), 0.2, 0.1)
    assert WarmupSchedule.of({"peak": 3e-3, "final": 0.0}, 10**8).peak == 3e-3


@pytest.mark.parametrize("arguments", [{"peak": 1e-3, "scale": 0.5}, {"peek": 1e-3}, {"scale": "half"}])
def test_settings_that_cannot_be_read(arguments: dict):
    with pytest.raises(ConfigError, match=r"takes either peak or scale, and warmup and final; got \['"):
        WarmupSchedule.of(arguments, 10**6)
