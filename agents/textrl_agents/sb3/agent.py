"""`make_agent`: a stock SB3 algorithm, wired to text generation."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger
from torch import nn

from textrl_agents.sb3.algorithms import Recipe, argument_names, get_recipe
from textrl_agents.sb3.buffers.replay_buffer import EpisodeReplayBuffer
from textrl_agents.sb3.buffers.response_buffer import check_whole_responses
from textrl_agents.sb3.buffers.rollout_buffer import EpisodeRolloutBuffer
from textrl_agents.sb3.model_copy import ModelCopy
from textrl_agents.sb3.own.nlpo import MaskedCausalLMPolicy
from textrl_agents.sb3.own.tabular import TabularPolicy
from textrl_agents.sb3.policy import CausalLMPolicy
from textrl_agents.sb3.q_policy import CausalLMQPolicy
from textrl_agents.sb3.runs.progress_lines import ProgressLines
from textrl_agents.sb3.validation import check_arguments
from textrl_agents.sb3.vec_env import TextVecEnv
from textrl_agents.training.learning_rate import WarmupSchedule
from textrl_agents.training.reward_probe import probe_reward
from textrl_env import ENV_ID, TextGenVectorEnv
from textrl_env.errors import ConfigError, UnknownName
from textrl_env.kl import FixedKL


def make_agent(
    algo: str,
    env: str | TextVecEnv | TextGenVectorEnv = ENV_ID,
    *,
    n_envs: int = 32,
    env_kwargs: dict[str, Any] | None = None,
    lora: dict[str, Any] | None = None,
    progress: bool = True,
    **overrides: Any,
) -> Any:
    """A stock SB3 algorithm that trains the environment's model.

    algo: "ppo", "a2c", "dqn" (SB3), "trpo", "qrdqn" (sb3-contrib), "soft_dqn" (SB3's DQN with the soft backup of
        `q_policy`), "nlpo", "reinforce", "rloo", "grpo" (SB3 algorithms of this package), "q_learning" or "sarsa"
        (tables, for tasks that can be enumerated).
    env: an id, or an environment that is built already.
    n_envs: rows sampled at once. env_kwargs: the environment's arguments (`task`, `model`, `reward`, ...).
    lora: keyword arguments of `peft.LoraConfig`: train an adapter alone.
    progress: `learn` tells tokens, speed, time left, score and KL in a line on stderr, every ten seconds at most. A
        logger of your own (`set_logger`), `verbose` or `tensorboard_log` takes its place.
    overrides: the algorithm's own arguments, on top of defaults that fit RLHF. `policy_kwargs` are CausalLMPolicy's;
        `learning_rate` may be a mapping, what `WarmupSchedule.of` takes.

    The policy starts as a copy of the environment's model, which is the reference. The DQN family cannot report
    log-probabilities, so its environment charges the cross-entropy (`kl_mode="cross_entropy"`). The policy of DQN and
    QR-DQN is greedy; that of soft DQN is sampled, and solves the KL-regularised problem: its values carry the entropy.
    The tables are charged in the same way. `evaluate_policy` of a policy that is sampled belongs in a TextVecEnv in its
    default mode, which pays `score - kl_coef * KL`: the cross-entropy alone leaves the entropy out.

    The reward is called once, on three made-up responses: a wrong number of scores is told here, and not in training.
    """
    agent = _agent(algo, env, n_envs, dict(env_kwargs or {}), lora, overrides)
    if progress and not overrides.get("verbose") and overrides.get("tensorboard_log") is None:
        agent.set_logger(Logger(None, [ProgressLines(agent)]))
    return agent


def _agent(
    algo: str,
    env: str | TextVecEnv | TextGenVectorEnv,
    n_envs: int,
    env_kwargs: dict[str, Any],
    lora: dict[str, Any] | None,
    overrides: dict[str, Any],
) -> Any:
    recipe = get_recipe(algo)
    known = argument_names(algo)
    for name in overrides:
        if name not in known and name not in ("seed", "device", "verbose", "tensorboard_log"):
            raise UnknownName(f"argument of {algo}", name, known)
    arguments = {**recipe.defaults, **overrides}
    check_arguments(recipe.kind, arguments, n_envs)
    if recipe.group_size > 1:
        arguments.setdefault("group_size", recipe.group_size)
    vec_env = _environment(recipe, arguments, env, n_envs, env_kwargs, lora)
    probe_reward(vec_env.env.rules, vec_env.env.prompts, steps=arguments.get("n_steps", 1))
    if recipe.kind == "table":
        return _built(recipe, TabularPolicy, vec_env, arguments)
    arguments["policy_kwargs"] = _policy_kwargs(recipe, arguments.get("policy_kwargs"), vec_env)
    arguments["learning_rate"] = _learning_rate(arguments.get("learning_rate"), vec_env)
    if recipe.minibatches and "batch_size" not in arguments:
        arguments["batch_size"] = max(2, arguments["n_steps"] * vec_env.num_envs // recipe.minibatches)
    if algo == "nlpo" and vec_env.env.kl_penalty.estimator == "full":
        raise ConfigError("nlpo samples from a masked distribution, which kl_estimator='full' does not know; use 'k1'")
    if recipe.kind == "value":
        return _value_based(recipe, vec_env, arguments)
    return _on_policy(algo, recipe, vec_env, arguments)


def _environment(
    recipe: Recipe,
    arguments: dict[str, Any],
    env: str | TextVecEnv | TextGenVectorEnv,
    n_envs: int,
    env_kwargs: dict[str, Any],
    lora: dict[str, Any] | None,
) -> TextVecEnv:
    if lora is not None:
        env_kwargs["lora"] = lora
    if not isinstance(env, str):
        if env_kwargs:
            raise ConfigError(f"env is built already; give it these arguments itself: {', '.join(env_kwargs)}")
        vec_env = env if isinstance(env, TextVecEnv) else TextVecEnv(env)
    else:
        if recipe.kind in ("value", "table"):
            env_kwargs = {"kl_mode": "cross_entropy", **env_kwargs}
        if recipe.kind == "responses":
            env_kwargs = {"group_size": arguments.get("group_size", 1), **env_kwargs}
        vec_env = TextVecEnv(env, n_envs, **env_kwargs)
    if recipe.kind == "responses":
        check_whole_responses(vec_env, arguments.get("group_size", 1))
    if recipe.kind in ("value", "table") and vec_env.env.rules.kl_mode != "cross_entropy":
        raise ConfigError(
            f"this algorithm reports no log-probabilities: it needs an environment with kl_mode='cross_entropy', not "
            f"{vec_env.env.rules.kl_mode!r}"
        )
    return vec_env


def _policy_kwargs(recipe: Recipe, given: dict[str, Any] | None, vec_env: TextVecEnv) -> dict[str, Any]:
    reference = vec_env.env.kl_penalty.require_reference()
    name = vec_env.env.model_name
    model = (given or {}).get("model", reference.lm.model if name is None else name)
    return {
        "tokenizer": vec_env.env.tokenizer,
        "sampling": vec_env.env.rules.sampling,
        "device": str(reference.lm.device),
        "dtype": reference.lm.dtype,
        **recipe.policy,
        **(given or {}),
        "model": ModelCopy(model) if isinstance(model, nn.Module) else model,
    }


def _learning_rate(given: Any, vec_env: TextVecEnv) -> Any:
    """A mapping, or nothing, becomes a schedule that fits the model's size."""
    if given is not None and not isinstance(given, Mapping):
        return given
    model = vec_env.env.kl_penalty.require_reference().lm.model
    adapter = hasattr(model, "disable_adapter")
    trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad or not adapter)
    return WarmupSchedule.of(given, trained)


def _on_policy(algo: str, recipe: Recipe, vec_env: TextVecEnv, arguments: dict[str, Any]) -> Any:
    if recipe.kind == "critic":  # the others bring their own buffer
        arguments["rollout_buffer_class"] = EpisodeRolloutBuffer
    policy_class = MaskedCausalLMPolicy if algo == "nlpo" else CausalLMPolicy
    return _built(recipe, policy_class, vec_env, arguments)


def _value_based(recipe: Recipe, vec_env: TextVecEnv, arguments: dict[str, Any]) -> Any:
    if arguments["policy_kwargs"].get("soft"):
        arguments["policy_kwargs"]["q_scale"] = _soft_scale(vec_env, arguments["policy_kwargs"])
    agent: Any = _built(recipe, CausalLMQPolicy, vec_env, {**arguments, "replay_buffer_class": EpisodeReplayBuffer})
    agent.policy.gradient_guard.rewards = agent.replay_buffer.reward_range
    return agent


def _soft_scale(vec_env: TextVecEnv, policy_kwargs: dict[str, Any]) -> float:
    """The KL coefficient: what a nat of log-probability is worth to a soft policy."""
    controller = vec_env.env.kl_penalty.controller
    if not isinstance(controller, FixedKL) or controller.value <= 0:
        raise ConfigError("the soft backup needs a fixed kl_coef > 0: it is the temperature of the policy")
    if policy_kwargs.get("q_scale", controller.value) != controller.value:
        raise ConfigError(f"the soft backup has q_scale = kl_coef = {controller.value}; leave q_scale out")
    return controller.value


def _built(recipe: Recipe, policy_class: Any, vec_env: TextVecEnv, arguments: dict[str, Any]) -> BaseAlgorithm:
    device = vec_env.env.kl_penalty.require_reference().lm.device
    algorithm: Any = recipe.load()
    try:
        with warnings.catch_warnings():
            # Of SB3's own buffer; this one deals whole sequences into minibatches that are alike in size.
            warnings.filterwarnings("ignore", message="You have specified a mini-batch size")
            return algorithm(policy_class, vec_env, **{"device": device, **arguments})
    except TypeError as error:
        raise ConfigError(f"{algorithm.__name__} does not take these arguments: {error}") from error
