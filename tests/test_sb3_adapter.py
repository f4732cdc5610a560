"""The SB3 adapter: a conforming VecEnv, SB3's whole policy interface, and agents that can be saved."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_checker import check_env
from suffixes import pack_suffixes
from transformers import AutoModelForCausalLM

import textrl_env
from textrl_agents.sb3 import CausalLMPolicy, TextVecEnv, make_agent
from textrl_env import Task, TextGenVectorEnv
from textrl_env.errors import ConfigError, ModelError, UnknownName
from textrl_env.models import SamplingParams
from textrl_env.tasks import get_task, task_names

EOS = 5  # of task "exact"


@pytest.mark.parametrize("task", task_names())
def test_sb3_check_env(task: str):
    """CHECKS 1: no error and no warning (warnings are errors here), on every registered task."""
    check_env(gymnasium.make(textrl_env.ENV_ID, task=task).unwrapped)


def test_the_vec_env_is_the_vector_environment():
    """The same seeds give the same prompts, rewards and ends, in SB3's convention."""
    native = TextGenVectorEnv(3, "exact", autoreset_mode="SAME_STEP", kl_mode="deferred")
    vec_env = TextVecEnv(num_envs=3, task="exact")
    assert vec_env.env.rules.kl_mode == "deferred", "the shipped adapters' default"
    assert (vec_env.num_envs, vec_env.action_space.n, vec_env.observation_space.shape) == (3, 6, (6,))
    vec_env.seed(11)
    observations, (expected, _) = vec_env.reset(), native.reset(seed=11)
    np.testing.assert_array_equal(observations, expected)
    for actions in ([1, EOS, 2], [2, 0, EOS], [3, 1, 1], [0, 0, 0], [1, 2, 3]):
        observations, rewards, dones, infos = vec_env.step(np.array(actions))
        expected, expected_rewards, terminated, _, vector_infos = native.step(np.array(actions))
        np.testing.assert_array_equal(observations, expected)
        np.testing.assert_allclose(rewards, expected_rewards)
        np.testing.assert_array_equal(dones, terminated)
        assert rewards.dtype == np.float32
        for row in np.flatnonzero(dones):
            np.testing.assert_array_equal(infos[row]["terminal_observation"], vector_infos["final_obs"][row])
            assert infos[row]["response"] == vector_infos["final_info"]["response"][row]
            assert infos[row]["TimeLimit.truncated"] is False
            final_info = vector_infos["final_info"]
            assert infos[row]["episode"]["r"] == final_info["episode_return"][row]
            assert infos[row]["episode"]["l"] == final_info["episode_length"][row]
            assert infos[row]["episode"]["t"] >= 0
    assert vec_env.get_attr("num_envs") == [3, 3, 3]
    assert vec_env.env_is_wrapped(gymnasium.Wrapper) == [False] * 3
    vec_env.close()


def test_reset_options_are_per_row_as_in_sb3():
    vec_env = TextVecEnv(num_envs=2, task="exact")
    vec_env.set_options([{"prompt": "e"}, {"prompt": "b"}])
    assert vec_env.reset()[:, 0].tolist() == [4, 1]
    vec_env.set_options({"prompt_index": 1})
    assert vec_env.reset()[:, 0].tolist() == [2, 2]
    assert len({int(ids) for _ in range(12) for ids in vec_env.reset()[:, 0]}) == 2, "options hold for one reset"


def test_vec_envs_that_cannot_work():
    with pytest.raises(ConfigError, match="autoreset_mode='SAME_STEP'"):
        TextVecEnv(TextGenVectorEnv(2, "exact"))
    built = TextGenVectorEnv(2, "exact", autoreset_mode="SAME_STEP")
    with pytest.raises(ConfigError, match="built already; give it these arguments itself: kl_coef"):
        TextVecEnv(built, kl_coef=0.1)
    with pytest.raises(ConfigError, match="built already"):
        make_agent("ppo", built, env_kwargs={"kl_coef": 0.1})
    with pytest.raises(ConfigError, match="runs over a TextGenVectorEnv"):
        TextVecEnv(gymnasium.make_vec("CartPole-v1", num_envs=2, vectorization_mode="sync"))
    with pytest.raises(UnknownName, match=r"unknown algorithm 'pppo'\. Did you mean 'ppo'"):
        make_agent("pppo")
    with pytest.raises(ConfigError, match=r"unknown argument of ppo 'clip_rang'. Did you mean 'clip_range'"):
        make_agent("ppo", env_kwargs={"task": "exact"}, clip_rang=0.1)


def test_defaults_fit_rlhf():
    """CHECKS 28: discount 1, Adam's eps 1e-5, a value head at 0."""
    for algo, kind in (("ppo", PPO), ("a2c", A2C)):
        agent = make_agent(algo, env_kwargs={"task": "exact"}, n_envs=2)
        assert type(agent) is kind, "SB3's classes stay stock"
        assert (agent.gamma, agent.gae_lambda) == (1.0, 1.0)
        assert isinstance(agent.policy.optimizer, torch.optim.Adam)
        assert agent.policy.optimizer.defaults["eps"] == 1e-5
        state = torch.from_numpy(agent.env.reset())
        assert agent.policy.predict_values(state).tolist() == [[0.0], [0.0]]


@pytest.mark.parametrize(("n_envs", "n_steps"), [(5, 5), (1, 31), (3, 7), (1, 2)])
def test_odd_sizes_give_no_warning(n_envs: int, n_steps: int):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_agent("ppo", env_kwargs={"task": "exact"}, n_envs=n_envs, n_steps=n_steps)


@pytest.fixture
def vec_env(tiny_task: Task) -> TextVecEnv:
    return TextVecEnv(num_envs=3, task=tiny_task, device="cpu")


@pytest.fixture
def policy(vec_env: TextVecEnv, make_model: Any) -> CausalLMPolicy:
    """A policy wired by hand, with a value head that says something."""
    made = CausalLMPolicy(
        vec_env.observation_space,
        vec_env.action_space,
        lambda progress: 1e-3,
        model=make_model("llama", seed=1),
        tokenizer=vec_env.env.tokenizer,
        device="cpu",
    )
    torch.nn.init.normal_(made.actor_critic.value_head.weight)
    return made


def test_predict_takes_one_observation_or_a_batch(policy: CausalLMPolicy, vec_env: TextVecEnv):
    observations = vec_env.reset()
    tokens, state = policy.predict(observations, deterministic=True)
    assert (tokens.shape, tokens.dtype.kind, state) == ((3,), "i", None)
    for row in range(3):
        token, _ = policy.predict(observations[row], deterministic=True)
        assert token.shape == ()
        assert token == tokens[row]
        assert vec_env.action_space.contains(int(token))
    drawn = {tuple(policy.predict(observations)[0]) for _ in range(8)}
    assert len(drawn) > 1


def test_the_distribution_is_the_one_that_acts(policy: CausalLMPolicy, vec_env: TextVecEnv):
    """`get_distribution`, `forward` and `evaluate_actions` agree, on prefixes and on whole sequences."""
    state = torch.from_numpy(vec_env.reset())
    tokens, values, log_probs = policy(state)
    assert (tokens.shape, values.shape, log_probs.shape) == ((3,), (3, 1), (3,))
    distribution = policy.get_distribution(state)
    torch.testing.assert_close(distribution.log_prob(tokens), log_probs, atol=1e-5, rtol=0)
    evaluated = policy.evaluate_actions(state, tokens[:, None])
    assert evaluated[0].shape == (3, 1)
    torch.testing.assert_close(evaluated[0], values, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(evaluated[1], log_probs, atol=1e-5, rtol=0)
    torch.testing.assert_close(evaluated[2], distribution.entropy(), atol=1e-4, rtol=0)
    torch.testing.assert_close(policy.predict_values(state), values, atol=1e-5, rtol=1e-5)
    packed = pack_suffixes([np.array([0, 9, 40, 7])], [2], "cpu")
    whole = policy.get_distribution(packed)
    torch.testing.assert_close(
        whole.log_prob(packed.actions), policy.evaluate_actions(packed, packed.actions)[1], atol=1e-5, rtol=0
    )
    assert whole.log_prob(packed.actions).requires_grad


def test_a_policy_must_emit_what_the_environment_takes(vec_env: TextVecEnv):
    with pytest.raises(ConfigError, match="emits 6 tokens and the environment takes 320: give both the same model"):
        CausalLMPolicy(
            vec_env.observation_space,
            vec_env.action_space,
            lambda progress: 1e-3,
            model=get_task("exact").model()[0],
            tokenizer=get_task("exact").model()[1],
        )
    with pytest.raises(ConfigError, match="use_sde is for continuous actions"):
        CausalLMPolicy(vec_env.observation_space, vec_env.action_space, lambda progress: 1e-3, use_sde=True)


def test_a_given_module_is_copied(vec_env: TextVecEnv, make_model: Any):
    """Training must not reach the caller's module, nor unfreeze what the caller froze in the policy's copy."""
    model = make_model("llama")
    model.get_input_embeddings().weight.requires_grad_(False)
    arguments = {"model": model, "tokenizer": vec_env.env.tokenizer, "device": "cpu"}
    made = CausalLMPolicy(vec_env.observation_space, vec_env.action_space, lambda progress: 1e-3, **arguments)
    assert made.actor_critic.model is not model
    assert not made.actor_critic.model.get_input_embeddings().weight.requires_grad
    assert made.actor_critic.model.lm_head.weight.requires_grad
    shared = CausalLMPolicy(
        vec_env.observation_space, vec_env.action_space, lambda progress: 1e-3, share_model=True, **arguments
    )
    assert shared.actor_critic.model is model


@pytest.mark.parametrize("value_trunk", ["shared", "separate"])
def test_a_saved_policy(value_trunk: str, vec_env: TextVecEnv, make_model: Any, tmp_path: Path):
    """`CausalLMPolicy.save` and `load`, and CHECKS 42: plain transformers loads the folder with equal logits."""
    policy = CausalLMPolicy(
        vec_env.observation_space,
        vec_env.action_space,
        lambda progress: 1e-3,
        model=make_model("llama", seed=1),
        tokenizer=vec_env.env.tokenizer,
        sampling=SamplingParams(temperature=0.8),
        value_trunk=value_trunk,
        device="cpu",
    )
    torch.nn.init.normal_(policy.actor_critic.value_head.weight)
    policy.save(tmp_path)
    loaded = CausalLMPolicy.load(tmp_path, device="cpu")
    state = torch.from_numpy(vec_env.reset())
    actions = torch.tensor([9, 40, 7])
    for got, wanted in zip(
        loaded.evaluate_actions(state, actions), policy.evaluate_actions(state, actions), strict=True
    ):
        torch.testing.assert_close(got, wanted, atol=1e-6, rtol=0)
    assert (loaded.observation_space, loaded.action_space) == (policy.observation_space, policy.action_space)
    ids = state[:1, :3]
    plain = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True)
    with torch.no_grad():
        wanted = policy.actor_critic.model(input_ids=ids).logits
        torch.testing.assert_close(plain(input_ids=ids).logits, wanted, atol=0, rtol=0)
    with pytest.raises(ModelError, match=r"not a folder written by CausalLMPolicy\.save"):
        CausalLMPolicy.load(tmp_path.parent)


def test_in_log_ratio_mode_every_way_to_act_reports_its_log_prob(tiny_task: Task):
    """`agent.predict` and then `env.step`, as SB3's evaluation does: the KL is of the actions taken, not of earlier."""
    env_kwargs = {"task": tiny_task, "kl_mode": "log_ratio"}
    agent = make_agent("ppo", env_kwargs=env_kwargs, n_envs=3, n_steps=4, seed=0, learning_rate=0.0)
    agent.learn(12)
    observations = agent.env.reset()
    for _ in range(4):
        tokens, _ = agent.predict(observations)
        observations, _, _, infos = agent.env.step(tokens)
        # The policy is the reference still, so anything but 0 is another step's log-prob.
        assert [info["kl"] for info in infos] == pytest.approx([0.0] * 3, abs=1e-5)
