"""The arguments of SB3's algorithms that a run may set: SB3 takes what cannot work, and fails late or in silence."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

from textrl_agents.algorithms.algorithm import load_object
from textrl_agents.algorithms.libraries.sb3 import SB3Algorithm
from textrl_agents.training.learning_rate import check_learning_rate
from textrl_env import user_values
from textrl_env.errors import ConfigError
from textrl_env.user_values import LARGEST_SEED, check_number, check_seed, check_whole

# Whole numbers, and the least that each can be.
_WHOLE = {
    "n_steps": 1,
    "n_epochs": 1,
    "batch_size": 1,
    "buffer_size": 1,
    "learning_starts": 0,
    "target_update_interval": 1,
    "stats_window_size": 1,
    "cg_max_steps": 1,
    "line_search_max_iter": 1,
    "n_critic_updates": 1,
    "sub_sampling_factor": 1,
}
_SHARES = (
    *("gamma", "gae_lambda", "tau", "line_search_shrinking_factor"),
    *("exploration", "exploration_fraction", "exploration_initial_eps", "exploration_final_eps"),
)
# Numbers > 0, or schedules; the optional ones may be None.
_OPTIONAL = ("clip_range_vf", "target_kl")
_POSITIVE = ("max_grad_norm", "rms_prop_eps", "clip_range", *_OPTIONAL)
_NOT_NEGATIVE = ("vf_coef", "ent_coef", "cg_damping")
# Arguments of SB3's algorithms that `make_agent` or a run decides.
_WIRED = (
    *("self", "policy", "env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model"),
    *("rollout_buffer_class", "rollout_buffer_kwargs", "replay_buffer_class", "replay_buffer_kwargs"),
)
# Arguments of `make_agent` that a cell's settings may hold, and those that it hands on.
_OF_MAKE_AGENT = ("n_envs", "lora", "progress")
_HANDED_ON = ("seed", "device", "verbose", "tensorboard_log")


def argument_names(algorithm: SB3Algorithm) -> list[str]:
    """The arguments of an algorithm that a run may set."""
    names: list[str] = []
    for parent in load_object(algorithm.algorithm_class).__mro__:
        constructor = vars(parent).get("__init__")
        if constructor is None:
            continue
        parameters = inspect.signature(constructor).parameters
        names += [name for name in parameters if name not in names and name not in _WIRED]
        if all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
            break  # it hands nothing on that it does not name
    return [name for name in names if name not in ("arguments", "keywords", "kwargs")]


def check_names(algorithm: SB3Algorithm, given: Iterable[str], others: Iterable[str] = _HANDED_ON) -> None:
    """Raise UnknownName for a name that is neither an argument of the algorithm nor one of `others`."""
    known = argument_names(algorithm)
    user_values.check_names(f"argument of {algorithm.name}", [name for name in given if name not in others], known)


def check_settings(algorithm: SB3Algorithm, settings: Mapping[str, Any]) -> None:
    """Raise UnknownName for a setting that `make_agent` does not take."""
    check_names(algorithm, settings, (*_OF_MAKE_AGENT, *_HANDED_ON))


def check_arguments(kind: str, arguments: Mapping[str, Any], n_envs: Any) -> None:
    """Raise ConfigError for a value that no algorithm can work with. kind: the algorithm's."""
    check_whole("n_envs", n_envs, 1)
    check_seed(arguments.get("seed"), LARGEST_SEED)
    for name, value in arguments.items():
        if name == "learning_rate":
            check_learning_rate(name, value)
        elif name in _WHOLE:
            check_whole(name, value, _WHOLE[name])
        elif name in _SHARES:
            check_number(name, value, 0, 1)
        elif name in _NOT_NEGATIVE:
            check_number(name, value, 0)
        elif name in _POSITIVE and not callable(value) and not (value is None and name in _OPTIONAL):
            check_number(name, value, 0, above=True)
        elif name == "gradient_steps" and value != -1:  # as many as steps were taken
            check_whole(name, value, 1)
        elif name == "train_freq":
            check_whole(name, value[0] if isinstance(value, (tuple, list)) and value else value, 1)
    if kind == "value" and arguments.get("n_steps", 1) != 1:
        raise ConfigError("n_steps must be 1: the replay buffer of episodes gives returns of one step")
