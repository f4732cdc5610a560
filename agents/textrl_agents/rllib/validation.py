"""What RLlib would accept, and train on in silence or fail on much later."""

from __future__ import annotations

from typing import Any

from gymnasium.vector import AutoresetMode
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig

from textrl_env.errors import ConfigError
from textrl_env.tasks import get_task

ADVICE = "pass it to make_config"


def check_config(config: AlgorithmConfig) -> None:
    """Raise ConfigError where `config`, made by `make_config` and changed since, cannot work."""
    env = config.env_config
    _check_environment(config, env)
    _check_sampling(config, env)
    connector = config._learner_connector.keywords
    for name in ("gamma", "lambda_"):
        if name in connector and connector[name] != getattr(config, name):
            raise ConfigError(
                f"{name} was changed to {getattr(config, name)} after make_config had wired {connector[name]}; {ADVICE}"
            )
    try:
        config.validate()
    except ValueError as error:
        raise ConfigError(f"RLlib refuses this configuration: {error}") from error


def _check_environment(config: AlgorithmConfig, env: dict[str, Any]) -> None:
    if dict(env) != config.rl_module_spec.model_config["env"]:
        raise ConfigError(f"env_config was changed after make_config had wired it; {ADVICE}")
    mode = env.get("autoreset_mode", AutoresetMode.NEXT_STEP)
    if mode not in (AutoresetMode.NEXT_STEP, AutoresetMode.NEXT_STEP.value, AutoresetMode.NEXT_STEP.name):
        raise ConfigError(
            f"RLlib needs autoreset_mode NEXT_STEP, got {mode!r}: with SAME_STEP it takes the first observation of the "
            "next episode for the last of this one, without a word"
        )


def _check_sampling(config: AlgorithmConfig, env: dict[str, Any]) -> None:
    if config.batch_mode != "truncate_episodes":
        raise ConfigError(
            f"batch_mode must be 'truncate_episodes', got {config.batch_mode!r}: complete_episodes keeps the episodes "
            "that finish first, which favours short responses, and throws the others away"
        )
    limit = env.get("max_new_tokens") or get_task(env["task"]).max_new_tokens
    # The rows' mean length is what must fit: a response's, or a fragment's and what others spent on resets, below 1.
    resets = int(config.num_envs_per_env_runner > 1)
    longest = min(limit, config.get_rollout_fragment_length() + resets)
    batch = config.train_batch_size_per_learner
    minibatch = getattr(config, "minibatch_size", None)
    if minibatch is not None and minibatch < longest:
        raise ConfigError(
            f"minibatch_size must be at least {longest}, a long row of a batch (max_new_tokens is {limit}, "
            f"rollout_fragment_length {config.rollout_fragment_length}), got {minibatch}: a minibatch holds whole rows"
        )
    if minibatch is not None and batch is not None and minibatch > batch:
        raise ConfigError(
            f"minibatch_size {minibatch} is more than the train_batch_size_per_learner of {batch}: raise the latter "
            "(or num_envs_per_env_runner, or rollout_fragment_length), or lower the former"
        )
    if not config.explore:
        raise ConfigError("explore must be True: a greedy token has no log-probability that could be trained on")
    if getattr(config, "broadcast_interval", 1) != 1:
        raise ConfigError(
            f"broadcast_interval must be 1, got {config.broadcast_interval}: with more, a thread of the learner "
            "updates the weights while the next batch is scored with them"
        )
    if getattr(config, "num_aggregator_actors_per_learner", 0):
        raise ConfigError("num_aggregator_actors_per_learner must be 0: the KL is charged where the learner is")
    if config.algo_class.__name__ == "APPO" and config.use_kl_loss:
        raise ConfigError(
            "use_kl_loss of APPO compares two policies over the whole vocabulary, which is never held; the KL to the "
            "reference is kl_coef of the environment"
        )
