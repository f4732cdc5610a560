"""What an algorithm of RLlib says of itself, and the defaults that all of them share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from textrl_agents.algorithms.algorithm import Algorithm, load_object

# RLlib's defaults are made for control tasks. RLHF needs no discount, whole responses in a fragment, the KL to the
# reference instead of one to the previous policy, and no bound on the value loss.
SHARED: dict[str, Any] = {
    "gamma": 1.0,
    "entropy_coeff": 0.0,
    "grad_clip": 1.0,
    "grad_clip_by": "global_norm",
    "num_envs_per_env_runner": 32,
    "rollout_fragment_length": 64,
    "num_env_runners": 0,
    "num_learners": 0,
    "batch_mode": "truncate_episodes",
    # A killed env runner is back after about 8 s with these, and not after 10 s with RLlib's own.
    "restart_failed_env_runners": True,
    "env_runner_health_probe_timeout_s": 5,
    "delay_between_env_runner_restarts_s": 1,
}


@dataclass(frozen=True, kw_only=True)
class RLlibAlgorithm(Algorithm):
    """An algorithm that `make_config` wires.

    config_class: of RLlib. learner_class, module_class: of this package; they add what each docstring says.
    connector_class: the learner connector, which packs episodes and gives the learner what its loss needs.
    connector_settings: settings of the configuration that the connector takes as well.
    defaults: settings of the configuration that fit text generation, on top of SHARED.
    minibatches: how many a batch is cut into where there is no `minibatch_size`; 0 where it takes none.
    asynchronous: whether it learns while its env runners sample.
    """

    library: ClassVar[str | None] = "rllib"

    train: str = "textrl_agents.rllib.run:train_cell"
    trainer: str = "textrl_agents.rllib.run:RLlibRun"
    requires: Mapping[str, str] = field(default_factory={"ray": "rllib"}.copy)
    config_class: str
    learner_class: str
    module_class: str = "textrl_agents.rllib.module:CausalLMModule"
    connector_class: str = "textrl_agents.rllib.connectors.columns:PackForVTrace"
    connector_settings: tuple[str, ...] = ()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    minibatches: int = 0
    asynchronous: bool = False

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Raise UnknownName for a setting that neither the configuration nor `make_config` has, ConfigError for one
        that would have no effect.
        """
        load_object("textrl_agents.rllib.validation:check_settings")(self, settings)
