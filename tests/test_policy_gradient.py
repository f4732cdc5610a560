"""REINFORCE, RLOO and GRPO: their advantages by hand, and whole responses out of rollouts that cut them anywhere."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO

from textrl_agents.sb3 import TextVecEnv, make_agent
from textrl_agents.sb3.advantages import group_relative, leave_one_out, reward_to_go
from textrl_agents.sb3.policy import CausalLMPolicy
from textrl_agents.sb3.policy_gradient import GRPO, REINFORCE, RLOO
from textrl_env.errors import ConfigError

LEARNING = {"n_envs": 6, "n_steps": 7, "learning_rate": 0.0, "seed": 0}


def test_rewards_to_go_by_hand():
    np.testing.assert_allclose(reward_to_go(np.array([1.0, -0.5, 2.0])), [2.5, 1.5, 2.0])


def test_leave_one_out_by_hand():
    """Ahmadian et al. 2024: r_i minus the mean of the others."""
    got = leave_one_out(np.array([[1.0, 2.0, 6.0], [0.0, 0.0, 3.0]]))
    np.testing.assert_allclose(got, [[1 - 4, 2 - 3.5, 6 - 1.5], [-1.5, -1.5, 3.0]])


def test_group_relative_by_hand():
    """Shao et al. 2024: (r - mean) / std; a group whose responses are all alike teaches nothing."""
    returns = np.array([[1.0, 3.0], [2.0, 2.0]])
    got = group_relative(returns, epsilon=0.0 + 1e-12)
    np.testing.assert_allclose(got, [[-(0.5**0.5), 0.5**0.5], [0.0, 0.0]], atol=1e-9)
    np.testing.assert_allclose(group_relative(returns, scale=False), [[-1.0, 1.0], [0.0, 0.0]])


def batches(agent: Any, rollouts: int) -> list[dict[str, Any]]:
    """What each rollout gave to train on, and all that was sampled."""
    seen: list[dict[str, Any]] = []
    original = agent.train

    def train() -> None:
        buffer = agent.rollout_buffer
        batch: dict[str, Any] = {"episodes": list(buffer.episodes), "sequences": []}
        if buffer.has_batch:
            firsts = buffer._first_actions.tolist()
            batch["sequences"] = [(tuple(ids), first) for ids, first in zip(buffer._sequences, firsts, strict=True)]
            names = ("values", "log_probs", "advantages", "returns")
            batch |= dict(zip(names, buffer._columns, strict=True))
        seen.append(batch)
        original()

    agent.train = train
    agent.learn(rollouts * agent.n_steps * agent.n_envs)
    return seen


@pytest.mark.parametrize("n_steps", [2, 7, 20])
@pytest.mark.parametrize(("algo", "size"), [("reinforce", 1), ("rloo", 2), ("grpo", 3)])
def test_every_response_is_trained_on_once_and_whole(algo: str, size: int, n_steps: int):
    """Responses are compared with an independent list: the episodes that ended, in groups of `size`."""
    arguments = {"group_size": size} if size > 1 else {}
    agent = make_agent(algo, env_kwargs={"task": "exact"}, **{**LEARNING, "n_steps": n_steps}, **arguments)
    seen = batches(agent, 60 // n_steps)
    trained = [sequence for batch in seen for sequence in batch["sequences"]]
    ended = [episode for batch in seen for episode in batch["episodes"]]
    prompts = {"a": 0, "c": 2}
    groups: dict[Any, list[tuple[int, ...]]] = {}
    for place, episode in enumerate(ended):
        group = place if episode.group is None else episode.group
        groups.setdefault(group, []).append((prompts[episode.prompt], *episode.response_ids.tolist()))
    expected = [ids for responses in groups.values() if len(responses) == size for ids in responses]
    assert sorted(ids for ids, _ in trained) == sorted(expected)
    assert {first for _, first in trained} == {1}
    assert len(ended) - len(trained) <= LEARNING["n_envs"] + size


def test_advantages_are_those_of_the_returns_with_the_kl():
    """The sum of a response's rewards is score - kl_coef * kl, and RLOO's advantage compares exactly these."""
    agent = make_agent("rloo", env_kwargs={"task": "exact"}, group_size=2, **LEARNING)
    with torch.no_grad():  # a policy away from its reference, or the KL would be 0
        for weight in agent.policy.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(1)))
    groups: dict[int, list[float]] = {}
    charged = 0.0
    for batch in batches(agent, 12):
        for episode in batch["episodes"]:
            groups.setdefault(episode.group, []).append(episode.score - episode.kl_coef * episode.kl_sum)
            charged += abs(episode.kl_sum)
        if not batch["sequences"]:
            continue
        counts = [len(ids) - first for ids, first in batch["sequences"]]
        starts = np.cumsum(counts) - counts
        got = batch["advantages"][starts]
        np.testing.assert_allclose(batch["advantages"], np.repeat(got, counts))  # one for the whole response
        returns = batch["returns"][starts].reshape(-1, 2)
        np.testing.assert_allclose(got.reshape(-1, 2), np.stack([returns[:, 0] - returns[:, 1]] * 2, 1) * [1, -1])
        known = {round(value, 4) for values in groups.values() for value in values}
        assert {round(float(value), 4) for value in returns.flat} <= known | {-0.0}
    assert charged > 1.0


def test_reinforce_learns_from_the_reward_to_go_minus_its_baseline():
    agent = make_agent("reinforce", env_kwargs={"task": "exact"}, **LEARNING)
    with torch.no_grad():
        agent.policy.actor_critic.value_head.bias.fill_(0.7)
    batch = next(batch for batch in batches(agent, 3) if batch["sequences"])
    np.testing.assert_allclose(batch["advantages"], batch["returns"] - batch["values"], atol=1e-6)
    np.testing.assert_allclose(batch["values"], 0.7, atol=1e-5)


@pytest.mark.parametrize("algo", ["reinforce", "rloo", "grpo"])
def test_the_first_ratio_is_1_over_cut_responses(algo: str):
    """CHECKS 26: the log-probabilities of a response that took several rollouts are those it was sampled with."""
    agent = make_agent(algo, env_kwargs={"task": "sentiment"}, n_envs=8, n_steps=10, learning_rate=0.0, seed=0)
    worst, count = 0.0, 0
    original = agent.train

    def train() -> None:
        nonlocal worst, count
        if agent.rollout_buffer.has_batch:
            for data in agent.rollout_buffer.get(None):
                _, log_probs, _ = agent.policy.evaluate_actions(data.observations, data.actions)
                worst = max(worst, float((log_probs - data.old_log_prob).detach().abs().max()))
                count += len(data.actions)
        original()

    agent.train = train
    agent.learn(14 * 80)
    assert count > 200
    assert worst < 1e-5


def test_they_are_sb3_algorithms_and_can_be_wired_by_hand():
    assert issubclass(REINFORCE, A2C)
    assert issubclass(RLOO, PPO)
    env = TextVecEnv(num_envs=4, task="exact", group_size=2)
    policy_kwargs = _exact_policy(env)
    agent = GRPO(CausalLMPolicy, env, group_size=2, n_steps=8, batch_size=16, gamma=1.0, policy_kwargs=policy_kwargs)
    agent.rollout_buffer.bind(env, agent.policy)
    agent.learn(64)
    assert agent._n_updates > 0


def _exact_policy(env: TextVecEnv) -> dict[str, Any]:
    return {"model": env.env.kl_penalty.reference.lm.model, "tokenizer": env.env.tokenizer}


def test_group_sizes_that_cannot_work():
    with pytest.raises(ConfigError, match="group_size must be a whole number >= 2"):
        make_agent("rloo", group_size=1)
    built = TextVecEnv(num_envs=4, task="exact", group_size=4)
    with pytest.raises(ConfigError, match=r"compares 8 responses.*serves groups of 4.*group_size=8"):
        make_agent("grpo", built, n_steps=4)


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["reinforce", "rloo", "grpo"])
def test_they_learn(algo: str):
    """CHECKS 30, a short run: most of the way to the known optimum. The benchmark runs to its end."""
    from textrl_agents.benchmark.registry import get_algorithm
    from textrl_env.tasks.enumeration import ExactValue

    agent = make_agent(algo, env_kwargs={"task": "exact"}, seed=0, **get_algorithm(algo).settings_for("exact"))
    exact = ExactValue(agent.env.env.rules, agent.env.env.prompts)
    agent.learn(51_200)
    assert exact.normalized(agent.policy.actor_critic) > 0.7
