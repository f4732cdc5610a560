"""The pieces of work, and which of them are done: each leaves one file, which is there whole or not at all.

agents/<agent>-<data>-<seed>.json   what an agent learned, and its learning curve
transfer/<data>.json                learned schedules and constant rates on data in other orders, by training
ppo/<seed>.json                     PPO on `exact`, tuned by a table; and at constant settings
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from textrl_agents.benchmark.finetune.plan import TABLES, FineTunePlan
from textrl_agents.benchmark.job_pool import read_result
from textrl_agents.runs.atomic import write_atomically

Kind = Literal["agents", "transfer", "ppo"]


@dataclass(frozen=True)
class Job:
    """A piece of work. agent: of `AGENTS`, for an agent's job."""

    kind: Kind
    data: str = ""
    agent: str = ""
    seed: int = 0

    @property
    def key(self) -> str:
        """By which its result is known."""
        return {"agents": f"{self.agent}-{self.data}-{self.seed}", "transfer": self.data, "ppo": str(self.seed)}[
            self.kind
        ]

    @property
    def name(self) -> str:
        """What is shown, in words."""
        return {
            "agents": f"{self.agent} on {self.data}, seed {self.seed}",
            "transfer": f"schedules on {self.data}",
            "ppo": f"tuning PPO, seed {self.seed}",
        }[self.kind]

    @property
    def log(self) -> str:
        """What its log is called."""
        return f"{self.kind}-{self.key}"

    def result(self, folder: Path) -> Path:
        """What it leaves in the benchmark's folder."""
        return folder / self.kind / f"{self.key}.json"

    def is_done(self, folder: Path) -> bool:
        """Whether it need not be run again."""
        return self.result(folder).is_file()

    def read(self, folder: Path) -> Any:
        """Its result."""
        return read_result(self.result(folder))


def stages(plan: FineTunePlan) -> list[list[Job]]:
    """All jobs; those of a stage need what the stages before have left, and nothing of each other."""
    ppo = [Job("ppo", seed=seed) for seed in range(plan.ppo_seeds)] if plan.ppo_episodes else []
    # The longest first, so that no process has it alone at the end.
    return [[*ppo, *agent_jobs(plan)], [Job("transfer", data) for data in (plan.data[0], *plan.unknown)]]


def agent_jobs(plan: FineTunePlan) -> list[Job]:
    """Those of all agents on the first data set, and of the tables on the others."""
    pairs = [(agent, plan.data[0]) for agent in reversed(plan.agents)]
    pairs += [(agent, data) for data in plan.data[1:] for agent in plan.agents if agent in TABLES]
    return [Job("agents", data, agent, seed) for agent, data in pairs for seed in range(plan.seeds)]


def perform(job: Job, plan: FineTunePlan, folder: Path) -> None:
    """Do a job, and leave its result."""
    from textrl_agents.benchmark.finetune import work

    if job.kind == "agents":
        found = work.learn(job.agent, job.data, plan, job.seed)
    elif job.kind == "transfer":
        learned = [
            tuple(each.read(folder)["actions"])
            for each in agent_jobs(plan)
            if each.data == plan.data[0] and each.agent == transferred(plan)
        ]
        found = work.transfer(job.data, learned, plan)
    else:
        found = work.tune_ppo(plan, job.seed)
    result = job.result(folder)
    result.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(result, json.dumps(found, indent=1, allow_nan=False) + "\n")


def transferred(plan: FineTunePlan) -> str:
    """The agent whose schedules are tried on other data: the first table, or else the first agent."""
    return next((agent for agent in plan.agents if agent in TABLES), plan.agents[0])
