"""Preference pairs within a budget, and the policy that samples them."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from textrl_agents.algorithms.cell import Cell
from textrl_agents.algorithms.cell_setup import initial_policy, training_env
from textrl_agents.algorithms.response_groups import collect_pairs, groups, pair_of, token_count
from textrl_env import TextGenVectorEnv
from textrl_env.errors import ConfigError
from textrl_env.tasks import Task
from textrl_env.trajectory import Trajectory


def response(score: float, name: str = "") -> Trajectory:
    ids = np.array([1])
    return Trajectory.of_response(ids, ids, response=name, finish_reason="eos", score=score, kl_coef=0.1)


def test_a_policy_starts_as_the_reference_in_weights_of_its_own(tiny_task: Task) -> None:
    env = training_env(Cell("x", "exact", 0, 1, device="cpu"), rows=2)
    policy, reference = initial_policy(env), env.kl_penalty.reference
    assert reference is not None
    pairs = list(zip(policy.model.parameters(), reference.lm.model.parameters(), strict=True))
    assert all(torch.equal(ours, theirs) and ours is not theirs and ours.requires_grad for ours, theirs in pairs)
    assert policy.max_length == env.rules.max_length


class TestPairs:
    def test_best_and_worst_and_the_first_of_equal_ones(self) -> None:
        group = [response(1, "a"), response(3, "b"), response(3, "c"), response(0, "d"), response(0, "e")]
        pair = pair_of(group)
        assert pair is not None
        assert (pair.chosen.response, pair.rejected.response) == ("b", "d")

    def test_equal_scores_are_no_pair(self) -> None:
        assert pair_of([response(1), response(1)]) is None

    def test_collected_within_the_budget(self, make_policy: Any) -> None:
        env = training_env(Cell("x", "exact", 0, 1, device="cpu"))
        points: list[tuple[int, list[Trajectory]]] = []
        collected = collect_pairs(
            initial_policy(env),
            env,
            np.random.default_rng(0),
            n=4,
            budget=3000,
            report=lambda tokens, sampled: points.append((tokens, sampled)),
        )
        assert abs(collected.tokens - 3000) < 60
        assert [tokens for tokens, _ in points] == list(
            itertools.accumulate(token_count(sampled) for _, sampled in points)
        )
        sampled_groups = [group for _, sampled in points for group in groups(sampled)]
        told_apart = [group for group in sampled_groups if len({one.score for one in group}) > 1]
        assert 0 < len(told_apart) < len(sampled_groups)
        assert len(collected.pairs) == len(told_apart)
        for pair, group in zip(collected.pairs, told_apart, strict=True):
            assert pair.chosen.prompt == pair.rejected.prompt
            scores = [one.score for one in group]
            assert (pair.chosen.score, pair.rejected.score) == (max(scores), min(scores))

    def test_a_reward_that_tells_nothing_apart(self, tiny_task: Task, make_policy: Any) -> None:
        def same(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
            return [1.0] * len(prompts)

        env = TextGenVectorEnv(4, tiny_task, autoreset_mode="SAME_STEP", kl_mode="deferred", reward=same)
        with pytest.raises(ConfigError, match=r"no pairs in \d+ tokens: the 2 responses to each prompt have equal"):
            collect_pairs(make_policy(), env, np.random.default_rng(0), n=2, budget=100)
