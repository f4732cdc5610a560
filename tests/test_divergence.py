"""Numbers that no update can use stop a run before a weight changes: huge rewards, infinite norms, NaN log-probs."""

from __future__ import annotations

import functools
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import quick

from textrl_agents.algorithms.registry import get_algorithm, names_in
from textrl_agents.evaluation import evaluate
from textrl_agents.runs.checkpoint_files import save_policy_files
from textrl_agents.sb3 import make_agent
from textrl_agents.training.divergence import MAX_REWARD, GradientGuard, check_log_probs, check_rewards
from textrl_env.errors import ModelError, TextRLError, TrainingDiverged
from textrl_env.trajectory import Trajectory

TRAINED = [name for name in names_in("sb3") if get_algorithm(name).kind != "table"]


def huge(prompts: list[str], completions: list[str], **columns: Any) -> list[float]:
    """Finite, and different from each other."""
    return [1e30 * (len(text) % 2) for text in completions]


def agent_of(algo: str, reward: Any = None) -> Any:
    rollout = {"train_freq": 4, "batch_size": 32} if get_algorithm(algo).kind == "value" else {"n_steps": 8}
    env_kwargs = {"task": "exact", "device": "cpu", **({} if reward is None else {"reward": reward})}
    return make_agent(algo, env_kwargs=env_kwargs, n_envs=8, seed=0, **rollout)


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: weight.detach().clone() for name, weight in module.named_parameters()}


def assert_unchanged(module: torch.nn.Module, before: dict[str, torch.Tensor]) -> None:
    for name, weight in module.named_parameters():
        assert torch.equal(weight, before[name]), name


def overflow(module: torch.nn.Module) -> None:
    """Give one weight a gradient whose every entry is finite and whose norm is not: clipping makes it 0."""
    weight = module.actor_critic.lm.model.get_output_embeddings().weight  # type: ignore[union-attr]
    weight.register_hook(lambda gradient: torch.full_like(gradient, 1e30))


@pytest.mark.parametrize("algo", TRAINED)
def test_a_reward_that_float32_cannot_square(algo: str) -> None:
    agent = agent_of(algo, huge)
    before = weights(agent.policy)
    with pytest.raises(TrainingDiverged, match=r"rewards between \S+ and 1e\+30 cannot be trained on.*No weight"):
        agent.learn(640)
    assert_unchanged(agent.policy, before)


@pytest.mark.parametrize("algo", TRAINED)
def test_a_gradient_whose_norm_is_infinite(algo: str) -> None:
    agent = agent_of(algo)
    overflow(agent.policy)
    before = weights(agent.policy)
    with pytest.raises(TrainingDiverged, match=r"norm is inf: .* The rewards trained on lie between -?\d.* and \d"):
        agent.learn(640)
    assert_unchanged(agent.policy, before)


@pytest.mark.parametrize("algo", ["ppo", "rloo"])
def test_log_probs_that_are_not_numbers(algo: str, tmp_path: Path) -> None:
    agent = agent_of(algo)
    agent.learn(64)  # from a model that is sound
    with torch.no_grad():
        agent.policy.actor_critic.lm.model.get_output_embeddings().weight[0, 0] = torch.nan
    with pytest.raises(TrainingDiverged, match=r"log-probability of a sampled token is nan: its weights overflow"):
        agent.learn(640)
    with pytest.raises(TrainingDiverged, match=r"the weights are not finite .*so they are not saved"):
        save_policy_files(agent.policy.actor_critic, tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_model_that_is_broken_before_training() -> None:
    agent = agent_of("ppo")
    with torch.no_grad():
        agent.policy.actor_critic.lm.model.get_output_embeddings().weight[0, 0] = torch.nan
    with pytest.raises(ModelError, match=r"LlamaForCausalLM computes numbers that are not finite: .*for float32"):
        agent.learn(640)


def half_precision_policy() -> Any:
    """With a LoRA adapter whose weights are finite and whose products are too large for float16."""
    pytest.importorskip("peft")
    arguments = {"task": "exact", "device": "cpu", "dtype": "float16", "lora": {"r": 2}}
    core = make_agent("ppo", env_kwargs=arguments, n_envs=8, n_steps=8, seed=0).policy.actor_critic
    assert np.isfinite(evaluate(core, "exact", episodes=8)["kl"].mean)
    with torch.no_grad():
        for parameter in core.parameters():
            if parameter.requires_grad:
                parameter.fill_(6e4)
    return core


def test_a_policy_whose_products_overflow_half_precision_is_neither_measured_nor_saved(tmp_path: Path) -> None:
    core = half_precision_policy()
    with pytest.raises(TrainingDiverged, match="log-probability of a sampled token is nan"):
        evaluate(core, "exact", episodes=8)
    with pytest.raises(TrainingDiverged, match=r"logits are not finite: its weights overflow, so they are not saved"):
        save_policy_files(core, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.parametrize("algo", ["dqn", "qrdqn", "soft_dqn"])
def test_values_that_are_not_finite(algo: str, value: float) -> None:
    """Huber's loss of an infinite difference is infinite, and its gradient is 1."""
    agent = agent_of(algo)
    with torch.no_grad():
        agent.policy.actor_critic.value_head.bias.fill_(value)
    before = {name: weight.nan_to_num(7.0) for name, weight in weights(agent.policy).items()}
    with pytest.raises(TrainingDiverged, match="value of a state is not finite"):
        agent.learn(640)
    assert all(torch.equal(weight.nan_to_num(7.0), before[name]) for name, weight in weights(agent.policy).items())


def test_the_limits() -> None:
    check_rewards(np.array([-MAX_REWARD, MAX_REWARD]))
    check_log_probs(np.array([-50.0, 0.0]))
    for reward in (2 * MAX_REWARD, -2 * MAX_REWARD, np.inf, np.nan):
        with pytest.raises(TrainingDiverged, match="cannot be trained on"):
            check_rewards(np.array([0.0, reward]))
    for log_prob in (np.nan, -np.inf):
        with pytest.raises(TrainingDiverged, match="log-probability of a sampled token is"):
            check_log_probs(np.array([[0.0, log_prob]]))


def test_the_largest_reward_that_is_taken_still_trains() -> None:
    """The limit is not too high: neither the value loss nor a gradient's norm overflows below it."""
    agent = agent_of("ppo", lambda prompts, completions, **columns: [0.9 * MAX_REWARD] * len(completions))
    before = weights(agent.policy)
    agent.learn(64)
    assert any(not torch.equal(weight, before[name]) for name, weight in agent.policy.named_parameters())
    assert np.isfinite(agent.logger.name_to_value["train/loss"])


@pytest.mark.parametrize(("huge", "norm"), [(1e30, "inf"), (float("nan"), "nan")])
def test_a_guard_measures_what_clipping_hides(huge: float, norm: str) -> None:
    weight = torch.nn.Parameter(torch.zeros(3))
    optimizer = torch.optim.Adam([weight], lr=0.1)
    GradientGuard(optimizer)
    (weight * huge).sum().backward()
    torch.nn.utils.clip_grad_norm_([weight], 1.0)
    assert weight.grad is not None
    assert not weight.grad.nan_to_num().any()  # what would be stepped with
    with pytest.raises(TrainingDiverged, match=f"norm is {norm}"):
        optimizer.step()
    optimizer.zero_grad()
    weight.sum().backward()
    optimizer.step()  # the next one is judged by itself
    assert weight.detach().abs().min() > 0


def test_the_error_is_one_of_ours_and_travels_between_processes() -> None:
    error = pickle.loads(pickle.dumps(TrainingDiverged("norm")))
    assert isinstance(error, TextRLError)
    assert str(error) == "norm"


# --- RLlib ------------------------------------------------------------------------------------------------


def learner_of(algo: str, reward: Any = None) -> tuple[Any, list[Any]]:
    """A learner in this process, and episodes that a runner has sampled for it."""
    pytest.importorskip("ray.rllib")
    from textrl_agents.rllib import make_config
    from textrl_agents.rllib.env_runner import TextEnvRunner

    env = {"task": "exact", "device": "cpu", **({} if reward is None else {"reward": reward})}
    config = make_config(algo, env, num_envs_per_env_runner=8, rollout_fragment_length=8, seed=0)
    runner = TextEnvRunner(config=config, worker_index=0)
    return config.build_learner(env=runner.env), runner.sample()


def update(learner: Any, episodes: list[Any]) -> None:
    from ray.rllib.core.learner.training_data import TrainingData

    learner.update(training_data=TrainingData(episodes=episodes), timesteps={"num_env_steps_sampled_lifetime": 0})


def module_of(learner: Any) -> Any:
    return learner.module["default_policy"].unwrapped()


@pytest.mark.parametrize("algo", ["ppo", "appo", "impala"])
def test_rllib_refuses_a_huge_reward(algo: str) -> None:
    learner, episodes = learner_of(algo, huge)
    before = weights(module_of(learner))
    with pytest.raises(TrainingDiverged, match=r"rewards between \S+ and 1e\+30 cannot be trained on"):
        update(learner, episodes)
    learner.shutdown()
    assert_unchanged(module_of(learner), before)


def test_rllib_refuses_a_gradient_whose_norm_is_infinite() -> None:
    learner, episodes = learner_of("ppo")
    overflow(module_of(learner))
    before = weights(module_of(learner))
    with pytest.raises(TrainingDiverged, match=r"norm is inf: .* The rewards trained on lie between"):
        update(learner, episodes)
    assert_unchanged(module_of(learner), before)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_cluster")  # the thread puts weights into Ray's store
@pytest.mark.parametrize("algo", ["appo", "impala"])
def test_an_infinite_norm_in_rllibs_own_thread_reaches_the_caller(algo: str) -> None:
    """An error that ended the thread would leave the run waiting for ever."""
    learner, episodes = learner_of(algo)
    overflow(module_of(learner))
    before = weights(module_of(learner))
    with pytest.raises(TrainingDiverged, match=r"norm is inf: .* The rewards trained on lie between"):
        update(learner, episodes)
    learner.shutdown()
    assert_unchanged(module_of(learner), before)


@pytest.mark.parametrize("algo", ["appo", "impala"])
def test_after_an_infinite_norm_no_update_of_the_thread_changes_a_weight(algo: str) -> None:
    """The thread's part by itself, as it calls it; batches that wait in its queue still come."""
    learner, episodes = learner_of(algo)
    learner.shutdown()
    from ray.rllib.core.learner.learner import Learner
    from ray.rllib.core.learner.training_data import TrainingData

    steps = {"timesteps": {"num_env_steps_sampled_lifetime": 0}, "_no_metrics_reduce": True}
    Learner.update(learner, training_data=TrainingData(episodes=episodes), **steps)
    handle = module_of(learner).actor_critic.lm.model.get_output_embeddings().weight
    hook = handle.register_hook(lambda gradient: torch.full_like(gradient, 1e30))
    before = weights(module_of(learner))
    Learner.update(learner, training_data=TrainingData(episodes=episodes), **steps)
    hook.remove()
    Learner.update(learner, training_data=TrainingData(episodes=episodes), **steps)
    assert_unchanged(module_of(learner), before)


def test_rllib_refuses_log_probs_that_are_not_numbers() -> None:
    learner, episodes = learner_of("ppo")
    episodes[0].extra_model_outputs["action_logp"][0] = np.nan
    with pytest.raises(TrainingDiverged, match="log-probability of a sampled token is nan"):
        update(learner, episodes)


# --- TRL --------------------------------------------------------------------------------------------------


def trl_run(reward: Any = None) -> tuple[Any, Any]:
    """An environment of `exact` as TRL's entries have it, and a policy to train in it."""
    pytest.importorskip("trl")
    from textrl_agents.algorithms.cell_setup import initial_policy
    from textrl_env import TextGenVectorEnv

    arguments = {"device": "cpu", "autoreset_mode": "SAME_STEP", "kl_mode": "deferred"}
    env = TextGenVectorEnv(1, "exact", **arguments, **({} if reward is None else {"reward": reward}))
    return env, initial_policy(env)


@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_trl_refuses_a_huge_reward(algorithm: str) -> None:
    env, policy = trl_run(huge)
    before = weights(policy)
    from textrl_agents.trl import train_online

    with pytest.raises(TrainingDiverged, match=r"rewards between 0 and 1e\+30 cannot be trained on"):
        train_online(algorithm, env, policy, budget=200)
    assert_unchanged(policy, before)


@pytest.mark.parametrize("algorithm", quick(["grpo"], ["rloo", "grpo", "online_dpo", "dpo", "orpo", "kto"]))
def test_trl_refuses_a_gradient_whose_norm_is_infinite(algorithm: str) -> None:
    env, policy = trl_run()
    from textrl_agents.trl import train_offline, train_online

    policy.model.get_output_embeddings().weight.register_hook(lambda gradient: torch.full_like(gradient, 1e30))
    before = weights(policy)
    pairs = [tuple(Trajectory.of_response(np.array([0]), np.array(ids)) for ids in ([1, 2, 5], [4, 5]))] * 4
    train: Any = functools.partial(train_online, budget=200)
    if algorithm in ("dpo", "orpo", "kto"):
        train = functools.partial(train_offline, pairs=pairs)
    with pytest.raises(TrainingDiverged, match="norm is inf"):
        train(algorithm, env, policy)
    assert_unchanged(policy, before)
