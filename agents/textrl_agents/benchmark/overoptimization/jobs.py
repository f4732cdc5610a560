"""The pieces of work, and which of them are done: each leaves one file or folder, which is there whole or not at all.

samples/pairs.jsonl, samples/candidates.jsonl   responses of the reference with their gold scores
proxies/<size>-<seed>, proxies/<size>-<seed>-ensemble   reward models
scores.npz                                      each proxy's scores of the candidates
rl/<size>-<seed>.json, rl/<size>-<seed>-<cure>.json     PPO's runs
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from textrl_agents.benchmark.overoptimization.plan import CURES, PENALTY, OveroptimizationPlan
from textrl_agents.runs.atomic import write_atomically

Kind = Literal["pairs", "candidates", "proxy", "scores", "ppo"]


@dataclass(frozen=True)
class Job:
    """A piece of work. size, seed: of its proxy. cure: a key of `CURES`; of a proxy None or "ensemble"."""

    kind: Kind
    size: int = 0
    seed: int = 0
    cure: str | None = None

    @property
    def name(self) -> str:
        """What is shown, in words."""
        cure = f", {CURES.get(self.cure)}" if self.cure else ""
        names = {
            "pairs": "responses to compare",
            "candidates": "candidates of best-of-n",
            "proxy": f"{'ensemble' if self.cure else 'proxy'} of {self.size} comparisons, seed {self.seed}",
            "scores": "scores of the candidates",
            "ppo": f"PPO against {self.size} comparisons, seed {self.seed}{cure}",
        }
        return names[self.kind]

    @property
    def key(self) -> str:
        """By which its results are known: "200-0-worst"."""
        return "-".join(map(str, (self.size, self.seed, *([self.cure] if self.cure else []))))

    def result(self, folder: Path) -> Path:
        """What it leaves in the benchmark's folder."""
        places = {
            "pairs": "samples/pairs.jsonl",
            "candidates": "samples/candidates.jsonl",
            "proxy": f"proxies/{self.key}",
            "scores": "scores.npz",
            "ppo": f"rl/{self.key}.json",
        }
        return folder / places[self.kind]

    def is_done(self, folder: Path) -> bool:
        """Whether it need not be run again."""
        return self.result(folder).exists()


def stages(plan: OveroptimizationPlan) -> list[list[Job]]:
    """All jobs; those of a stage need what the stages before have left, and nothing of each other."""
    seeds = range(plan.seeds)
    # What takes longest comes first, so that no process has it alone at the end.
    proxies = [Job("proxy", plan.cure_size, seed, "ensemble") for seed in seeds]
    proxies += [Job("proxy", size, seed) for size in reversed(plan.sizes) for seed in seeds]
    runs = [Job("ppo", size, seed, cure) for seed in range(plan.rl_seeds) for size, cure in kinds(plan)]
    return [[Job("candidates"), Job("pairs")], proxies, [Job("scores"), *runs]]


def perform(job: Job, plan: OveroptimizationPlan, folder: Path) -> None:
    """Do a job, and leave its result."""
    result = job.result(folder)
    result.parent.mkdir(parents=True, exist_ok=True)
    if job.kind in ("pairs", "candidates"):
        from textrl_agents.benchmark.overoptimization.sampling import sample_candidates, sample_pairs, write_samples

        write_samples((sample_pairs if job.kind == "pairs" else sample_candidates)(plan), result)
    elif job.kind == "proxy":
        from textrl_agents.benchmark.overoptimization.proxies import train_proxy
        from textrl_agents.benchmark.overoptimization.sampling import read_samples

        members = plan.members if job.cure else 1
        samples = read_samples(Job("pairs").result(folder))
        train_proxy(samples, plan, size=job.size, seed=job.seed, members=members, folder=result)
    elif job.kind == "scores":
        from textrl_agents.benchmark.overoptimization.candidate_scores import score_candidates, write_scores
        from textrl_agents.benchmark.overoptimization.sampling import read_samples

        samples = read_samples(Job("candidates").result(folder))
        write_scores(score_candidates(samples, judges(plan, folder), device=plan.device), result)
    else:
        _run_ppo(job, plan, folder, result)


def kinds(plan: OveroptimizationPlan) -> list[tuple[int, str | None]]:
    """Size and cure of all that is optimised: single proxies of each size, and each cure."""
    return [*((size, None) for size in plan.sizes), *((plan.cure_size, cure) for cure in CURES)]


def judges(plan: OveroptimizationPlan, folder: Path) -> dict[str, tuple[Path, dict[str, Any]]]:
    """What scores the candidates: key -> folder of the reward model, and how an ensemble is combined.

    The KL charge is none of them: the KL of best-of-n is fixed by n, so that a charge changes no response.
    """
    optimised = [Job("ppo", size, seed, cure) for seed in range(plan.seeds) for size, cure in kinds(plan)]
    return {job.key: _judge(job, plan, folder) for job in optimised if job.cure != PENALTY}


def _judge(job: Job, plan: OveroptimizationPlan, folder: Path) -> tuple[Path, dict[str, Any]]:
    """The reward model that a job optimises: its folder, and how it is combined."""
    if job.cure in (None, PENALTY):
        return Job("proxy", job.size, job.seed).result(folder), {}
    ensemble = Job("proxy", job.size, job.seed, "ensemble").result(folder)
    return ensemble, {"combine": job.cure, "coefficient": plan.coefficient}


def _run_ppo(job: Job, plan: OveroptimizationPlan, folder: Path, result: Path) -> None:
    from textrl_agents.benchmark.overoptimization.rl import run_ppo
    from textrl_agents.benchmark.overoptimization.shared_features import load_proxy

    source, ways = _judge(job, plan, folder)
    reward, _ = load_proxy(source, device=plan.device, **ways)
    kl_coef = plan.kl_coef if job.cure == PENALTY else 0.0
    found: Mapping[str, Any] = run_ppo(plan, reward, kl_coef=kl_coef, seed=plan.seed + job.seed)
    line = {"size": job.size, "seed": job.seed, "cure": job.cure, "kl_coef": kl_coef, **found}
    write_atomically(result, json.dumps(line) + "\n")
