"""What `textrl bench finetune` runs."""

from __future__ import annotations

from dataclasses import dataclass

from textrl_agents.benchmark.stored_plan import StoredPlan
from textrl_env.errors import ConfigError
from textrl_env.user_values import check_names, check_whole

TABLES, SB3, RLLIB, SEARCH = ("q_learning", "sarsa"), ("dqn", "ppo", "a2c"), "rllib_ppo", "random_search"
AGENTS = (*TABLES, *SB3, RLLIB, SEARCH)
SMALL = {"segments": 400, "every": 100, "seeds": 3, "orders": 3, "ppo_episodes": 0, "unknown": ("recommend",)}
"""What `--quick` changes."""


@dataclass(frozen=True, kw_only=True)
class FineTunePlan(StoredPlan):
    """The whole experiment.

    data: whose schedules are all known. On the first all agents learn; on the others the tables alone, to see whether
        a schedule that was learned on one is good on another.
    unknown: tasks with right answers, other than the first of `data`, that learned schedules are tried on, by training.
    agents: of AGENTS. segments: that an agent trains, as many for each. every: segments between two looks at what it
        has learned, an episode's at least. seeds: of each agent.
    orders: of the data, other than the one learned in, that schedules are tried with.
    ppo_episodes: that a table learns from to tune PPO itself; 0 leaves that out. ppo_seeds: such tables, and orders
        that they and constant settings are judged with.
    """

    data: tuple[str, ...] = ("translate",)
    unknown: tuple[str, ...] = ("recommend", "story")
    agents: tuple[str, ...] = AGENTS
    segments: int = 4000
    every: int = 200
    seeds: int = 10
    orders: int = 5
    ppo_episodes: int = 16
    ppo_seeds: int = 3

    def __post_init__(self) -> None:
        from textrl_env.finetune.schedule_tree import enumerated_names
        from textrl_env.tasks.registry import built_in_formats

        for name in ("data", "unknown", "agents"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        check_names("agent", self.agents, AGENTS)
        for name, values in (("data", self.data), ("agents", self.agents), ("unknown", self.unknown)):
            if len(set(values)) < len(values) or not (values or name == "unknown"):
                raise ConfigError(f"{name} must name at least one, and each once; got {values!r}")
        check_names("data set with enumerated schedules", self.data, enumerated_names())
        check_names("task with answers of its own to train on", self.unknown, built_in_formats())
        if self.data[0] in self.unknown:
            raise ConfigError(
                f"unknown names {self.data[0]!r}, which the agents learn on: schedules are tried there too"
            )
        for name, least in {
            "segments": 5,
            "every": 5,
            "seeds": 1,
            "orders": 1,
            "ppo_episodes": 0,
            "ppo_seeds": 1,
        }.items():
            check_whole(name, getattr(self, name), least)
        if self.every > self.segments:
            raise ConfigError(f"every must be at most segments, got {self.every} and {self.segments}")
