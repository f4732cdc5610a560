"""REINFORCE, RLOO and GRPO: their advantages by hand, and whole responses out of rollouts that cut them anywhere."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from conftest import quick
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

from textrl_agents.sb3 import TextVecEnv, make_agent
from textrl_agents.sb3.own.policy_gradient import GRPO, REINFORCE, RLOO, group_relative, leave_one_out, reward_to_go
from textrl_agents.sb3.policy import CausalLMPolicy
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
            batch["sequences"] = [(tuple(each.ids), len(each.ids) - len(each)) for each in buffer.trajectories]
            names = ("values", "log_probs", "advantages", "returns")
            batch |= dict(zip(names, buffer._columns, strict=True))
        seen.append(batch)
        original()

    agent.train = train
    agent.learn(rollouts * agent.n_steps * agent.n_envs)
    return seen


@pytest.mark.parametrize("n_steps", quick([7], [2, 7, 20]))
@pytest.mark.parametrize(("algo", "size"), quick([("grpo", 3)], [("reinforce", 1), ("rloo", 2), ("grpo", 3)]))
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
@pytest.mark.slow
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


def test_reinforce_weighs_older_tokens_by_their_ratio():
    """Responses that span rollouts have tokens of earlier policies. The gradient of an update is that of
    `ratio * advantage * log pi` with advantages normalised over all tokens, computed here by hand."""
    settings = {"n_envs": 8, "n_steps": 3, "learning_rate": 3e-2, "vf_coef": 0.0, "max_grad_norm": 1e9, "seed": 0}
    agent = make_agent("reinforce", env_kwargs={"task": "exact"}, **settings)
    core, checked, older = agent.policy.actor_critic, [], []
    original, weight = agent.train, agent.policy.actor_critic.model.lm_head.weight

    def train() -> None:
        if not agent.rollout_buffer.has_batch:
            return
        (data,) = agent.rollout_buffer.get(None)
        log_probs = core.evaluate(data.observations, data.actions).log_probs
        ratio = (log_probs.detach() - data.old_log_prob).exp()
        advantages = (data.advantages - data.advantages.mean()) / (data.advantages.std() + 1e-8)
        (expected,) = torch.autograd.grad(-(ratio * advantages * log_probs).mean(), weight)
        original()
        torch.testing.assert_close(weight.grad, expected, atol=1e-6, rtol=1e-4)
        older.append(float(((ratio - 1).abs() > 1e-3).float().mean()))
        checked.append(float((ratio - 1).abs().max()))

    agent.train = train
    agent.learn(12 * 24)
    assert len(checked) > 8
    assert np.mean(older) > 0.2, "hardly any token is of an earlier policy: shows nothing"
    assert max(checked) > 0.05


def test_reinforce_takes_no_setting_that_it_would_not_use():
    with pytest.raises(ConfigError, match="unknown argument of reinforce 'clip_range'"):
        make_agent("reinforce", env_kwargs={"task": "exact"}, clip_range=0.1)


@pytest.mark.parametrize(("algo", "normalized"), [("rloo", False), ("grpo", False), ("reinforce", True)])
def test_the_scale_of_compared_advantages_is_meant(algo: str, normalized: bool):
    """The first update's gradient, by hand, from advantages as they are: dividing by their deviation is another
    algorithm. (At ratio 1 the clipped loss has the gradient of `advantage * log pi`.)"""
    group = {"group_size": 4} if algo != "reinforce" else {}
    agent = make_agent(
        algo, env_kwargs={"task": "exact"}, n_envs=8, n_steps=12, learning_rate=0.0, max_grad_norm=1e9, seed=0, **group
    )
    agent.batch_size = agent.n_steps * agent.n_envs  # one minibatch
    agent.vf_coef = 0.0
    core, weight, gradients = agent.policy.actor_critic, agent.policy.actor_critic.model.lm_head.weight, []
    original = agent.train

    def train() -> None:
        if agent.rollout_buffer.has_batch and not gradients:
            (data,) = agent.rollout_buffer.get(None)
            log_probs = core.evaluate(data.observations, data.actions).log_probs
            scaled = (data.advantages - data.advantages.mean()) / (data.advantages.std() + 1e-8)
            losses = [-(advantages * log_probs).mean() for advantages in (data.advantages, scaled)]
            gradients.extend(torch.autograd.grad(loss, weight, retain_graph=True)[0] for loss in losses)
            original()
            gradients.append(weight.grad.clone())

    agent.train = train
    agent.learn(3 * 96)
    raw, scaled, got = gradients
    assert not torch.allclose(raw, scaled, rtol=0.2), "both are alike: shows nothing"
    torch.testing.assert_close(got, scaled if normalized else raw, atol=1e-6, rtol=1e-3)


class _Stop(BaseCallback):
    """Breaks a rollout off after so many steps."""

    def __init__(self, steps: int):
        super().__init__()
        self.steps = steps

    def _on_step(self) -> bool:
        self.steps -= 1
        return self.steps > 0


def responses_of(env: TextVecEnv) -> list[tuple[int, ...]]:
    """Notes every response that ends from here on, by the environment's own record."""
    ended: list[tuple[int, ...]] = []
    original = env.step_wait

    def noting() -> Any:
        result = original()
        ended.extend(tuple(episode.response_ids.tolist()) for _, episode in env.env.transition.episodes)
        return result

    env.step_wait = noting  # type: ignore[method-assign]
    return ended


@pytest.mark.parametrize("stopped_at", quick([2], [1, 2, 3]))
@pytest.mark.parametrize(("algo", "size"), quick([("rloo", 2)], [("reinforce", 1), ("rloo", 2)]))
def test_a_rollout_that_was_broken_off_costs_the_responses_that_it_held(algo: str, size: int, stopped_at: int):
    """A stop in mid-rollout loses what that rollout had sampled. What is left of the responses is not trained on, over
    however many rollouts they go on: later rewards would be put on earlier tokens, or a part taken for the whole."""
    arguments = {"group_size": size} if size > 1 else {}
    env_kwargs = {"task": "sentiment", "device": "cpu"}
    agent = make_agent(algo, env_kwargs=env_kwargs, n_envs=8, n_steps=4, learning_rate=0.0, seed=0, **arguments)
    agent.learn(10_000, callback=_Stop(4 + stopped_at))
    prompts = {tuple(prompt.ids.tolist()) for prompt in agent.env.env.prompts}
    trained: list[tuple[int, ...]] = []
    ended = responses_of(agent.env)

    def train() -> None:
        buffer = agent.rollout_buffer
        if not buffer.has_batch:
            return
        assert len(buffer.advantages) == sum(map(len, buffer.trajectories))
        for each in buffer.trajectories:
            assert tuple(each.ids[~each.is_action].tolist()) in prompts
            trained.append(tuple(each.response_ids.tolist()))

    agent.train = train
    agent.learn(8 * 4 * 25, reset_num_timesteps=False)
    assert len(trained) > 10
    assert not Counter(trained) - Counter(ended), "trained on what no episode was"
    assert size > 1 or len(ended) - len(trained) == 8  # one response of each row


def test_a_second_learn_trains_on_its_first_responses_too():
    """Its environment counts its steps anew: that is no rollout that was broken off."""
    agent = make_agent("reinforce", env_kwargs={"task": "exact"}, **LEARNING)
    agent.learn(84)
    seen = batches(agent, 4)
    trained = [ids for batch in seen for ids, _ in batch["sequences"]]
    ended = [(episode.prompt, *episode.response_ids.tolist()) for batch in seen for episode in batch["episodes"]]
    assert len(ended) > LEARNING["n_envs"]
    assert sorted(trained) == sorted(({"a": 0, "c": 2}[prompt], *response) for prompt, *response in ended)


def test_a_checkpoint_tells_which_responses_have_lost_tokens():
    agent = make_agent("reinforce", env_kwargs={"task": "exact"}, **{**LEARNING, "n_steps": 2})
    agent.learn(10_000, callback=_Stop(3))
    agent.learn(12, reset_num_timesteps=False)
    buffer, env = agent.rollout_buffer, agent.env
    assert any(len(open_one) < env.env._mdp.counts[row] for row, (open_one, _) in buffer.accounts._open.items())
    state = buffer.state_dict()
    buffer.accounts._open.clear()
    buffer.load_state_dict(state)
    ended, trained = responses_of(env), []
    agent.train = lambda: trained.extend(tuple(each.response_ids.tolist()) for each in buffer.trajectories)
    agent.learn(120, reset_num_timesteps=False)
    assert len(trained) > 10
    assert not Counter(trained) - Counter(ended), "trained on what no response was"
    assert len(trained) < len(ended)


def test_they_are_sb3_algorithms_and_can_be_wired_by_hand():
    assert all(issubclass(kind, PPO) for kind in (REINFORCE, RLOO, GRPO))
    env = TextVecEnv(num_envs=4, task="exact", group_size=2)
    policy_kwargs = _exact_policy(env)
    agent = GRPO(CausalLMPolicy, env, group_size=2, n_steps=8, batch_size=16, gamma=1.0, policy_kwargs=policy_kwargs)
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
    from textrl_agents.algorithms.registry import get_algorithm
    from textrl_env.tasks.enumeration import ExactValue

    agent = make_agent(algo, env_kwargs={"task": "exact"}, seed=0, **get_algorithm(algo).settings_for("exact"))
    exact = ExactValue(agent.env.env.rules, agent.env.env.prompts)
    agent.learn(51_200)
    assert exact.normalized(agent.policy.actor_critic) > 0.7
