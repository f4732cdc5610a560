"""An outer time limit under the SB3 and RLlib adapters: what is cut off is worth the value of its last state."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.logger import Logger

from textrl_agents.sb3 import TextVecEnv, make_agent
from textrl_agents.sb3.buffers.replay_buffer import EpisodeReplayBuffer
from textrl_env import TextGenVectorEnv
from textrl_env.errors import ConfigError
from textrl_env.tasks import get_task

EOS = 5  # of task "exact"
COEF, LAMBDA = 0.5, 0.9


def quiet_agent(algo: str, *, kl_mode: str = "deferred", limit: int = 2, **arguments: Any) -> Any:
    """A policy that is not the reference, with a value head that says something; nothing is learned."""
    env_kwargs = {"task": "exact", "kl_coef": COEF, "kl_mode": kl_mode, "max_episode_steps": limit, "device": "cpu"}
    agent = make_agent(algo, env_kwargs=env_kwargs, n_envs=3, seed=0, learning_rate=0.0, **arguments)
    generator = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for weight in agent.policy.parameters():
            weight.add_(0.1 * torch.randn(weight.shape, generator=generator))
    agent.set_logger(Logger(folder=None, output_formats=[]))
    return agent


def test_sb3_is_told_what_was_cut_off():
    env = TextVecEnv(num_envs=2, task="exact", kl_coef=0.0, kl_mode="cross_entropy", max_episode_steps=2)
    env.set_options([{"prompt": "a"}, {"prompt": "c"}])
    env.reset()
    env.step(np.array([1, 3]))
    observations, rewards, dones, infos = env.step(np.array([2, EOS]))
    assert dones.tolist() == [True, True]
    assert rewards.tolist() == [0.0, 1.0], "no score at the limit, and 1 for 'cd' which ended by itself there"
    assert [info["TimeLimit.truncated"] for info in infos] == [True, False]
    assert infos[0]["terminal_observation"].tolist() == [0, 1, 2, -1, -1, -1]
    assert {"score", "response", "kl_sum"}.isdisjoint(infos[0])
    assert [(info["episode"]["r"], info["episode"]["l"]) for info in infos] == [(0.0, 2), (1.0, 2)]
    assert (observations >= 0).sum(axis=1).tolist() == [1, 1]


@torch.no_grad()
def kl_by_plain_model(agent: Any, ids: np.ndarray) -> np.ndarray:
    """k1 of the tokens after the prompt's one letter, by two plain forwards."""
    inputs, places = torch.from_numpy(ids)[None], torch.arange(len(ids) - 1)
    policy, reference = (
        model(input_ids=inputs).logits[0].double().log_softmax(-1)[places, inputs[0, 1:]]
        for model in (agent.policy.actor_critic.model, get_task("exact").model()[0])
    )
    return (policy - reference).numpy()


def test_gae_where_a_time_limit_cuts_off():
    """By hand: an episode of two tokens that was cut has `A1 = -c*kl1 + V(s2) - V(s1)` and
    `A0 = -c*kl0 + V(s1) - V(s0) + lambda * A1`, in deferred mode; its KL is in the return that SB3 logs."""
    agent = quiet_agent("ppo", n_steps=8, gae_lambda=LAMBDA, gamma=1.0)
    buffer, env = agent.rollout_buffer, agent.env
    seen: list[Any] = []
    original = env.step_wait
    env.step_wait = lambda: seen.append(original()) or seen[-1]
    agent.learn(8 * 3)
    checked = 0
    for row in range(3):
        for step in range(1, 8):
            info = seen[step][3][row]
            if not info.get("TimeLimit.truncated"):
                continue
            ids = info["terminal_observation"]
            states = torch.from_numpy(np.stack([np.where(np.arange(6) < length, ids, -1) for length in (1, 2, 3)]))
            values = agent.policy.predict_values(states).flatten().double().numpy()
            cost = COEF * kl_by_plain_model(agent, ids[:3])
            last = -cost[1] + values[2] - values[1]
            first = -cost[0] + values[1] - values[0] + LAMBDA * last
            np.testing.assert_allclose(buffer.advantages[step - 1 : step + 1, row], [first, last], atol=1e-5)
            assert info["episode"]["r"] == pytest.approx(-cost.sum(), abs=1e-5)
            assert abs(values[2]) > 0.01
            assert np.abs(cost).max() > 0.01
            checked += 1
    assert checked > 4


def test_deferred_equals_stepwise_where_a_time_limit_cuts_off():
    """Over rollouts whose ends cut episodes too."""
    records: list[list[Any]] = []
    for kl_mode in ("deferred", "log_ratio"):
        agent = quiet_agent("ppo", kl_mode=kl_mode, limit=3, n_steps=4)
        rows: list[Any] = []
        agent.train = lambda buffer=agent.rollout_buffer, rows=rows: rows.append(
            (buffer.rewards.copy(), buffer.advantages.copy())
        )
        agent.learn(4 * 4 * 3)
        returns = [record["r"] for record in agent.ep_info_buffer]
        assert len(returns) > 12
        records.append([*rows, np.array(returns)])
    for deferred, stepwise in zip(*records, strict=True):
        np.testing.assert_allclose(deferred, stepwise, atol=1e-4)


def test_a_stored_episode_that_was_cut_off_has_a_next_state():
    """DQN's target is `r + V(next)` there; `handle_timeout_termination=False` asks for SB3's old way."""
    env = TextVecEnv(num_envs=1, task="exact", kl_mode="cross_entropy", max_episode_steps=2)
    for handled in (True, False):
        buffer = EpisodeReplayBuffer(
            16, env.observation_space, env.action_space, "cpu", handle_timeout_termination=handled
        )
        observation = env.reset()
        for token in (1, 2):
            following, rewards, dones, infos = env.step(np.array([token]))
            buffer.add(observation, following, np.array([token]), rewards, dones, infos)
            observation = following
        batch = buffer.sample(2)
        assert sorted(batch.dones.flatten().tolist()) == ([0.0, 0.0] if handled else [0.0, 1.0])
        last = int(batch.observations.columns.argmax())
        if handled:
            place = batch.next_observations.rows[last], batch.next_observations.columns[last]
            assert batch.next_observations.input_ids[place[0]].tolist()[: int(place[1]) + 1][1:] == [1, 2]


@pytest.mark.parametrize("algo", ["q_learning", "sarsa"])
def test_a_table_bootstraps_where_an_episode_was_cut_off(algo: str):
    agent = make_agent(algo, env_kwargs={"task": "exact", "max_episode_steps": 2, "kl_coef": 0.5}, n_envs=3)
    agent.learn(300)
    cut_off = np.array([0, 1, 2, -1, -1, -1])
    row = agent.policy.rows(cut_off[None])
    agent.policy.q[row] = 3.0  # all alike, so that SARSA's sampled target is the soft value too
    next_rows = agent.policy.rows(np.array([[0, -1, -1, -1, -1, -1]] * 3))
    infos = [{}, {"TimeLimit.truncated": True, "terminal_observation": cut_off}, {"TimeLimit.truncated": False}]
    worth = agent._bootstrap(next_rows, np.zeros(3, dtype=np.int64), np.array([False, True, True]), infos)
    assert worth[1] == pytest.approx(3.0 + 0.5 * np.log(6))
    assert worth[2] == 0.0
    assert worth[0] != 0.0


@pytest.mark.parametrize("algo", ["reinforce", "rloo", "grpo"])
def test_algorithms_of_whole_responses_refuse_a_time_limit(algo: str):
    """Nothing stands in for the score that a cut response never gets; its return would be too low."""
    with pytest.raises(ConfigError, match=r"max_episode_steps=2 cuts off.*max_new_tokens=5"):
        quiet_agent(algo).learn(24)
    quiet_agent(algo, limit=5, n_steps=4).learn(12)


def test_rllib_bootstraps_where_a_time_limit_cuts_off():
    """The same numbers as by hand, through RLlib's own sampling; the logged return has the KL in it."""
    pytest.importorskip("ray.rllib")
    from ray.rllib.core import DEFAULT_MODULE_ID
    from ray.rllib.core.columns import Columns
    from test_rllib_packing import value_by_plain_model, wire

    wired = wire(env={"max_episode_steps": 2, "kl_coef": COEF}, rollout_fragment_length=8, lambda_=LAMBDA)
    episodes = wired.runner.sample(num_timesteps=32, random_actions=False)
    columns = wired.columns(episodes)
    connector = next(
        piece for piece in wired.learner._learner_connector.connectors if getattr(piece, "accounts", None) is not None
    )
    assert len(connector.recent) == sum(episode.is_done for episode in episodes)
    checked = 0
    core = wired.core
    for row, episode in enumerate(each for each in episodes if len(each)):
        if episode.is_terminated or not episode.is_truncated or len(episode) < 2:
            continue
        ids = np.asarray(episode.get_observations(-1))[:3]
        reference = get_task("exact").model()[0]
        with torch.no_grad():
            logits = reference(input_ids=torch.from_numpy(ids)[None]).logits[0].double().log_softmax(-1)
        kl = np.asarray(episode.get_extra_model_outputs(Columns.ACTION_LOGP)) - logits[[0, 1], ids[1:]].numpy()
        values = [value_by_plain_model(core, ids[:length]) for length in (1, 2, 3)]
        last = -COEF * kl[1] + values[2] - values[1]
        first = -COEF * kl[0] + values[1] - values[0] + LAMBDA * last
        targets = columns[Columns.VALUE_TARGETS][row, :2].numpy()
        np.testing.assert_allclose(targets, [first + values[0], last + values[1]], atol=1e-4)
        checked += 1
    assert checked > 4
    assert DEFAULT_MODULE_ID in wired.learner.module


def test_a_native_environment_reports_what_was_cut():
    env = TextGenVectorEnv(2, "exact", max_episode_steps=2, kl_coef=0.25)
    env.reset(seed=0)
    rewards = [env.step([1, EOS])[1], env.step([1, 1])[1]]
    assert env.transition is not None
    ((row, cut),) = env.transition.cut
    assert (row, len(cut), cut.kl_coef) == (0, 2, 0.25)
    assert cut.episode_return == pytest.approx(rewards[0][0] + rewards[1][0])
