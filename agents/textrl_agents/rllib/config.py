"""`make_config`: a stock RLlib `AlgorithmConfig` (new API stack), wired to text generation."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils import force_list

from textrl_agents.algorithms.algorithm import load_object
from textrl_agents.algorithms.libraries.rllib import SHARED, RLlibAlgorithm
from textrl_agents.algorithms.registry import find_algorithm
from textrl_agents.rllib.env_runner import SendTokens, StackObservations, TextEnvRunner
from textrl_agents.rllib.learners import OPTIMIZER
from textrl_agents.rllib.portable import portable_arguments
from textrl_agents.rllib.validation import TextCallbacks, check_config, check_settings, check_values
from textrl_agents.training.learning_rate import WarmupSchedule
from textrl_agents.training.optimizers import optimizer_choice, warn_of_lost_updates
from textrl_agents.training.reward_probe import probe_reward
from textrl_agents.training.sampler_gap import OLD_LOG_PROBS
from textrl_env import ENV_ID
from textrl_env.arguments import model_arguments
from textrl_env.errors import ConfigError
from textrl_env.kl import KLPenalty
from textrl_env.models import CausalLMActorCritic, Reference
from textrl_env.models.storage.loading import resolve_device
from textrl_env.rewards.make import file_and_function
from textrl_env.tasks import get_task
from textrl_env.tasks.assembly import assemble, assemble_model, assemble_reference
from textrl_env.user_values import check_names, check_whole


def make_config(
    algo: str,
    env_config: Mapping[str, Any] | None = None,
    *,
    actor_critic: Mapping[str, Any] | None = None,
    total_timesteps: int | None = None,
    old_log_probs: str = "sampled",
    optimizer: Any = None,
    **overrides: Any,
) -> AlgorithmConfig:
    """A stock `AlgorithmConfig` that trains the environment's model.

    algo: "ppo", "appo" or "impala". env_config: the environment's arguments (`task`, `model`, `reward`, ...), with
        models by name or path: every process loads what it needs.
    actor_critic: arguments of CausalLMActorCritic (`value_trunk`, `cache`, `micro_batch_tokens`,
        `gradient_checkpointing`, `decoder`).
    old_log_probs: what an update's ratio is taken against: "sampled", as tokens were drawn, or "recomputed" by one more
        pass over each batch, so that the first ratio is 1 but for rounding; PPO's alone, whose batch is of the policy
        that learns.
    optimizer: "torch.optim.AdamW", or a mapping `{"name": "torch.optim.AdamW", "fused": True}`; Adam by default.
    total_timesteps: tokens of the whole run; the learning rate then warms up and falls. Without it, it is constant.
        `lr` may be a mapping, what `WarmupSchedule.of` takes.
    overrides: any settings of the `AlgorithmConfig` by their names (`lr`, `num_env_runners`, `num_learners`,
        `num_gpus_per_learner`, `minibatch_size`, ...), on top of defaults that fit RLHF. RLlib's own methods
        (`config.env_runners(...)`) can be called on the result as well.

    The policy starts as a copy of the environment's model, which is the reference. Each env runner asks its reward once
    a fragment, for all responses that ended in it (`score_mode="deferred"` in `env_config`, the default here); a
    callback within the fragment, such as `on_episode_end`, sees an episode without its score. Raises ConfigError.

    A reward in Python is called once here, on three made-up responses: a wrong number of scores is told at once.
    """
    algorithm = rllib_algorithm(algo)
    env = portable_arguments(env_config or {})
    check_settings(algorithm, overrides)
    check_names("old_log_probs", [old_log_probs], OLD_LOG_PROBS)
    if algorithm.asynchronous and old_log_probs != "sampled":
        raise ConfigError(
            f"old_log_probs must be 'sampled' for {algorithm.name}: its batches are of earlier policies, and V-trace "
            "weighs them by what they were sampled with"
        )
    if optimizer is not None:
        optimizer_choice(optimizer)  # refused here, and not in a learner's process
    settings = {**SHARED, **algorithm.defaults, **overrides}
    check_values(settings, actor_critic or {})
    if total_timesteps is not None:
        check_whole("total_timesteps", total_timesteps, 1)
    parts = assemble_model(**model_arguments(env), weights=False)
    _fill_in(algorithm, settings, parts.max_new_tokens, env.get("device", "auto"))
    _probe_reward(env, settings["rollout_fragment_length"])
    if env.get("lora") is None and (stored := env.get("dtype", "auto")) != "auto":
        warn_of_lost_updates([stored if isinstance(stored, torch.dtype) else getattr(torch, stored)])
    trained = sum(weight.numel() for weight in parts.model.parameters() if weight.requires_grad)
    settings["lr"] = _rate(settings.get("lr", {}), trained, total_timesteps, settings)
    config: AlgorithmConfig = load_object(algorithm.config_class)()
    _wire(config, algorithm, env, actor_critic or {}, settings, old_log_probs)
    config.learners(learner_config_dict={OPTIMIZER: optimizer})
    try:
        config.update_from_dict(settings)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"RLlib refuses these settings: {error}") from error
    check_config(config)
    return config


def rllib_algorithm(name: str) -> RLlibAlgorithm:
    """What the algorithm of that name, RLlib's or ours, says of itself. Raises UnknownName."""
    algorithm = find_algorithm(name, RLlibAlgorithm.library)
    assert isinstance(algorithm, RLlibAlgorithm)  # the library decides the class
    return algorithm


def _wire(
    config: AlgorithmConfig,
    algorithm: RLlibAlgorithm,
    env: Mapping[str, Any],
    actor_critic: Mapping[str, Any],
    settings: dict[str, Any],
    old_log_probs: str,
) -> None:
    """Put the environment, the module, the connectors and the learner into `config`, the callbacks into `settings`."""
    config.environment(f"textrl_env:{ENV_ID}", env_config=dict(env), normalize_actions=False, clip_actions=False)
    config.env_runners(
        env_runner_cls=TextEnvRunner,
        gym_env_vectorize_mode="vector_entry_point",
        env_to_module_connector=_env_to_module,
        module_to_env_connector=partial(_module_to_env, env["kl_mode"] in ("auto", "log_ratio")),
        add_default_connectors_to_env_to_module_pipeline=False,
        add_default_connectors_to_module_to_env_pipeline=False,
    )
    config.rl_module(
        rl_module_spec=RLModuleSpec(
            module_class=load_object(algorithm.module_class),
            model_config={"env": dict(env), "actor_critic": dict(actor_critic)},
        )
    )
    config.learners(
        learner_class=load_object(algorithm.learner_class),
        learner_connector=partial(
            load_object(algorithm.connector_class),
            penalty=partial(_penalty, env),
            kl_mode=env["kl_mode"],
            old_log_probs=old_log_probs,
            **{name: settings[name] for name in algorithm.connector_settings},
        ),
        add_default_connectors_to_learner_pipeline=False,
    )
    # The callbacks are given as functions: a callback class that is set later does not replace them.
    callbacks = TextCallbacks()
    for name in ("on_algorithm_init", "on_train_result", "on_env_runners_recreated"):
        slot = f"callbacks_{name}"
        settings[slot] = [getattr(callbacks, name), *force_list(settings.get(slot))]


def _probe_reward(env: Mapping[str, Any], steps: int | str) -> None:
    """Call the reward once where it is Python that a user brings.

    Others are left out: every process builds its reward itself, and a classifier may be large.
    """
    task, reward = env["task"], env.get("reward")
    if reward is None and not isinstance(task, str):  # not one of the tasks that ship
        reward = task.reward
    if reward is None or (isinstance(reward, str) and not file_and_function(reward)):
        return
    given = {name: value for name, value in env.items() if name not in ("autoreset_mode", "max_episode_steps")}
    parts = assemble(**{**given, "kl_mode": "deferred", "with_reference": False})
    probe_reward(parts.rules, parts.prompts, steps=steps if isinstance(steps, int) else parts.rules.max_new_tokens)


def _fill_in(algorithm: RLlibAlgorithm, settings: dict[str, Any], max_new_tokens: int, device: Any) -> None:
    """Add the sizes that follow from others."""
    place = resolve_device(device)
    settings.setdefault("num_gpus_per_learner", int(place.type == "cuda"))
    settings.setdefault("local_gpu_idx", place.index or 0)
    if "train_batch_size_per_learner" not in settings:
        fragments = settings["num_envs_per_env_runner"] * max(1, settings["num_env_runners"])
        length = settings["rollout_fragment_length"]
        tokens = fragments * (SHARED["rollout_fragment_length"] if length == "auto" else length)
        settings["train_batch_size_per_learner"] = max(1, tokens // max(1, settings["num_learners"]))
    if algorithm.asynchronous:
        # With env runners in other processes an iteration is as many updates as its time allows; else it is one.
        settings.setdefault("min_time_s_per_iteration", 1 if settings["num_env_runners"] else 0)
        # While every env runner is down RLlib samples here, and would fail without an environment.
        settings.setdefault("create_env_on_local_worker", True)
    if algorithm.minibatches and "minibatch_size" not in settings:
        batch = settings["train_batch_size_per_learner"]
        settings["minibatch_size"] = min(batch, max(max_new_tokens, batch // algorithm.minibatches))


def _rate(given: Any, trained: int, total_timesteps: int | None, settings: Mapping[str, Any]) -> Any:
    """Return a schedule as RLlib's `[timestep, rate]` points, and anything else unchanged.

    trained: the number of parameters.
    """
    schedule = WarmupSchedule.of(given, trained) if isinstance(given, Mapping) else given
    if not isinstance(schedule, WarmupSchedule):
        return schedule
    if total_timesteps is None:
        return schedule.peak
    batch = settings["train_batch_size_per_learner"] * max(1, settings["num_learners"])
    return schedule.points(total_timesteps, batch)


def _env_to_module(env: Any, spaces: Any, device: Any) -> StackObservations:
    return StackObservations()


def _module_to_env(with_log_probs: bool, env: Any, spaces: Any) -> SendTokens:
    return SendTokens(with_log_probs=with_log_probs)


def _penalty(env: Mapping[str, Any], core: CausalLMActorCritic) -> KLPenalty:
    """The environment's KLPenalty, on the learner, beside the policy."""
    task = get_task(env["task"])
    adapter = hasattr(core.model, "disable_adapter")
    if adapter:
        # An adapter's reference is the weights that it sits on.
        reference = Reference(
            core.model, core.vocabulary, core.sampling, core.max_length, precision=env.get("precision", "auto")
        )
    elif env["kl_mode"] == "deferred":
        parts = assemble_model(**{**model_arguments(env), "device": core.device, "dtype": core.lm.weight_dtype})
        reference = assemble_reference(parts)
    else:
        reference = None  # the environment charges
    coef, estimator = (env.get(name) for name in ("kl_coef", "kl_estimator"))
    return KLPenalty(
        reference, task.kl_coef if coef is None else coef, task.kl_estimator if estimator is None else estimator
    )
