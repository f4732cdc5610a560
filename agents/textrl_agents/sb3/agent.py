"""`make_agent`: a stock SB3 algorithm, wired to text generation."""

from __future__ import annotations

import warnings
from typing import Any

from stable_baselines3 import A2C, PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from textrl_agents.learning_rate import WarmupSchedule, default_learning_rate
from textrl_agents.sb3.ledger import EpisodeLedger
from textrl_agents.sb3.policy import CausalLMPolicy
from textrl_agents.sb3.rollout_buffer import EpisodeRolloutBuffer
from textrl_agents.sb3.vec_env import TextVecEnv
from textrl_env import ENV_ID, TextGenVectorEnv
from textrl_env.errors import ConfigError, UnknownName

ALGORITHMS: dict[str, type[OnPolicyAlgorithm]] = {"ppo": PPO, "a2c": A2C}

# What RLHF needs and SB3's defaults, made for control tasks, are not: no discount (the score comes at the end and the
# horizon is the response), whole responses in a rollout, several small epochs, little weight on the value loss where
# it shares the policy's trunk.
SHARED_DEFAULTS: dict[str, Any] = {
    "gamma": 1.0,
    "gae_lambda": 0.95,
    "vf_coef": 0.1,
    "ent_coef": 0.0,
    "max_grad_norm": 1.0,
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "ppo": {"n_steps": 64, "n_epochs": 4, "clip_range": 0.2},
    "a2c": {"n_steps": 64, "use_rms_prop": False, "normalize_advantage": True},
}
MINIBATCHES = 4


def make_agent(
    algo: str,
    env: str | TextVecEnv | TextGenVectorEnv = ENV_ID,
    *,
    n_envs: int = 32,
    env_kwargs: dict[str, Any] | None = None,
    lora: dict[str, Any] | None = None,
    **overrides: Any,
) -> OnPolicyAlgorithm:
    """A stock SB3 algorithm that trains the environment's model.

    algo: "ppo" or "a2c". env: an id, or an environment that is built already.
    n_envs: rows sampled at once. env_kwargs: the environment's arguments (`task`, `model`, `reward`, ...).
    lora: keyword arguments of `peft.LoraConfig`: train an adapter alone.
    overrides: the algorithm's own arguments, on top of defaults that fit RLHF; `policy_kwargs` are CausalLMPolicy's.

    The policy starts as a copy of the environment's model, which is the reference.
    """
    if algo not in ALGORITHMS:
        raise UnknownName("algorithm", algo, ALGORITHMS)
    env_kwargs = dict(env_kwargs or {})
    if lora is not None:
        env_kwargs["lora"] = lora
    if isinstance(env, str):
        vec_env = TextVecEnv(env, n_envs, **env_kwargs)
    elif env_kwargs:
        raise ConfigError(f"env is built already; give it these arguments itself: {', '.join(env_kwargs)}")
    else:
        vec_env = env if isinstance(env, TextVecEnv) else TextVecEnv(env)
    reference = vec_env.env.kl_penalty.reference
    assert reference is not None  # an environment always has one

    arguments = {**SHARED_DEFAULTS, **DEFAULTS[algo], **overrides}
    # By name where there is one: SB3 pickles these arguments when it saves, and weights do not belong there.
    name = vec_env.env.model_name
    policy_kwargs = {
        "model": reference.lm.model if name is None else name,
        "tokenizer": vec_env.env.tokenizer,
        "sampling": reference.sampling,
        "device": str(reference.lm.device),
        "dtype": reference.lm.dtype,
        "entropy_gradient": arguments["ent_coef"] != 0,
        **(arguments.pop("policy_kwargs", None) or {}),
    }
    if "learning_rate" not in arguments:
        model = reference.lm.model
        adapter = hasattr(model, "disable_adapter")
        trained = sum(weight.numel() for weight in model.parameters() if weight.requires_grad or not adapter)
        arguments["learning_rate"] = WarmupSchedule(default_learning_rate(trained))
    if algo == "ppo" and "batch_size" not in arguments:
        arguments["batch_size"] = max(2, arguments["n_steps"] * vec_env.num_envs // MINIBATCHES)
    try:
        with warnings.catch_warnings():
            # Of SB3's own buffer; this one deals whole sequences into minibatches that are alike in size.
            warnings.filterwarnings("ignore", message="You have specified a mini-batch size")
            agent = ALGORITHMS[algo](
                CausalLMPolicy,
                vec_env,
                rollout_buffer_class=EpisodeRolloutBuffer,
                rollout_buffer_kwargs={"ledger": EpisodeLedger(vec_env)},
                policy_kwargs=policy_kwargs,
                device=reference.lm.device,
                **arguments,
            )
    except TypeError as error:
        raise ConfigError(f"{algo} does not take these arguments: {error}") from error
    buffer, policy = agent.rollout_buffer, agent.policy
    assert isinstance(buffer, EpisodeRolloutBuffer)
    assert isinstance(policy, CausalLMPolicy)
    buffer.bind(vec_env, policy)
    return agent
