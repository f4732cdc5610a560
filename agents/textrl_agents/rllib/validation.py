"""What RLlib would accept, and train on in silence or fail on much later: settings, and env runners that failed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from gymnasium.vector import AutoresetMode
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.callbacks.callbacks import RLlibCallback

from textrl_agents.algorithms.algorithm import load_object
from textrl_agents.algorithms.libraries.rllib import RLlibAlgorithm
from textrl_agents.training.learning_rate import check_learning_rate
from textrl_env.errors import ConfigError
from textrl_env.models import CausalLMActorCritic
from textrl_env.tasks import get_task
from textrl_env.user_values import LARGEST_SEED, check_names, check_number, check_seed, check_whole

ANSWER_SECONDS = 5.0  # for an env runner that is busy or gone; one that failed answers at once
ADVICE = "pass it to make_config"
# Settings of RLlib's old API stack, or of pieces that are replaced: RLlib would take them, to no effect.
_NO_EFFECT = {
    "train_batch_size": "the new API stack has train_batch_size_per_learner",
    "observation_filter": "observations are token ids",
    "compress_observations": "observations are token ids",
    "normalize_actions": "actions are token ids",
    "clip_actions": "actions are token ids",
    "clip_rewards": "scale the reward itself",
    "use_critic": "advantages come from the value head",
    "use_gae": "advantages come from GAE or V-trace",
    "enable_rl_module_and_learner": "there is the new API stack alone",
    "enable_env_runner_and_connector_v2": "there is the new API stack alone",
    "in_evaluation": "RLlib sets it",
}
# Whole numbers, and the least that each can be.
_LEAST = {
    "num_envs_per_env_runner": 1,
    "num_env_runners": 0,
    "num_learners": 0,
    "num_epochs": 1,
    "minibatch_size": 1,
    "rollout_fragment_length": 1,
    "train_batch_size_per_learner": 1,
    "circular_buffer_num_batches": 1,
    "circular_buffer_iterations_per_batch": 1,
    "target_network_update_freq": 0,
    "learner_queue_size": 1,
}
_WIRED = (
    *("env", "env_config", "env_runner_cls", "rl_module_spec", "gym_env_vectorize_mode"),
    "add_default_connectors_to_env_to_module_pipeline",
    "add_default_connectors_to_module_to_env_pipeline",
    "add_default_connectors_to_learner_pipeline",
)
# Arguments of `make_config` beside the settings.
_OF_MAKE_CONFIG = ("actor_critic", "old_log_probs", "optimizer")
# Arguments of CausalLMActorCritic that follow from the environment's.
_OF_ENVIRONMENT = ("model", "tokenizer", "max_length", "sampling", "precision", "response_tokens")


def check_settings(algorithm: RLlibAlgorithm, settings: Mapping[str, Any]) -> None:
    """Raise UnknownName for a setting that the algorithm's configuration does not have, ConfigError for one that is
    wired or would have no effect. `_OF_MAKE_CONFIG` are `make_config`'s own.
    """
    config = load_object(algorithm.config_class)()
    properties = [name for name in dir(type(config)) if isinstance(getattr(type(config), name), property)]
    writable = [name for name in properties if getattr(type(config), name).fset is not None]
    known = [name for name in [*vars(config), *writable, *_OF_MAKE_CONFIG] if not name.startswith("_")]
    for name in settings:
        if name in _WIRED:
            raise ConfigError(f"{name} is what make_config wires; it cannot be overridden")
        check_names(f"setting of {algorithm.name_in_library}", [name], known)
        if name in _NO_EFFECT:
            raise ConfigError(f"{name} has no effect here: {_NO_EFFECT[name]}")


def check_values(settings: Mapping[str, Any], actor_critic: Mapping[str, Any]) -> None:
    """Raise ConfigError for a value that no algorithm can work with, UnknownName for an argument of `actor_critic`."""
    for name, value in settings.items():
        if type(value).__module__.startswith("ray.tune.search.") or (
            isinstance(value, dict) and "grid_search" in value
        ):
            raise ConfigError(
                f"{name} is a search space; set it on the finished configuration: make_config(...).training({name}=...)"
            )
    for name, least in _LEAST.items():
        value = settings.get(name, least)
        if (name, value) in (("rollout_fragment_length", "auto"), ("minibatch_size", None)):
            continue
        check_whole(name, value, least)
    check_seed(settings.get("seed"), LARGEST_SEED)
    check_learning_rate("lr", settings.get("lr"))
    for name in ("gamma", "lambda_"):
        check_number(name, settings.get(name, 1.0), 0, 1)
    for name in ("vf_loss_coeff", "kl_coeff"):
        check_number(name, settings.get(name, 0.0), 0)
    for name in ("clip_param", "grad_clip"):
        if settings.get(name) is not None:
            check_number(name, settings[name], 0, above=True)
    known = [name for name in inspect.signature(CausalLMActorCritic).parameters if name not in _OF_ENVIRONMENT]
    check_names("argument of actor_critic", actor_critic, known)


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
    # Rows must fit at their mean length: a response's, or a fragment's and below 1 more, which others spent on resets.
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


class TextCallbacks(RLlibCallback):
    """Checks the configuration as it was built, and stops training where the environment fails on an env runner."""

    def on_algorithm_init(self, *, algorithm: Any, **kwargs: Any) -> None:
        check_config(algorithm.config)

    def on_train_result(self, *, algorithm: Any, result: dict[str, Any], **kwargs: Any) -> None:
        for group in (algorithm.env_runner_group, algorithm.eval_env_runner_group):
            if group is not None and group.num_healthy_remote_workers() < group.num_remote_workers():
                _raise_failure(group)

    def on_env_runners_recreated(self, *, env_runner_group: Any, env_runner_indices: list[int], **kwargs: Any) -> None:
        # An asynchronous algorithm's iteration is many steps, and each may bring a runner back into service.
        _raise_failure(env_runner_group, list(env_runner_indices))


def _raise_failure(group: Any, runners: list[int] | None = None) -> None:
    """Raise what the environment of one of `runners` (all, by default) raised."""
    failures = group.foreach_env_runner(
        lambda runner: (runner.worker_index, runner.take_failure()),
        local_env_runner=False,
        healthy_only=False,
        remote_worker_ids=runners,
        timeout_seconds=ANSWER_SECONDS,
    )
    for index, failure in failures:
        if failure is not None:
            failure.add_note(f"raised in env runner {index}")
            raise failure
