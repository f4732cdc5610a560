"""Group baselines turn by turn: a hand table, and what their expectation is, by enumeration."""

from __future__ import annotations

import functools
import itertools
from typing import Any

import numpy as np
import pytest
from letter_dialogue import letter_dialogue

from textrl_agents.sb3 import make_agent
from textrl_agents.sb3.own.policy_gradient import (
    GRPO,
    compared_by_turn,
    compared_in_group,
    group_relative,
    leave_one_out,
)
from textrl_env.errors import UnknownName
from textrl_env.trajectory import Trajectory


def episode(*turns: tuple[float, ...]) -> Trajectory:
    """Turns of so many actions, with these rewards."""
    rewards = np.concatenate([np.array(turn, dtype=float) for turn in turns])
    ids = np.arange(len(rewards) + 1)
    records = [{"tokens": len(turn)} for turn in turns]
    return Trajectory.of_response(ids[:1], ids[1:], rewards=rewards, turns=records)


def test_by_hand():
    """Three episodes of 2, 1 and 3 turns; returns from each turn on: (6, 3), (2), (10, 5, 4)."""
    group = [episode((1.0, 2.0), (3.0,)), episode((2.0,)), episode((5.0,), (0.0, 1.0), (4.0,))]
    found = compared_by_turn([group], leave_one_out)
    np.testing.assert_allclose(found[0].advantages, [0.0, 0.0, -2.0])  # 6 - (2 + 10) / 2; 3 - 5
    np.testing.assert_allclose(found[1].advantages, [-6.0])  # 2 - (6 + 10) / 2
    np.testing.assert_allclose(found[2].advantages, [6.0, 2.0, 2.0, 4.0])  # 10 - (6 + 2) / 2; 5 - 3; nobody else
    np.testing.assert_allclose(found[2].returns, [10.0, 5.0, 5.0, 4.0])
    relative = compared_by_turn([group], functools.partial(group_relative, scale=False))
    np.testing.assert_allclose(relative[2].advantages, [4.0, 1.0, 1.0, 0.0])  # 10 - 6; 5 - 4; 4 - 4


def test_single_responses_are_compared_as_ever():
    rng = np.random.default_rng(0)
    group = [Trajectory.of_response(np.zeros(1), np.zeros(n), rewards=rng.normal(size=n)) for n in (3, 1, 5)]
    for rule in (leave_one_out, group_relative):
        for one, other in zip(compared_by_turn([group], rule), compared_in_group([group], rule), strict=True):
            np.testing.assert_allclose(one.advantages, other.advantages)
            np.testing.assert_allclose(one.returns, other.returns)


# --- what they are in expectation --------------------------------------------------------------------------

# Turn 1 has three actions, the first of which ends the episode; the others lead to a turn 2 of three actions each.
FIRST = np.array([0.5, -0.3, 0.2])
SECOND = np.array([[0.4, 0.0, -0.6], [-0.2, 0.7, 0.1]])
PAID_FIRST, PAID_SECOND = np.array([1.0, 0.2, -0.5]), np.array([[2.0, 0.0, 1.0], [-1.0, 3.0, 0.5]])


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.exp(logits) / np.exp(logits).sum()


def episodes() -> list[tuple[float, Trajectory, list[np.ndarray]]]:
    """Each possible episode: its probability, its record, and grad log pi of each action, [9] logits."""
    found = []
    p = softmax(FIRST)
    for a in range(3):
        grad = np.zeros(9)
        grad[:3] = np.eye(3)[a] - p
        if a == 0:
            found.append((p[0], episode((PAID_FIRST[0],)), [grad]))
            continue
        q = softmax(SECOND[a - 1])
        for b in range(3):
            later = np.zeros(9)
            later[3 * a : 3 * a + 3] = np.eye(3)[b] - q
            found.append((p[a] * q[b], episode((PAID_FIRST[a],), (PAID_SECOND[a - 1, b],)), [grad, later]))
    return found


def expected_gradient(estimator: Any, size: int) -> np.ndarray:
    """Of the mean of `grad log pi * advantage` over a group of `size`, over all groups."""
    total = np.zeros(9)
    for group in itertools.product(episodes(), repeat=size):
        weight = np.prod([each[0] for each in group])
        estimates = estimator([[each[1] for each in group]])
        for (_, _, gradients), estimate in zip(group, estimates, strict=True):
            total += weight * (estimate.advantages[:, None] * np.array(gradients)).sum(0) / size
    return total


@functools.cache
def true_gradient() -> np.ndarray:
    """Of the expected return, by finite differences."""

    def value(logits: np.ndarray) -> float:
        p = softmax(logits[:3])
        later = [softmax(logits[3 * a : 3 * a + 3]) @ PAID_SECOND[a - 1] for a in (1, 2)]
        return float(p @ (PAID_FIRST + np.array([0.0, *later])))

    logits, h = np.concatenate([FIRST, *SECOND]), 1e-5
    return np.array([(value(logits + h * unit) - value(logits - h * unit)) / (2 * h) for unit in np.eye(9)])


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("compare", [compared_in_group, compared_by_turn])
def test_leave_one_out_is_unbiased(compare: Any, size: int):
    found = expected_gradient(functools.partial(compare, rule=leave_one_out), size)
    np.testing.assert_allclose(found, true_gradient(), atol=1e-9)


def test_what_a_mean_that_includes_the_episode_itself_costs():
    """For whole episodes it is (K - 1) / K of the gradient; by turn, late turns get less than that: documented."""
    wanted = true_gradient()
    mean = functools.partial(group_relative, scale=False)
    whole = expected_gradient(functools.partial(compared_in_group, rule=mean), 3)
    np.testing.assert_allclose(whole, wanted * 2 / 3, atol=1e-9)
    by_turn = expected_gradient(functools.partial(compared_by_turn, rule=mean), 3)
    np.testing.assert_allclose(by_turn[:3], wanted[:3] * 2 / 3, atol=1e-9)
    share = by_turn[3:] / wanted[3:]
    np.testing.assert_allclose(share, share[0], atol=1e-6)
    # n of 3 reach turn 2, each other one with probability r: E[(n - 1) / n].
    r = 1 - softmax(FIRST)[0]
    assert share[0] == pytest.approx(2 * r * (1 - r) / 2 + r * r * 2 / 3, abs=1e-6)
    scaled = expected_gradient(functools.partial(compared_by_turn, rule=group_relative), 3)
    cosine = scaled @ wanted / np.linalg.norm(scaled) / np.linalg.norm(wanted)
    assert 0.9 < cosine < 0.999


def test_an_agent_compares_by_turn():
    agent = make_agent(
        "rloo",
        env_kwargs={"task": letter_dialogue(), "device": "cpu", "group_size": 3},
        group_size=3,
        compare="turn",
        n_envs=6,
        n_steps=16,
        seed=0,
        progress=False,
    )
    agent.train = lambda: None
    agent.learn(96)
    buffer = agent.rollout_buffer
    assert buffer.has_batch
    wanted = compared_by_turn(
        [buffer.trajectories[start : start + 3] for start in range(0, len(buffer.trajectories), 3)], leave_one_out
    )
    advantages = np.concatenate([estimate.advantages for estimate in wanted])
    np.testing.assert_allclose(buffer.advantages, advantages, atol=1e-5)
    assert len(np.unique(advantages)) > len(buffer.trajectories)


def test_the_setting_is_checked():
    with pytest.raises(UnknownName, match=r"unknown compare 'turns'. Did you mean 'turn'"):
        GRPO("unused", None, compare="turns")
