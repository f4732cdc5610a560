"""`make_config`: a stock RLlib `AlgorithmConfig` (new API stack), wired to text generation."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from functools import partial
from typing import Any

from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.algorithms.appo import APPOConfig
from ray.rllib.algorithms.impala import IMPALAConfig
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.core.rl_module.rl_module import RLModuleSpec
from ray.rllib.utils import force_list

from textrl_agents.rllib.callbacks import TextCallbacks
from textrl_agents.rllib.connectors.packing import PackEpisodes
from textrl_agents.rllib.connectors.ppo import PackForPPO
from textrl_agents.rllib.connectors.runner import SendTokens, StackObservations
from textrl_agents.rllib.connectors.vtrace import PackForVTrace
from textrl_agents.rllib.env_runner import TextEnvRunner
from textrl_agents.rllib.learners import TextAPPOLearner, TextIMPALALearner, TextPPOLearner
from textrl_agents.rllib.module import CausalLMModule, TargetCausalLMModule
from textrl_agents.rllib.portable import portable_arguments
from textrl_agents.rllib.validation import check_config
from textrl_agents.training.argument_checks import check_learning_rate, check_number, check_seed, check_whole
from textrl_agents.training.learning_rate import WarmupSchedule
from textrl_agents.training.reward_probe import probe_reward
from textrl_env import ENV_ID
from textrl_env.arguments import model_arguments
from textrl_env.errors import ConfigError, UnknownName
from textrl_env.kl import KLPenalty
from textrl_env.models import CausalLMActorCritic, Reference
from textrl_env.models.storage.loading import resolve_device
from textrl_env.rewards.make import file_and_function
from textrl_env.tasks import get_task
from textrl_env.tasks.assembly import assemble, assemble_model, assemble_reference

# What RLHF needs and RLlib's defaults, made for control tasks, are not: no discount, whole responses in a fragment,
# the KL to the reference instead of one to the previous policy, no bound on the value loss.
SHARED_DEFAULTS: dict[str, Any] = {
    "gamma": 1.0,
    "entropy_coeff": 0.0,
    "grad_clip": 1.0,
    "grad_clip_by": "global_norm",
    "num_envs_per_env_runner": 32,
    "rollout_fragment_length": 64,
    "num_env_runners": 0,
    "num_learners": 0,
    "batch_mode": "truncate_episodes",
}
DEFAULTS: dict[str, dict[str, Any]] = {
    "ppo": {
        # Below 1, over a value head that starts at zero, the first advantages would grow along a response.
        "lambda_": 1.0,
        "clip_param": 0.2,
        "num_epochs": 4,
        "vf_loss_coeff": 0.1,
        "vf_clip_param": float("inf"),
        # A weight of 0: measured, as `train/approx_kl`, and no part of the loss.
        "use_kl_loss": True,
        "kl_coeff": 0.0,
    },
    # A short memory: RLlib's own replays each of its last 8 batches, and moves the target every 32.
    "appo": {
        "vf_loss_coeff": 0.1,
        "clip_param": 0.2,
        "circular_buffer_num_batches": 2,
        "circular_buffer_iterations_per_batch": 2,
        "target_network_update_freq": 1,
    },
    "impala": {"vf_loss_coeff": 0.1},
}
# A killed env runner is back after about 8 s with these, and not after 10 s with RLlib's own.
FAULT_TOLERANCE: dict[str, Any] = {
    "restart_failed_env_runners": True,
    "env_runner_health_probe_timeout_s": 5,
    "delay_between_env_runner_restarts_s": 1,
}
MINIBATCHES = 4

# Of RLlib's old API stack, or of pieces that are replaced: they would be taken and have no effect.
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
    "env",
    "env_config",
    "env_runner_cls",
    "rl_module_spec",
    "gym_env_vectorize_mode",
    "add_default_connectors_to_env_to_module_pipeline",
    "add_default_connectors_to_module_to_env_pipeline",
    "add_default_connectors_to_learner_pipeline",
)
# Arguments of CausalLMActorCritic that follow from the environment's.
_OF_ENVIRONMENT = ("model", "tokenizer", "max_length", "sampling")
_CONFIGS = {"ppo": PPOConfig, "appo": APPOConfig, "impala": IMPALAConfig}
_LEARNERS = {"ppo": TextPPOLearner, "appo": TextAPPOLearner, "impala": TextIMPALALearner}
ALGORITHMS = tuple(_CONFIGS)


def make_config(
    algo: str,
    env_config: Mapping[str, Any] | None = None,
    *,
    actor_critic: Mapping[str, Any] | None = None,
    total_timesteps: int | None = None,
    **overrides: Any,
) -> AlgorithmConfig:
    """A stock `AlgorithmConfig` that trains the environment's model.

    algo: "ppo", "appo" or "impala". env_config: the environment's arguments (`task`, `model`, `reward`, ...), with
        models by name or path: every process loads what it needs.
    actor_critic: arguments of CausalLMActorCritic (`value_trunk`, `cache`).
    total_timesteps: tokens of the whole run; the learning rate then warms up and falls. Without it, it is constant.
        `lr` may be a mapping, what `WarmupSchedule.of` takes.
    overrides: any settings of the `AlgorithmConfig` by their names (`lr`, `num_env_runners`, `num_learners`,
        `num_gpus_per_learner`, `minibatch_size`, ...), on top of defaults that fit RLHF. RLlib's own methods
        (`config.env_runners(...)`) can be called on the result as well.

    The policy starts as a copy of the environment's model, which is the reference. Raises ConfigError.

    A reward in Python is called once here, on three made-up responses: a wrong number of scores is told at once.
    """
    if algo not in _CONFIGS:
        raise UnknownName("algorithm", algo, ALGORITHMS)
    env = portable_arguments(env_config or {})
    config = _CONFIGS[algo]()
    _check_names(algo, config, overrides)
    settings = {**SHARED_DEFAULTS, **DEFAULTS[algo], **FAULT_TOLERANCE, **overrides}
    _check_values(settings, actor_critic or {})
    if total_timesteps is not None:
        check_whole("total_timesteps", total_timesteps, 1)
    parts = assemble_model(**model_arguments(env), weights=False)
    _fill_in(algo, settings, parts.max_new_tokens, env.get("device", "auto"))
    _probe_reward(env, settings["rollout_fragment_length"])
    trained = sum(weight.numel() for weight in parts.model.parameters() if weight.requires_grad)
    lr = settings.get("lr", {})
    schedule = WarmupSchedule.of(lr, trained) if isinstance(lr, Mapping) else lr
    settings["lr"] = _rate(schedule, total_timesteps, settings)

    config.environment(f"textrl_env:{ENV_ID}", env_config=env, normalize_actions=False, clip_actions=False)
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
            module_class=TargetCausalLMModule if algo == "appo" else CausalLMModule,
            model_config={
                "env": env,
                "actor_critic": dict(actor_critic or {}),
            },
        )
    )
    config.learners(
        learner_class=_LEARNERS[algo],
        learner_connector=partial(
            _learner_connector,
            algo,
            penalty=partial(_penalty, env),
            kl_mode=env["kl_mode"],
            # V-trace takes its own from the configuration.
            **({name: settings[name] for name in ("gamma", "lambda_")} if algo == "ppo" else {}),
        ),
        add_default_connectors_to_learner_pipeline=False,
    )
    # As functions, which callback classes that are set later do not replace.
    callbacks = TextCallbacks()
    for name in ("on_algorithm_init", "on_train_result", "on_env_runners_recreated"):
        slot = f"callbacks_{name}"
        settings[slot] = [getattr(callbacks, name), *force_list(settings.get(slot))]
    try:
        config.update_from_dict(settings)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"RLlib refuses these settings: {error}") from error
    check_config(config)
    return config


def _probe_reward(env: Mapping[str, Any], steps: int | str) -> None:
    """Of Python that a user brings alone: every process builds its reward itself, and a classifier may be large."""
    task, reward = env["task"], env.get("reward")
    if reward is None and not isinstance(task, str):  # not one of the tasks that ship
        reward = task.reward
    if reward is None or (isinstance(reward, str) and not file_and_function(reward)):
        return
    given = {name: value for name, value in env.items() if name != "autoreset_mode"}
    parts = assemble(**{**given, "kl_mode": "deferred", "with_reference": False})
    probe_reward(parts.rules, parts.prompts, steps=steps if isinstance(steps, int) else parts.rules.max_new_tokens)


def _check_names(algo: str, config: AlgorithmConfig, overrides: Mapping[str, Any]) -> None:
    properties = [name for name in dir(type(config)) if isinstance(getattr(type(config), name), property)]
    writable = [name for name in properties if getattr(type(config), name).fset is not None]
    known = [name for name in [*vars(config), *writable] if not name.startswith("_")]
    for name in overrides:
        if name in _WIRED:
            raise ConfigError(f"{name} is what make_config wires; it cannot be overridden")
        if name not in known:
            raise UnknownName(f"setting of {algo}", name, known)
        if name in _NO_EFFECT:
            raise ConfigError(f"{name} has no effect here: {_NO_EFFECT[name]}")


def _check_values(settings: Mapping[str, Any], actor_critic: Mapping[str, Any]) -> None:
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
    check_seed(settings.get("seed"))
    check_learning_rate("lr", settings.get("lr"))
    for name in ("gamma", "lambda_"):
        check_number(name, settings.get(name, 1.0), 0, 1)
    for name in ("vf_loss_coeff", "kl_coeff"):
        check_number(name, settings.get(name, 0.0), 0)
    for name in ("clip_param", "grad_clip"):
        if settings.get(name) is not None:
            check_number(name, settings[name], 0, above=True)
    known = [name for name in inspect.signature(CausalLMActorCritic).parameters if name not in _OF_ENVIRONMENT]
    for name in actor_critic:
        if name not in known:
            raise UnknownName("argument of actor_critic", name, known)


def _fill_in(algo: str, settings: dict[str, Any], max_new_tokens: int, device: Any) -> None:
    """Sizes that follow from others."""
    place = resolve_device(device)
    settings.setdefault("num_gpus_per_learner", int(place.type == "cuda"))
    settings.setdefault("local_gpu_idx", place.index or 0)
    if "train_batch_size_per_learner" not in settings:
        fragments = settings["num_envs_per_env_runner"] * max(1, settings["num_env_runners"])
        length = settings["rollout_fragment_length"]
        tokens = fragments * (SHARED_DEFAULTS["rollout_fragment_length"] if length == "auto" else length)
        settings["train_batch_size_per_learner"] = max(1, tokens // max(1, settings["num_learners"]))
    if algo != "ppo":
        # With runners of their own an iteration is as many updates as its time allows; without, it is one.
        settings.setdefault("min_time_s_per_iteration", 1 if settings["num_env_runners"] else 0)
        # While every env runner is down RLlib samples here, and would fail without an environment.
        settings.setdefault("create_env_on_local_worker", True)
    elif "minibatch_size" not in settings:
        batch = settings["train_batch_size_per_learner"]
        settings["minibatch_size"] = min(batch, max(max_new_tokens, batch // MINIBATCHES))


def _rate(lr: Any, total_timesteps: int | None, settings: Mapping[str, Any]) -> Any:
    """A schedule as RLlib's `[timestep, rate]` points; what else there is as it is."""
    if not isinstance(lr, WarmupSchedule):
        return lr
    if total_timesteps is None:
        return lr.peak
    return lr.points(total_timesteps, settings["train_batch_size_per_learner"] * max(1, settings["num_learners"]))


def _env_to_module(env: Any, spaces: Any, device: Any) -> StackObservations:
    return StackObservations()


def _module_to_env(with_log_probs: bool, env: Any, spaces: Any) -> SendTokens:
    return SendTokens(with_log_probs=with_log_probs)


def _learner_connector(algo: str, observation_space: Any, action_space: Any, **arguments: Any) -> PackEpisodes:
    return (PackForPPO if algo == "ppo" else PackForVTrace)(observation_space, action_space, **arguments)


def _penalty(env: Mapping[str, Any], core: CausalLMActorCritic) -> KLPenalty:
    """The environment's KLPenalty, on the learner, beside the policy."""
    task = get_task(env["task"])
    adapter = hasattr(core.model, "disable_adapter")
    if adapter:
        # The reference of an adapter is the very weights it sits on.
        reference = Reference(core.model, core.vocabulary, core.sampling, core.max_length)
    elif env["kl_mode"] == "deferred":
        parts = assemble_model(**{**model_arguments(env), "device": core.device, "dtype": core.lm.dtype})
        reference = assemble_reference(parts)
    else:
        reference = None  # the environment charges
    coef, estimator = (env.get(name) for name in ("kl_coef", "kl_estimator"))
    return KLPenalty(
        reference, task.kl_coef if coef is None else coef, task.kl_estimator if estimator is None else estimator
    )
