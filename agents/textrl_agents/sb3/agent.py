"""`make_agent`: a stock SB3 algorithm, wired to text generation; and its rollout and update one by one."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import nn

from textrl_agents.algorithms.algorithm import load_object
from textrl_agents.algorithms.libraries.sb3 import SB3Algorithm
from textrl_agents.algorithms.registry import find_algorithm
from textrl_agents.sb3.buffers.response_buffer import check_whole_responses
from textrl_agents.sb3.progress import ProgressLines
from textrl_agents.sb3.saved_policy import ModelCopy
from textrl_agents.sb3.validation import check_arguments, check_names
from textrl_agents.sb3.vec_env import TextVecEnv
from textrl_agents.training.learning_rate import WarmupSchedule
from textrl_agents.training.optimizers import warn_of_lost_updates
from textrl_agents.training.reward_probe import probe_reward
from textrl_env import ENV_ID, TextGenVectorEnv
from textrl_env.errors import ConfigError
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

    The reward is asked once a rollout, for all responses that ended in it (`score_mode="deferred"` in `env_kwargs`, the
    default here). The DQN family and the tables learn from single steps, and ask as each response ends.

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
    algorithm = sb3_algorithm(algo)
    check_names(algorithm, overrides)
    arguments = {**algorithm.defaults, **overrides}
    check_arguments(algorithm.kind, arguments, n_envs)
    if algorithm.group_size > 1:
        arguments.setdefault("group_size", algorithm.group_size)
    vec_env = _environment(algorithm, arguments, env, n_envs, env_kwargs, lora)
    probe_reward(vec_env.env.rules, vec_env.env.prompts, steps=arguments.get("n_steps", 1))
    if algorithm.kind == "table":
        return _built(algorithm, vec_env, arguments)
    arguments["policy_kwargs"] = _policy_kwargs(algorithm, arguments.get("policy_kwargs"), vec_env)
    arguments["learning_rate"] = _learning_rate(arguments.get("learning_rate"), vec_env)
    if algorithm.minibatches and "batch_size" not in arguments:
        arguments["batch_size"] = max(2, arguments["n_steps"] * vec_env.num_envs // algorithm.minibatches)
    if algorithm.masks and vec_env.env.kl_penalty.estimator == "full":
        raise ConfigError(
            f"{algorithm.name} samples from a masked distribution, which kl_estimator='full' does not know; use 'k1'"
        )
    if arguments["policy_kwargs"].get("soft"):
        arguments["policy_kwargs"]["q_scale"] = _soft_scale(vec_env, arguments["policy_kwargs"])
    agent = _built(algorithm, vec_env, arguments)
    warn_of_lost_updates(weight.dtype for weight in agent.policy.parameters() if weight.requires_grad)
    if algorithm.kind == "value":
        agent.policy.gradient_guard.rewards = agent.replay_buffer.reward_range
    return agent


class SB3Phases:
    """The rollout and the update of an SB3 algorithm as two calls, to measure or check either. They write no logs."""

    def __init__(self, agent: OnPolicyAlgorithm):
        agent.set_logger(Logger(folder=None, output_formats=[]))
        _, self._callback = agent._setup_learn(total_timesteps=2**40)
        self.agent = agent
        self.tokens = agent.n_steps * agent.n_envs  # of one rollout, every one of them real

    def collect(self) -> int:
        """Run one rollout by SB3's own loop; return its tokens."""
        agent = self.agent
        assert agent.env is not None
        agent.collect_rollouts(agent.env, self._callback, agent.rollout_buffer, agent.n_steps)
        return self.tokens

    def train(self) -> int:
        """Run SB3's own update on the last rollout; return the rollout's tokens."""
        self.agent.train()
        return self.tokens


def sb3_algorithm(name: str) -> SB3Algorithm:
    """What the algorithm of that name says of itself. Raises UnknownName, and MissingExtra where it needs a package."""
    algorithm = find_algorithm(name, SB3Algorithm.library)
    assert isinstance(algorithm, SB3Algorithm)  # the library decides the class
    if (missing := algorithm.missing()) is not None:
        raise missing
    return algorithm


def _environment(
    algorithm: SB3Algorithm,
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
        if not algorithm.reports_log_probs:
            env_kwargs = {"kl_mode": "cross_entropy", "score_mode": "stepwise", **env_kwargs}
        if algorithm.kind == "responses":
            env_kwargs = {"group_size": arguments.get("group_size", 1), **env_kwargs}
        vec_env = TextVecEnv(env, n_envs, **env_kwargs)
    if vec_env.env.rules.turns is not None:
        algorithm.check_turns(vec_env.env.task.name)
    if algorithm.kind == "responses":
        check_whole_responses(vec_env, arguments.get("group_size", 1))
    if not algorithm.reports_log_probs and vec_env.env.rules.kl_mode != "cross_entropy":
        raise ConfigError(
            f"this algorithm reports no log-probabilities: it needs an environment with kl_mode='cross_entropy', not "
            f"{vec_env.env.rules.kl_mode!r}"
        )
    if not algorithm.reports_log_probs and vec_env.env.rules.score_mode != "stepwise":
        raise ConfigError("this algorithm learns from each step as it is taken: it needs score_mode='stepwise'")
    return vec_env


def _policy_kwargs(algorithm: SB3Algorithm, given: dict[str, Any] | None, vec_env: TextVecEnv) -> dict[str, Any]:
    reference = vec_env.env.kl_penalty.require_reference()
    name = vec_env.env.model_name
    model = (given or {}).get("model", reference.lm.model if name is None else name)
    return {
        "tokenizer": vec_env.env.tokenizer,
        "sampling": vec_env.env.rules.sampling,
        "device": str(reference.lm.device),
        "dtype": reference.lm.weight_dtype,
        "precision": reference.lm.precision,
        "response_tokens": vec_env.env.rules.max_new_tokens,
        **algorithm.policy_kwargs,
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


def _soft_scale(vec_env: TextVecEnv, policy_kwargs: dict[str, Any]) -> float:
    """The KL coefficient: what a nat of log-probability is worth to a soft policy."""
    controller = vec_env.env.kl_penalty.controller
    if not isinstance(controller, FixedKL) or controller.value <= 0:
        raise ConfigError("the soft backup needs a fixed kl_coef > 0: it is the temperature of the policy")
    if policy_kwargs.get("q_scale", controller.value) != controller.value:
        raise ConfigError(f"the soft backup has q_scale = kl_coef = {controller.value}; leave q_scale out")
    return controller.value


def _built(algorithm: SB3Algorithm, vec_env: TextVecEnv, arguments: dict[str, Any]) -> Any:
    device = vec_env.env.kl_penalty.require_reference().lm.device
    algorithm_class, policy_class = load_object(algorithm.algorithm_class), load_object(algorithm.policy_class)
    buffers = {name: load_object(buffer) for name, buffer in algorithm.buffers.items()}
    try:
        with warnings.catch_warnings():
            # The warning is about SB3's own buffer. This one deals whole sequences into minibatches of about one size.
            warnings.filterwarnings("ignore", message="You have specified a mini-batch size")
            return algorithm_class(policy_class, vec_env, **{"device": device, **arguments, **buffers})
    except TypeError as error:
        raise ConfigError(f"{algorithm_class.__name__} does not take these arguments: {error}") from error
