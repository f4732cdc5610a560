"""The algorithms that `make_agent` wires: where each comes from, and the settings that fit text generation."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from stable_baselines3.common.base_class import BaseAlgorithm

from textrl_agents.training.extras import require
from textrl_env.errors import UnknownName

Kind = Literal["critic", "responses", "value", "table"]

# What RLHF needs and SB3's defaults, made for control tasks, are not: no discount (the score comes at the end and the
# horizon is the response), whole responses in a rollout, several small epochs, little weight on the value loss where
# it shares the policy's trunk.
_ON_POLICY: dict[str, Any] = {"gamma": 1.0, "n_steps": 64}
_LOSS: dict[str, Any] = {"ent_coef": 0.0, "max_grad_norm": 1.0}
# A value head starts at zero. With a lambda below 1 the first advantages would then grow along a response whatever its
# score, and where scores differ little that is all a first update sees: it can leave the language for good.
_CRITIC: dict[str, Any] = {"gae_lambda": 1.0, "vf_coef": 0.1}
# target_kl: epochs end where the policy is 0.045 nats a token from the one that sampled.
_PPO: dict[str, Any] = {"n_epochs": 4, "clip_range": 0.2, "target_kl": 0.03}
_A2C: dict[str, Any] = {"use_rms_prop": False, "normalize_advantage": True}
# Responses are compared with one another, so nothing is fitted to their values.
_COMPARED: dict[str, Any] = {"vf_coef": 0.0}
# Exploration is the language model's own sampling; uniform tokens are noise to it.
_VALUE: dict[str, Any] = {
    "gamma": 1.0,
    "learning_starts": 0,
    "buffer_size": 100_000,
    "batch_size": 512,
    "train_freq": 8,
    "target_update_interval": 4096,
    "exploration_initial_eps": 0.02,
    "exploration_final_eps": 0.02,
}

# A soft policy explores by itself.
_SOFT_VALUE: dict[str, Any] = {**_VALUE, "exploration_initial_eps": 0.0, "exploration_final_eps": 0.0}


@dataclass(frozen=True)
class Recipe:
    """An algorithm and what it runs on.

    kind: "critic" bootstraps from the value head, "responses" compares whole responses, "value" learns Q-values,
        "table" has no model at all.
    minibatches: how many a rollout is cut into where it has no `batch_size`; 0 where it takes none.
    policy: arguments of the policy that it needs.
    greedy: whether what it learns is decoded greedily and not sampled.
    """

    source: str  # module:class
    kind: Kind
    defaults: Mapping[str, Any]
    minibatches: int = 0
    group_size: int = 1
    policy: Mapping[str, Any] = field(default_factory=dict)
    greedy: bool = False
    package: str = "stable_baselines3"

    def load(self) -> type[BaseAlgorithm]:
        """The class. Raises MissingExtra where its library is not installed."""
        require(self.package)
        module, _, name = self.source.partition(":")
        return getattr(importlib.import_module(module), name)


_SB3, _HERE = "stable_baselines3", "textrl_agents.sb3.own"
ALGORITHMS: dict[str, Recipe] = {
    "ppo": Recipe(f"{_SB3}:PPO", "critic", {**_ON_POLICY, **_LOSS, **_CRITIC, **_PPO}, minibatches=4),
    "a2c": Recipe(f"{_SB3}:A2C", "critic", {**_ON_POLICY, **_LOSS, **_CRITIC, **_A2C}),
    # Its step needs second derivatives, which fused attention kernels have not.
    "trpo": Recipe(
        f"{_HERE}.trpo:TRPO",
        "critic",
        {**_ON_POLICY, "gae_lambda": 1.0, "cg_max_steps": 6, "n_critic_updates": 4, "target_kl": 0.02},
        minibatches=4,
        policy={"attention": "eager"},
        package="sb3_contrib",
    ),
    "nlpo": Recipe(f"{_HERE}.nlpo:NLPO", "critic", {**_ON_POLICY, **_LOSS, **_CRITIC, **_PPO}, minibatches=4),
    "reinforce": Recipe(f"{_HERE}.policy_gradient:REINFORCE", "responses", {**_ON_POLICY, **_LOSS, "vf_coef": 0.1}),
    "rloo": Recipe(
        f"{_HERE}.policy_gradient:RLOO",
        "responses",
        {**_ON_POLICY, **_LOSS, **_COMPARED, **_PPO, "n_epochs": 1},
        minibatches=4,
        group_size=4,
    ),
    "grpo": Recipe(
        f"{_HERE}.policy_gradient:GRPO",
        "responses",
        {**_ON_POLICY, **_LOSS, **_COMPARED, **_PPO},
        minibatches=4,
        group_size=8,
    ),
    "dqn": Recipe(f"{_SB3}:DQN", "value", _VALUE, greedy=True),
    "qrdqn": Recipe(
        "sb3_contrib:QRDQN", "value", _VALUE, policy={"n_quantiles": 16}, greedy=True, package="sb3_contrib"
    ),
    "soft_dqn": Recipe(f"{_SB3}:DQN", "value", _SOFT_VALUE, policy={"soft": True}),
    "q_learning": Recipe(f"{_HERE}.tabular:QLearning", "table", {}),
    "sarsa": Recipe(f"{_HERE}.tabular:SARSA", "table", {}),
}

# Arguments of SB3's algorithms that `make_agent` or a run decides.
_WIRED = (
    *("self", "policy", "env", "seed", "device", "verbose", "tensorboard_log", "_init_setup_model"),
    *("rollout_buffer_class", "rollout_buffer_kwargs", "replay_buffer_class", "replay_buffer_kwargs"),
)


def get_recipe(algo: str) -> Recipe:
    """The recipe of that name. Raises UnknownName with the nearest name."""
    if not isinstance(algo, str) or algo not in ALGORITHMS:
        raise UnknownName("algorithm", algo, ALGORITHMS)
    return ALGORITHMS[algo]


def argument_names(algo: str) -> list[str]:
    """The arguments of an algorithm that a run may set."""
    names: list[str] = []
    for parent in get_recipe(algo).load().__mro__:
        constructor = vars(parent).get("__init__")
        if constructor is None:
            continue
        parameters = inspect.signature(constructor).parameters
        names += [name for name in parameters if name not in names and name not in _WIRED]
        if all(parameter.kind is not inspect.Parameter.VAR_KEYWORD for parameter in parameters.values()):
            break  # it hands nothing on that it does not name
    return [name for name in names if name not in ("arguments", "keywords", "kwargs")]
