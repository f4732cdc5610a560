"""What an algorithm of Stable-Baselines3 says of itself, and the groups of defaults that several of them share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from textrl_agents.algorithms.algorithm import CELL_TRAINER, Algorithm, load_object
from textrl_env.errors import ConfigError

Kind = Literal["critic", "responses", "value", "table"]

# SB3's defaults are made for control tasks. RLHF needs no discount (the score comes at the end and the horizon is the
# response), whole responses in a rollout, several small epochs, and little weight on the value loss where it shares the
# policy's trunk.
ON_POLICY: dict[str, Any] = {"gamma": 1.0, "n_steps": 64}
LOSS: dict[str, Any] = {"ent_coef": 0.0, "max_grad_norm": 1.0}
# A value head starts at zero. With a lambda below 1 the first advantages would then grow along every response, whatever
# its score. Where scores differ little, the first update sees nothing else, and can leave the language for good.
CRITIC: dict[str, Any] = {"gae_lambda": 1.0, "vf_coef": 0.1}
# target_kl: epochs end where the policy is 0.045 nats a token from the one that sampled.
PPO: dict[str, Any] = {"n_epochs": 4, "clip_range": 0.2, "target_kl": 0.03}
# Responses are compared with one another, so nothing is fitted to their values.
COMPARED: dict[str, Any] = {"vf_coef": 0.0}
# Exploration is the language model's own sampling; uniform tokens are noise to it.
VALUE: dict[str, Any] = {
    "gamma": 1.0,
    "learning_starts": 0,
    "buffer_size": 100_000,
    "batch_size": 512,
    "train_freq": 8,
    "target_update_interval": 4096,
    "exploration_initial_eps": 0.02,
    "exploration_final_eps": 0.02,
}

SB3 = {"stable_baselines3": "sb3"}
SB3_CONTRIB = {**SB3, "sb3_contrib": "sb3"}

_POLICY = "textrl_agents.sb3.policy:CausalLMPolicy"
_POLICIES = {
    "critic": _POLICY,
    "responses": _POLICY,
    "value": "textrl_agents.sb3.q_policy:CausalLMQPolicy",
    "table": "textrl_agents.sb3.own.tabular:TabularPolicy",
}
_BUFFERS = {
    "critic": {"rollout_buffer_class": "textrl_agents.sb3.buffers.rollout_buffer:EpisodeRolloutBuffer"},
    "value": {"replay_buffer_class": "textrl_agents.sb3.buffers.replay_buffer:EpisodeReplayBuffer"},
}


@dataclass(frozen=True, kw_only=True)
class SB3Algorithm(Algorithm):
    """An algorithm that `make_agent` wires.

    algorithm_class: of SB3, sb3-contrib or this package.
    kind: "critic" bootstraps from the value head, "responses" compares whole responses and brings its own buffer,
        "value" learns Q-values, "table" has no model at all.
    defaults: arguments of the class that fit text generation.
    minibatches: how many a rollout is cut into where it has no `batch_size`; 0 where it takes none.
    policy_class: where it is not that of its kind. policy_kwargs: arguments of the policy that it needs.
    greedy: whether what it learns is decoded greedily and not sampled.
    masks: whether it samples from fewer tokens than the environment knows of.
    """

    library: ClassVar[str | None] = "sb3"

    train: str = "textrl_agents.sb3.run:train_cell"
    trainer: str = ""
    requires: Mapping[str, str] = field(default_factory=SB3.copy)
    algorithm_class: str
    kind: Kind
    defaults: Mapping[str, Any] = field(default_factory=dict)
    minibatches: int = 0
    group_size: int = 1
    policy_class: str = ""
    policy_kwargs: Mapping[str, Any] = field(default_factory=dict)
    greedy: bool = False
    masks: bool = False

    def __post_init__(self) -> None:
        # Without log-probabilities there are no checkpoints: one would have to hold the replay buffer, or the table.
        trainer = "textrl_agents.sb3.run:SB3Run" if self.reports_log_probs else CELL_TRAINER
        object.__setattr__(self, "trainer", self.trainer or trainer)
        object.__setattr__(self, "policy_class", self.policy_class or _POLICIES[self.kind])

    @property
    def reports_log_probs(self) -> bool:
        """Whether the environment learns the policy's log-probabilities, and can charge their KL."""
        return self.kind in ("critic", "responses")

    @property
    def buffers(self) -> Mapping[str, str]:
        """The buffers that make_agent gives it: argument of its class -> place of the buffer's class."""
        return _BUFFERS.get(self.kind, {})

    def check_turns(self, task: str) -> None:
        """Raise ConfigError for a table: a turn environment hides part of the state, and its answers are many."""
        if self.kind == "table":
            raise ConfigError(
                f"{self.name} keeps a table of states, each a prompt with one response so far, and an episode of task "
                f"{task!r} has several turns. Train it by an algorithm with a model, such as ppo"
            )

    def check_settings(self, settings: Mapping[str, Any]) -> None:
        """Raise UnknownName for an argument that neither the algorithm's class nor `make_agent` takes."""
        load_object("textrl_agents.sb3.validation:check_settings")(self, settings)
