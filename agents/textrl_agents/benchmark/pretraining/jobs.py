"""The pieces of work, and which of them are done: each leaves one file or folder, which is there whole or not at all.

pretrained/<arm>-<seed>/       a pretraining run
rl/<arm>-<seed>/policy/        what reinforcement learning made of pretrained/base-<seed>
measured/<arm>-<seed>.json     what each arm's model is judged by
"""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from textrl_agents.benchmark.pretraining.plan import ARMS, BASE, MLE, OBJECTIVE_ARMS, RL_ARMS, PretrainingPlan
from textrl_agents.runs.atomic import atomic_folder, remove_folder, write_atomically

Kind = Literal["pretrain", "rl", "measure"]
SECONDS = "seconds.json"  # in the folder of a policy: how long its training took


@dataclass(frozen=True)
class Job:
    """A piece of work for one arm (or what some of them start from, `BASE`) and one seed."""

    kind: Kind
    arm: str
    seed: int

    @property
    def name(self) -> str:
        """What is shown, in words."""
        what = {"pretrain": "pretraining", "rl": "reinforcement learning", "measure": "measuring"}[self.kind]
        return f"{what} {self.arm}, seed {self.seed}"

    @property
    def log(self) -> str:
        """What its log is called, and by which its results are known."""
        return f"{self.kind}-{re.sub('[^a-z]+', '-', self.arm)}-{self.seed}"

    def result(self, folder: Path) -> Path:
        """What it leaves in the benchmark's folder."""
        key = self.log.removeprefix(f"{self.kind}-")
        places = {"pretrain": f"pretrained/{key}/policy", "rl": f"rl/{key}/policy", "measure": f"measured/{key}.json"}
        return folder / places[self.kind]

    def is_done(self, folder: Path) -> bool:
        """Whether it need not be run again."""
        return self.result(folder).exists()


def trained(arm: str, seed: int) -> Job:
    """The job that trains the model of an arm."""
    return Job("rl" if arm in RL_ARMS else "pretrain", arm, seed)


def stages(plan: PretrainingPlan) -> list[list[Job]]:
    """All jobs; those of a stage need what the stages before have left, and nothing of each other."""
    seeds = range(plan.seeds)
    return [
        [Job("pretrain", arm, seed) for seed in seeds for arm in (BASE, *OBJECTIVE_ARMS)],
        [Job("rl", arm, seed) for seed in seeds for arm in RL_ARMS],
        [Job("measure", arm, seed) for seed in seeds for arm in ARMS],
    ]


def perform(job: Job, plan: PretrainingPlan, folder: Path) -> None:
    """Do a job, and leave its result."""
    {"pretrain": _pretrain, "rl": _reinforce, "measure": _measure}[job.kind](job, plan, folder)


def _pretrain(job: Job, plan: PretrainingPlan, folder: Path) -> None:
    from textrl_agents.benchmark.pretraining.model import untrained_model
    from textrl_agents.pretraining.settings import PretrainSettings
    from textrl_agents.pretraining.train import pretrain
    from textrl_env.models import load_model

    objective = MLE if job.arm == BASE else job.arm
    out = job.result(folder).parent
    if out.exists():  # of a process that was killed
        remove_folder(out)
    settings = PretrainSettings(
        objective=objective,
        tokens=plan.tokens - (plan.rl_tokens if job.arm == BASE else 0),
        heldout_share=0,
        learning_rate=plan.learning_rate,
        batch_size=plan.batch_size,
        checkpoints=0,
        samples=16,
        seed=plan.seed + job.seed,
        device="cpu",
        **plan.objectives[objective],
    )
    tokenizer = load_model("embedded", device="cpu").tokenizer
    pretrain(
        f"grammar:{plan.documents}",
        out=out,
        reward="no_insults",
        model=untrained_model(plan, tokenizer),
        tokenizer=tokenizer,
        settings=settings,
        progress=False,
    )


def _reinforce(job: Job, plan: PretrainingPlan, folder: Path) -> None:
    from textrl_agents.algorithms.cell import Cell
    from textrl_agents.algorithms.registry import get_algorithm
    from textrl_agents.benchmark.pretraining.task import remarks_task
    from textrl_agents.benchmark.run_cell import LearningCurve
    from textrl_agents.training.random_state import seed_all

    algorithm, task, seed = get_algorithm(RL_ARMS[job.arm]), remarks_task(), plan.seed + job.seed
    base = Job("pretrain", BASE, job.seed).result(folder)
    settings = {**algorithm.settings_for(task), **plan.rl[job.arm]}
    cell = Cell(algorithm.name, task, seed, plan.rl_tokens, settings, {"model": str(base)}, device="cpu")
    began = time.monotonic()
    seed_all(seed)
    result = algorithm.run(cell, LearningCurve())
    try:
        policy: Any = result.policy
        with atomic_folder(job.result(folder), manifest=True) as fresh:
            policy.save_pretrained(fresh)
            about = {"tokens": result.tokens, "seconds": round(time.monotonic() - began, 1)}
            (fresh / SECONDS).write_text(json.dumps(about) + "\n")
    finally:
        result.close()


def _measure(job: Job, plan: PretrainingPlan, folder: Path) -> None:
    from textrl_agents.benchmark.pretraining.measures import measure

    policy, mle = (trained(arm, job.seed).result(folder) for arm in (job.arm, MLE))
    found = {"arm": job.arm, "seed": job.seed, **measure(policy, mle, plan, seed=plan.seed + job.seed)}
    result = job.result(folder)
    result.parent.mkdir(exist_ok=True)
    write_atomically(result, json.dumps(found, indent=1) + "\n")
