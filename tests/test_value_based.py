"""DQN and QR-DQN on episodes, and the tables: their batches against an oracle, their values against known ones."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from sb3_contrib import QRDQN
from stable_baselines3 import DQN
from suffixes import pack_suffixes

from textrl_agents.algorithms.registry import get_algorithm
from textrl_agents.sb3 import make_agent
from textrl_agents.sb3.buffers.replay_buffer import EpisodeReplayBuffer
from textrl_agents.sb3.own.tabular import TabularPolicy
from textrl_agents.sb3.policy import IMPOSSIBLE
from textrl_env.errors import ConfigError, UnknownName
from textrl_env.tasks import Task
from textrl_env.tasks.enumeration import ExactValue

LENGTH = 6
SPACE = gymnasium.spaces.Box(-1, 9, (LENGTH,), np.int64)


def observation(*ids: int) -> np.ndarray:
    return np.array([*ids, *[-1] * (LENGTH - len(ids))])


def filled(capacity: int = 100) -> EpisodeReplayBuffer:
    """Row 0: the episode 1 | 2 3 that is over, then 4 | 5 going on. Row 1: 1 6 | 7 8 9, going on."""
    buffer = EpisodeReplayBuffer(capacity, SPACE, gymnasium.spaces.Discrete(10), n_envs=2)
    steps = [
        # (observations, actions, rewards, dones)
        ([observation(1), observation(1, 6)], [2, 7], [0.1, 1.1], [False, False]),
        ([observation(1, 2), observation(1, 6, 7)], [3, 8], [0.2, 1.2], [True, False]),
        ([observation(4), observation(1, 6, 7, 8)], [5, 9], [0.3, 1.3], [False, False]),
    ]
    for obs, actions, rewards, dones in steps:
        obs, dones = np.array(obs), np.array(dones)
        buffer.add(obs, obs, np.array(actions), np.array(rewards), dones, [{}, {}])
    return buffer


# state -> (action, reward, done, next state)
TRANSITIONS = {
    (1,): (2, 0.1, 0, (1, 2)),
    (1, 2): (3, 0.2, 1, None),
    (4,): (5, 0.3, 0, (4, 5)),
    (1, 6): (7, 1.1, 0, (1, 6, 7)),
    (1, 6, 7): (8, 1.2, 0, (1, 6, 7, 8)),
    (1, 6, 7, 8): (9, 1.3, 0, (1, 6, 7, 8, 9)),
}


def test_samples_are_the_transitions_that_were_added():
    buffer = filled()
    assert buffer.size() == 6
    seen = set()
    for _ in range(50):
        data = buffer.sample(4)
        states, following = data.observations, data.next_observations
        assert len(data.actions) == len(states) == 4
        for m in range(4):
            ids = states.input_ids[states.rows[m]].tolist()
            state = tuple(ids[: int(states.columns[m]) + 1])
            action, reward, done, after = TRANSITIONS[state]
            assert (int(data.actions[m]), int(data.dones[m])) == (action, done)
            assert float(data.rewards[m]) == pytest.approx(reward)
            if not done:
                assert tuple(ids[: int(following.columns[m]) + 1]) == after
            seen.add(state)
    assert seen == set(TRANSITIONS)


@pytest.mark.parametrize("batch_size", [5, 21])
def test_every_transition_is_as_likely_as_any_other(batch_size: int):
    """Twenty episodes of one step and twenty of twenty, and batches that cut them anywhere. The actions count the
    transitions. An episode that is not over counts as any other."""
    short, long, count = 20, 20, 20
    space = gymnasium.spaces.Box(-1, 999, (long + 2,), np.int64)
    buffer = EpisodeReplayBuffer(10_000, space, gymnasium.spaces.Discrete(1000), n_envs=1)
    lengths = [1] * short + [long] * count
    action = 0
    for number, length in enumerate(lengths):
        ids = [999]
        for step in range(length):
            obs = np.full((1, long + 2), -1)
            obs[0, : len(ids)] = ids
            over = step == length - 1 and number < len(lengths) - 1
            buffer.add(obs, obs, np.array([action]), np.zeros(1), np.array([over]), [{}])
            ids.append(action)
            action += 1
    np.random.seed(0)
    draws = 2_500
    seen = np.concatenate([buffer.sample(batch_size).actions[:, 0].numpy() for _ in range(draws)])
    counts = np.bincount(seen, minlength=action) / len(seen) * action
    assert counts[:short].mean() == pytest.approx(1.0, abs=0.12)  # of episodes of one step: 420 transitions are 1
    by_step = counts[short:].reshape(count, long).mean(axis=0)
    np.testing.assert_allclose(by_step, 1.0, atol=0.12)  # first steps, last steps and those between
    after_the_first_long_one = seen[1:][seen[:-1] == short + long - 1]
    assert len(set(after_the_first_long_one.tolist())) > 10, "episodes come in an order of their own"


def test_the_oldest_episodes_that_are_over_make_room():
    assert filled(capacity=2).size() == 6, "as many as it may hold"
    buffer = filled(capacity=1)
    assert buffer.size() == 4  # those that go on stay
    assert not any(float(reward) == pytest.approx(0.1) for _ in range(20) for reward in buffer.sample(4).rewards)


def test_a_reset_in_between_begins_another_episode():
    buffer = filled()
    obs = np.array([observation(2, 2, 2), observation(1, 6, 7, 8, 9)])
    buffer.add(obs, obs, np.array([1, 1]), np.zeros(2), np.array([False, False]), [{}, {}])
    assert [int(each.trajectory.is_action.argmax()) for each in buffer._episodes()[1:]] == [3, 2]


def test_buffers_that_cannot_work():
    empty = EpisodeReplayBuffer(10, SPACE, gymnasium.spaces.Discrete(10), n_envs=2)
    with pytest.raises(ConfigError, match="replay buffer is empty"):
        empty.sample(2)
    with pytest.raises(ConfigError, match="stores each token once"):
        EpisodeReplayBuffer(10, SPACE, gymnasium.spaces.Discrete(10), optimize_memory_usage=True)


@pytest.mark.parametrize("algo", ["dqn", "qrdqn"])
def test_packed_values_are_those_of_single_observations(algo: str, tiny_task: Task):
    """CHECKS 5 for Q-values: one forward over a sequence against one observation at a time."""
    agent = make_agent(algo, n_envs=2, env_kwargs={"task": tiny_task}, policy_kwargs={"q_scale": 0.3}, seed=0)
    network = agent.q_net if algo == "dqn" else agent.quantile_net
    with torch.no_grad():
        network.core.value_head.weight.normal_(std=0.1)
        if algo == "qrdqn":
            network.spread.weight.normal_(std=0.1)
    sequences = [np.array([5, 9, 20, 31, 7]), np.array([8, 9, 10])]
    packed = pack_suffixes(sequences, [2, 1], "cpu")
    with torch.no_grad():
        together = network(packed)
    single = []
    for ids, first in zip(sequences, (2, 1), strict=True):
        for end in range(first, len(ids)):
            obs = np.full((1, agent.observation_space.shape[0]), -1)
            obs[0, :end] = ids[:end]
            single.append(network(torch.from_numpy(obs))[0])
    torch.testing.assert_close(together, torch.stack(single), atol=1e-5, rtol=1e-5)
    assert together.shape == ((5, 320) if algo == "dqn" else (5, 16, 320))


@pytest.mark.parametrize("algo", ["dqn", "qrdqn", "soft_dqn"])
def test_stock_training_moves_the_policy_and_not_the_reference(algo: str, tiny_task: Task):
    """CHECKS 27."""
    agent = make_agent(algo, n_envs=4, env_kwargs={"task": tiny_task}, seed=0, batch_size=16, target_update_interval=16)
    assert type(agent) is (QRDQN if algo == "qrdqn" else DQN)
    reference = agent.env.env.kl_penalty.reference.lm.model
    before = {name: tensor.clone() for name, tensor in reference.state_dict().items()}
    core = agent.policy.actor_critic
    start = {name: parameter.detach().clone() for name, parameter in core.lm.model.named_parameters()}
    agent.learn(160)
    assert agent._n_updates > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in reference.state_dict().items())
    assert any(not torch.equal(parameter, start[name]) for name, parameter in core.lm.model.named_parameters())
    target = agent.policy.quantile_net_target if algo == "qrdqn" else agent.policy.q_net_target
    assert not any(parameter.requires_grad for parameter in target.parameters())


def test_the_greedy_action_is_the_models_likeliest_token(tiny_task: Task):
    agent = make_agent("dqn", n_envs=3, env_kwargs={"task": tiny_task}, seed=0)
    obs = agent.env.reset()
    on_device = torch.from_numpy(obs)
    values = agent.q_net(on_device)
    expected = agent.policy.actor_critic.step(on_device, deterministic=True).tokens
    assert torch.equal(values.argmax(dim=1), expected)
    assert torch.equal(agent.policy._predict(on_device, deterministic=True), expected)


@pytest.mark.parametrize("algo", ["dqn", "qrdqn"])
def test_a_q_value_is_the_log_prob_and_the_states_value(algo: str):
    """Q(s, a) = q_scale * log pi(a|s) + V(s): without V no target could say that one state is better than another."""
    agent = make_agent(algo, n_envs=3, env_kwargs={"task": "exact"}, policy_kwargs={"q_scale": 0.3}, seed=0)
    core, network = agent.policy.actor_critic, agent.q_net if algo == "dqn" else agent.quantile_net
    with torch.no_grad():
        core.value_head.weight.normal_()
    obs = torch.tensor([[0, 1, -1, -1, -1, -1], [2, 3, 4, -1, -1, -1]])
    with torch.no_grad():
        values = network(obs) if algo == "dqn" else network(obs)[:, 0]
    torch.testing.assert_close(
        values, 0.3 * core.states(obs).logits.log_softmax(dim=-1) + core.states(obs).values[:, None]
    )
    assert core.states(obs).values.abs().min() > 0.05


def test_ids_that_cannot_be_drawn_have_a_finite_worst_value(tiny_task: Task):
    agent = make_agent("dqn", n_envs=2, env_kwargs={"task": tiny_task, "sampling": {"top_k": 3}}, seed=0)
    values = agent.q_net(torch.from_numpy(agent.env.reset()))
    assert int((values > IMPOSSIBLE).sum(dim=1).max()) == 3
    assert torch.isfinite(values).all()


def test_the_soft_backup_is_the_log_sum_of_the_exponential_values():
    """V(s) = kl_coef * log sum exp(Q(s, a) / kl_coef): what DQN takes the maximum of, of packed and single states."""
    agent = make_agent("soft_dqn", n_envs=3, env_kwargs={"task": "exact", "kl_coef": 0.7}, seed=0)
    with torch.no_grad():
        agent.policy.actor_critic.value_head.weight.normal_()
    agent.q_net_target.load_state_dict(agent.q_net.state_dict())
    single = torch.from_numpy(agent.env.reset())
    packed = pack_suffixes([np.array([0, 1, 2, 5]), np.array([2, 3])], [1, 1], "cpu")
    for obs, count in ((single, 3), (packed, 4)):
        with torch.no_grad():
            soft, values = agent.q_net_target(obs), agent.q_net(obs)
        assert soft.shape == (count, 1)
        torch.testing.assert_close(soft[:, 0], 0.7 * torch.logsumexp(values / 0.7, dim=1))
    assert agent.exploration_rate == 0.0  # the policy explores by itself


@pytest.mark.slow
def test_soft_dqn_nears_the_optimum_and_plain_dqn_cannot():
    """Sampled, its policy solves the KL-regularised problem; no greedy policy comes above -0.69 there."""
    arguments = get_algorithm("soft_dqn").settings_for("exact")
    agent = make_agent("soft_dqn", env_kwargs={"task": "exact", "device": "cpu"}, seed=0, **arguments)
    agent.learn(65_536)
    exact = ExactValue(agent.env.env.rules, agent.env.env.prompts)
    assert exact.normalized(agent.policy.actor_critic) > 0.8
    assert exact.normalized(agent.policy.actor_critic, deterministic=True) < -0.69


def test_environments_and_arguments_that_cannot_work():
    with pytest.raises(ConfigError, match="the soft backup needs a fixed kl_coef > 0"):
        make_agent("soft_dqn", env_kwargs={"task": "exact", "kl_coef": 0.0})
    with pytest.raises(ConfigError, match="the soft backup needs a fixed kl_coef > 0"):
        make_agent("soft_dqn", env_kwargs={"task": "exact", "kl_coef": {"value": 0.5, "target": 6.0}})
    with pytest.raises(ConfigError, match=r"has q_scale = kl_coef = 0\.5; leave q_scale out"):
        make_agent("soft_dqn", env_kwargs={"task": "exact"}, policy_kwargs={"q_scale": 1.0})
    with pytest.raises(ConfigError, match="the soft backup is DQN's"):
        make_agent("qrdqn", env_kwargs={"task": "exact"}, policy_kwargs={"soft": True})
    with pytest.raises(ConfigError, match="needs an environment with kl_mode='cross_entropy', not 'deferred'"):
        make_agent("dqn", env_kwargs={"task": "exact", "kl_mode": "deferred"})
    with pytest.raises(ConfigError, match="q_scale must be > 0"):
        make_agent("dqn", env_kwargs={"task": "exact"}, policy_kwargs={"q_scale": 0})
    with pytest.raises(UnknownName, match="argument of dqn 'n_epochs'"):
        make_agent("dqn", env_kwargs={"task": "exact"}, n_epochs=3)


# --- tables -----------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("algo", "tokens"), [("q_learning", 60_000), ("sarsa", 60_000)])
def test_tables_reach_the_optimum_of_a_shorter_task(algo: str, tokens: int):
    """Three letters instead of five: 156 responses to each prompt, all of them met often."""
    agent = make_agent(algo, env_kwargs={"task": "exact", "max_new_tokens": 3}, n_envs=32, seed=0)
    exact = ExactValue(agent.env.env.rules, agent.env.env.prompts)
    assert exact.normalized(agent.policy.actor_critic) < 0.2  # a uniform policy, before
    agent.learn(tokens)
    assert exact.normalized(agent.policy.actor_critic) > 0.97


def test_a_table_as_a_policy():
    """`act` samples what `evaluate` says, and the table grows beyond its first rows."""
    agent = make_agent("q_learning", env_kwargs={"task": "exact"}, n_envs=4, seed=0)
    policy: Any = agent.policy
    assert isinstance(policy, TabularPolicy)
    obs = torch.from_numpy(agent.env.reset())[:1].expand(4000, -1)
    policy.q[policy.rows(obs[:1].numpy())[0]] = [0.0, 0.3, -0.2, 0.1, 0.5, -1.0]
    action = policy.step(obs)
    expected = np.exp(np.array([0.0, 0.3, -0.2, 0.1, 0.5, -1.0]) / 0.5)
    expected /= expected.sum()
    np.testing.assert_allclose(np.bincount(action.tokens, minlength=6) / 4000, expected, atol=0.03)
    packed = pack_suffixes([np.array([int(obs[0, 0]), token]) for token in range(6)], [1] * 6, "cpu")
    evaluation = policy.evaluate(packed)
    np.testing.assert_allclose(evaluation.log_probs.exp(), expected, atol=1e-6)
    np.testing.assert_allclose(evaluation.entropy, -(expected * np.log(expected)).sum(), atol=1e-6)
    np.testing.assert_allclose(evaluation.values, 0.5 * np.log(np.exp(policy.q[0] / 0.5).sum()), atol=1e-6)
    for shown, count in ((obs[:3], 3), (packed, 6)):
        states = policy.states(shown)
        np.testing.assert_allclose(states.logits, np.log(np.tile(expected, (count, 1))), atol=1e-6)
        np.testing.assert_allclose(states.values, np.full(count, evaluation.values[0]), atol=1e-6)
    rows = policy.rows(np.array([observation(1, 2, 3, n, m, 1) for n in range(60) for m in range(60)]))
    assert len(set(rows.tolist())) == 3600
    assert len(policy.q) == len(policy.visits) >= 3601


def test_tables_refuse_what_they_cannot_hold():
    with pytest.raises(ConfigError, match="a table needs kl_coef > 0 and a task with few states"):
        make_agent("q_learning", env_kwargs={"task": "sentiment"})
    with pytest.raises(ConfigError, match="kl_coef=0"):
        make_agent("sarsa", env_kwargs={"task": "exact", "kl_coef": 0.0})
