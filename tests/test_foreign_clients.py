"""Programs that nobody here wrote, run as their own users run them: by the environment's id, without an adapter."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import RecordEpisodeStatistics, RenderCollection
from gymnasium.wrappers.vector import RecordEpisodeStatistics as VectorRecordEpisodeStatistics

import textrl_env
from textrl_env import TextGenEnv, TokenAction

EXACT = "TextRLHF-Exact-v0"
EOS = 5  # of task "exact"
MODES = [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP]


def vector_env(kind: str, mode: AutoresetMode, num_envs: int = 3, **arguments: Any) -> Any:
    if kind == "native":
        return gymnasium.make_vec(EXACT, num_envs=num_envs, autoreset_mode=mode, **arguments)
    makers = [lambda: gymnasium.make(EXACT, **arguments)] * num_envs
    return SyncVectorEnv(makers, autoreset_mode=mode)


# Stable-Baselines3


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        ("PPO", {"n_steps": 8, "batch_size": 8, "n_epochs": 1}),
        ("A2C", {"n_steps": 4}),
        ("DQN", {"buffer_size": 64, "learning_starts": 4, "batch_size": 4}),
    ],
)
def test_sb3_by_id(algorithm: str, settings: dict[str, Any]):
    """`PPO("MlpPolicy", id)` asks for rgb_array, and gives up on anything but a TypeError."""
    stable_baselines3 = pytest.importorskip("stable_baselines3")
    agent = getattr(stable_baselines3, algorithm)("MlpPolicy", EXACT, device="cpu", **settings)
    agent.learn(24)
    assert agent.num_timesteps >= 24
    # Its Monitor's record; no penalty is deferred, so every step has paid.
    assert all(np.isfinite(record["r"]) and 1 <= record["l"] <= 5 for record in agent.ep_info_buffer)
    assert len(agent.ep_info_buffer) > 2


def test_sb3_by_the_default_id():
    sb3 = pytest.importorskip("stable_baselines3")
    agent = sb3.PPO("MlpPolicy", textrl_env.ENV_ID, n_steps=4, batch_size=4, n_epochs=1, device="cpu").learn(4)
    (picture,) = agent.get_env().get_images()
    assert (picture.shape, picture.dtype) == ((480, 720, 3), np.uint8)


def test_sb3_make_vec_env():
    env_util = pytest.importorskip("stable_baselines3.common.env_util")
    evaluation = pytest.importorskip("stable_baselines3.common.evaluation")
    sb3 = pytest.importorskip("stable_baselines3")
    env = env_util.make_vec_env(EXACT, n_envs=2, seed=3, env_kwargs={"kl_coef": 0.0})
    agent = sb3.PPO("MlpPolicy", env, n_steps=8, batch_size=16, n_epochs=1, device="cpu").learn(16)
    mean, _ = evaluation.evaluate_policy(agent, env, n_eval_episodes=4)
    assert 0 <= mean <= 4, "the score of a response, no penalty"


PROCESSES = """
import textrl_env
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import SubprocVecEnv

if __name__ == "__main__":
    env = make_vec_env("TextRLHF-Exact-v0", n_envs=2, vec_env_cls=SubprocVecEnv)
    print(PPO("MlpPolicy", env, n_steps=8, batch_size=16, n_epochs=1, device="cpu").learn(16).num_timesteps)
    env.close()
"""


@pytest.mark.slow
def test_sb3_subproc_vec_env(tmp_path: Path):
    """A process for each environment. SB3 starts new interpreters, which run a script's imports again."""
    pytest.importorskip("stable_baselines3")
    script = tmp_path / "train.py"
    script.write_text(PROCESSES)
    done = subprocess.run([sys.executable, script], capture_output=True, text=True, env=environ())
    assert done.stdout.split() == ["16"], done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_sb3_subproc_vec_env_without_a_script(start_method: str):
    """In a notebook, or here, there are no imports to run again: the id names the package that registers it."""
    env_util = pytest.importorskip("stable_baselines3.common.env_util")
    from stable_baselines3.common.vec_env import SubprocVecEnv

    start = {"start_method": start_method}
    env = env_util.make_vec_env(f"textrl_env:{EXACT}", 2, vec_env_cls=SubprocVecEnv, vec_env_kwargs=start)
    try:
        assert env.reset().shape == (2, 6)
        assert env.step([1, EOS])[2].tolist() == [False, True]
    finally:
        env.close()


def environ() -> dict[str, str]:
    """For a new process that imports what stands here."""
    root = Path(__file__).parents[1]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(root), str(root / "agents")])}


def test_maskable_ppo_never_draws_an_unknown_id(tiny_task: Any):
    """sb3-contrib asks the environment for `action_masks`; the head of the tiny model is larger than its tokenizer."""
    contrib = pytest.importorskip("sb3_contrib")
    utils = pytest.importorskip("sb3_contrib.common.maskable.utils")
    drawn: list[int] = []

    class Noting(gymnasium.ActionWrapper):
        def action(self, action: Any) -> Any:
            drawn.append(int(action))
            return action

    env = TextGenEnv(tiny_task)
    unknown = np.arange(320) >= 40
    env.rules.vocabulary.known[unknown] = False
    assert utils.is_masking_supported(env)
    assert utils.get_action_masks(env).tolist() == (~unknown).tolist()
    agent = contrib.MaskablePPO("MlpPolicy", Noting(env), n_steps=32, batch_size=32, n_epochs=1, device="cpu").learn(32)
    assert len(drawn) >= 32
    assert max(drawn) < 40
    assert agent.num_timesteps == 32


def test_the_vector_environment_has_a_mask_for_each_row():
    env = gymnasium.make_vec(EXACT, num_envs=3)
    assert (env.action_masks().shape, env.action_masks().dtype) == ((3, 6), np.bool_)
    assert env.action_masks().all()


# Gymnasium's wrappers


def test_record_episode_statistics():
    env = RecordEpisodeStatistics(gymnasium.make(EXACT, kl_coef=0.5))
    env.reset(seed=0, options={"prompt": "a"})
    rewards = [env.step(token)[1] for token in (1, 2)]
    _, reward, terminated, _, info = env.step(EOS)
    assert terminated
    assert info["episode"]["r"] == pytest.approx(sum(rewards) + reward, abs=1e-6)
    assert info["episode"]["r"] == pytest.approx(info["episode_return"], abs=1e-6)
    assert info["episode"]["l"] == info["episode_length"] == 3


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["native", "sync"])
def test_record_episode_statistics_of_a_vector_environment(kind: str, mode: AutoresetMode):
    env = VectorRecordEpisodeStatistics(vector_env(kind, mode, kl_coef=0.5))
    env.reset(seed=0)
    env.step(np.array([1, 2, 3]))
    *_, terminated, _, infos = env.step(np.array([EOS, 2, EOS]))
    assert terminated.tolist() == infos["_episode"].tolist() == [True, False, True]
    own = infos if mode is AutoresetMode.NEXT_STEP else infos["final_info"]
    np.testing.assert_allclose(infos["episode"]["r"], own["episode_return"], atol=1e-6)
    np.testing.assert_array_equal(infos["episode"]["l"], own["episode_length"])
    assert infos["episode"]["l"].tolist() == [2, 0, 2]


@pytest.mark.parametrize("kind", ["native", "sync"])
def test_infos_are_numbers(kind: str):
    """`kl` where no log-prob is known is a NaN in a float array. Text alone needs arrays of objects."""
    env = vector_env(kind, AutoresetMode.NEXT_STEP)
    env.reset(seed=0)
    infos = env.step(np.array([1, 2, EOS]))[4]
    assert infos["kl"].dtype == np.float64
    assert np.isnan(infos["kl"]).all()
    assert infos["_kl"].tolist() == [True] * 3
    objects = {key for key, value in infos.items() if not isinstance(value, dict) and value.dtype == object}
    assert objects == {"prompt", "response", "finish_reason"}
    whole = env.step(np.array([[1.0, -0.5], [2.0, -0.5], [0.0, -0.5]]))[4] if kind == "native" else infos
    assert whole["kl"].dtype == np.float64
    assert infos["episode_length"].dtype == np.int64
    assert infos["episode_return"].dtype == infos["score"].dtype == infos["kl_sum"].dtype == np.float64


def test_numpy_to_torch():
    pytest.importorskip("array_api_compat")  # of gymnasium[torch]
    env = gymnasium.wrappers.NumpyToTorch(gymnasium.make(EXACT))
    observation, _ = env.reset(seed=0)
    assert observation.dtype == torch.int64
    observation, _, _, _, info = env.step(torch.tensor(1))
    assert observation[1] == 1
    assert torch.isnan(info["kl"])
    assert info["ref_log_prob"] < 0
    _, _, terminated, _, info = env.step(torch.tensor(EOS))
    assert terminated
    assert info["episode_length"] == 2


@pytest.mark.parametrize("kind", ["native", "sync"])
def test_numpy_to_torch_of_a_vector_environment(kind: str):
    pytest.importorskip("array_api_compat")
    env = gymnasium.wrappers.vector.NumpyToTorch(vector_env(kind, AutoresetMode.NEXT_STEP))
    env.reset(seed=0)
    _, rewards, _, _, infos = env.step(torch.tensor([1, 2, 3]))
    assert rewards.shape == (3,)
    assert torch.isnan(infos["kl"]).all()
    assert (infos["ref_log_prob"] < 0).all()
    # At an end there is text, which torch has no arrays of; Gymnasium's own wrapper takes the arrays apart.
    listed = gymnasium.wrappers.vector.DictInfoToList(vector_env(kind, AutoresetMode.SAME_STEP))
    env = gymnasium.wrappers.vector.NumpyToTorch(listed)
    env.reset(seed=0)
    infos = env.step(torch.tensor([EOS, 2, 3]))[4]
    assert infos[0]["final_info"]["episode_length"] == 1
    assert infos[0]["final_obs"][1] == EOS


def test_pictures_are_collected_as_for_a_video():
    pytest.importorskip("PIL")
    env = RenderCollection(gymnasium.make(EXACT, render_mode="rgb_array"))
    env.reset(seed=0)
    env.step(1)
    frames = env.render()
    assert len(frames) == 2
    assert all(frame.shape == (480, 720, 3) and frame.dtype == np.uint8 for frame in frames)
    assert (frames[0] != frames[1]).any(), "the new token is not in the picture"


# Vector environments


def test_token_actions_through_sync_vector_env():
    """A batch of pairs is dealt out row by row."""
    env = SyncVectorEnv([lambda: TextGenEnv("exact", kl_mode="log_ratio")] * 2)
    env.reset(seed=0)
    observations, *_, infos = env.step(TokenAction(np.array([1, 2]), np.array([-0.5, -0.75])))
    assert observations[:, 1].tolist() == [1, 2]
    np.testing.assert_allclose(infos["kl"] + infos["ref_log_prob"], [-0.5, -0.75], atol=1e-6)


@pytest.mark.parametrize("kind", ["native", "sync"])
def test_a_reset_mask_starts_these_rows_alone(kind: str):
    """As in Gymnasium's DISABLED mode, where the caller resets what has ended."""
    env = vector_env(kind, AutoresetMode.DISABLED)
    env.reset(seed=4)
    before = env.step(np.array([1, EOS, EOS]))[0]
    mask = np.array([False, True, True])
    observations, _ = env.reset(seed=[None, 11, 12], options={"reset_mask": mask})
    np.testing.assert_array_equal(observations[0], before[0])
    for row in (1, 2):
        np.testing.assert_array_equal(observations[row], TextGenEnv("exact").reset(seed=10 + row)[0])
    observations = env.step(np.array([2, 3, 4]))[0]
    assert [(row >= 0).sum() for row in observations] == [3, 2, 2]


# CleanRL: its PPO, with what its users change (the environment's id, and a network that embeds ids)


class CleanAgent(torch.nn.Module):
    def __init__(self, envs: Any):
        super().__init__()
        size, tokens = envs.single_observation_space.shape[0], int(envs.single_action_space.n)
        self.body = torch.nn.Sequential(torch.nn.Embedding(tokens + 1, 8), torch.nn.Flatten(), torch.nn.Tanh())
        self.actor, self.critic = torch.nn.Linear(8 * size, tokens), torch.nn.Linear(8 * size, 1)

    def get_value(self, x: torch.Tensor) -> torch.Tensor:
        return self.critic(self.body(x + 1))

    def get_action_and_value(self, x: torch.Tensor, action: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        hidden = self.body(x + 1)
        probs = torch.distributions.Categorical(logits=self.actor(hidden))
        action = probs.sample() if action is None else action
        return action, probs.log_prob(action), probs.entropy(), self.critic(hidden)


def clean_ppo(
    envs: Any, iterations: int, num_steps: int = 16, gamma: float = 1.0, lambda_: float = 0.95
) -> list[float]:
    """Returns of the episodes that ended, as CleanRL logs them."""
    agent = CleanAgent(envs)
    optimizer = torch.optim.Adam(agent.parameters(), lr=0.02, eps=1e-5)
    returns_seen: list[float] = []
    next_obs = torch.tensor(envs.reset(seed=1)[0])
    next_done = torch.zeros(envs.num_envs)
    for _ in range(iterations):
        rows: list[tuple[torch.Tensor, ...]] = []
        for _ in range(num_steps):
            with torch.no_grad():
                action, log_prob, _, value = agent.get_action_and_value(next_obs)
            obs, done = next_obs, next_done
            new_obs, reward, terminations, truncations, infos = envs.step(action.numpy())
            next_obs = torch.tensor(new_obs)
            next_done = torch.tensor(np.logical_or(terminations, truncations), dtype=torch.float32)
            rows.append((obs, action, log_prob, torch.tensor(reward).float(), done, value.flatten()))
            if "episode" in infos:
                returns_seen += infos["episode"]["r"][infos["_episode"]].tolist()
        obs, actions, log_probs, rewards, dones, values = (torch.stack(column) for column in zip(*rows, strict=True))
        with torch.no_grad():
            next_value = agent.get_value(next_obs).flatten()
        advantages, last = torch.zeros_like(rewards), torch.zeros(envs.num_envs)
        for t in reversed(range(num_steps)):
            following = (next_done, next_value) if t == num_steps - 1 else (dones[t + 1], values[t + 1])
            delta = rewards[t] + gamma * following[1] * (1 - following[0]) - values[t]
            advantages[t] = last = delta + gamma * lambda_ * (1 - following[0]) * last
        targets = advantages + values
        for _ in range(4):
            _, new_log_probs, entropy, new_values = agent.get_action_and_value(obs.flatten(0, 1), actions.flatten())
            ratio = (new_log_probs - log_probs.flatten()).exp()
            scaled = (advantages.flatten() - advantages.mean()) / (advantages.std() + 1e-8)
            loss = -torch.min(scaled * ratio, scaled * ratio.clamp(0.8, 1.2)).mean()
            loss = loss + 0.5 * (new_values.flatten() - targets.flatten()).square().mean() - 0.01 * entropy.mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(agent.parameters(), 0.5)
            optimizer.step()
    return returns_seen


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["native", "sync"])
def test_clean_rl(kind: str, mode: AutoresetMode):
    envs = VectorRecordEpisodeStatistics(vector_env(kind, mode, kl_coef=0.05))
    returns = clean_ppo(envs, iterations=2)
    assert len(returns) >= 2 * 16 * 3 // 6
    assert np.isfinite(returns).all()


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_clean_rl_learns(mode: AutoresetMode):
    """Its return rises on `exact`: what it is paid is what it did."""
    envs = VectorRecordEpisodeStatistics(vector_env("native", mode, num_envs=16, kl_coef=0.0))
    returns = clean_ppo(envs, iterations=40)
    first, last = np.mean(returns[:100]), np.mean(returns[-100:])
    assert last > first + 1.0, (first, last)


# torchrl, where it is installed


def test_torchrl():
    torchrl = pytest.importorskip("torchrl.envs")
    make: Callable[..., Any]
    for make in (
        lambda: torchrl.GymEnv(EXACT),
        lambda: torchrl.GymWrapper(gymnasium.make_vec(EXACT, num_envs=4, autoreset_mode="DISABLED")),
    ):
        env = make()
        rollout = env.rollout(12, break_when_any_done=False)
        assert rollout.batch_size[-1] == 12
        torchrl.check_env_specs(env)
