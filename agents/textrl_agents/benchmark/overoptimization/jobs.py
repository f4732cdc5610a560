"""The pieces of work, and which of them are done: each leaves one file or folder, which is there whole or not at all.

trunks/<layers>                                 the policy's first layers, which proxies read
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

from textrl_agents.benchmark.overoptimization.plan import CURES, OveroptimizationPlan
from textrl_agents.runs.atomic import write_atomically

Kind = Literal["trunks", "pairs", "candidates", "proxy", "scores", "ppo"]

ENSEMBLE = "ensemble"


@dataclass(frozen=True)
class Job:
    """A piece of work. size, seed: of its proxy. cure: a key of `CURES`, or None; of a proxy `ENSEMBLE` or None."""

    kind: Kind
    size: int = 0
    seed: int = 0
    cure: str | None = None

    @property
    def name(self) -> str:
        """What is shown, in words."""
        cure = f", {CURES[self.cure].label}" if self.cure and self.cure in CURES else ""
        names = {
            "trunks": "layers that the proxies read",
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

    @property
    def log(self) -> str:
        """What its log is called."""
        return f"{self.kind}-{self.key}"

    def result(self, folder: Path) -> Path:
        """What it leaves in the benchmark's folder."""
        places = {
            "trunks": "trunks",
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
    proxies = [Job("proxy", plan.cure_size, seed, ENSEMBLE) for seed in seeds]
    proxies += [Job("proxy", size, seed) for size in reversed(plan.sizes) for seed in seeds]
    runs = [Job("ppo", size, seed, cure) for seed in range(plan.rl_seeds) for size, cure in kinds(plan)]
    return [[Job("candidates"), Job("pairs"), Job("trunks")], proxies, [Job("scores"), *runs]]


def perform(job: Job, plan: OveroptimizationPlan, folder: Path) -> None:
    """Do a job, and leave its result."""
    result = job.result(folder)
    result.parent.mkdir(parents=True, exist_ok=True)
    if job.kind == "trunks":
        from textrl_agents.benchmark.overoptimization.trunks import cut_trunks

        cut_trunks(plan, result)
    elif job.kind in ("pairs", "candidates"):
        from textrl_agents.benchmark.overoptimization.sampling import sample_candidates, sample_pairs, write_samples

        write_samples((sample_pairs if job.kind == "pairs" else sample_candidates)(plan), result)
    elif job.kind == "proxy":
        from textrl_agents.benchmark.overoptimization.proxies import train_ensemble, train_proxy
        from textrl_agents.benchmark.overoptimization.sampling import read_samples

        samples, trunks = read_samples(Job("pairs").result(folder)), Job("trunks").result(folder)
        train = train_ensemble if job.cure else train_proxy
        train(samples, plan, trunks, size=job.size, seed=job.seed, folder=result)
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

    None has a KL charge: the KL of best-of-n is fixed by n, so that a charge changes no response.
    """
    optimised = [Job("ppo", size, seed, cure) for seed in range(plan.seeds) for size, cure in kinds(plan)]
    return {job.key: _judge(job, plan, folder) for job in optimised if uncharged(job.cure) == job.cure}


def uncharged(cure: str | None) -> str | None:
    """The cure without its KL charge: the one with the same reward model, or None, a single proxy."""
    combine = None if cure is None else CURES[cure].combine
    return next((key for key, each in CURES.items() if combine and each == (each.label, combine, None)), None)


def _judge(job: Job, plan: OveroptimizationPlan, folder: Path) -> tuple[Path, dict[str, Any]]:
    """The reward model that a job optimises: its folder, and how it is combined."""
    combine = None if job.cure is None else CURES[job.cure].combine
    if combine is None:
        return Job("proxy", job.size, job.seed).result(folder), {}
    ensemble = Job("proxy", job.size, job.seed, ENSEMBLE).result(folder)
    return ensemble, {"combine": combine, "coefficient": plan.coefficient}


def _run_ppo(job: Job, plan: OveroptimizationPlan, folder: Path, result: Path) -> None:
    from textrl_agents.benchmark.overoptimization.rl import run_ppo
    from textrl_agents.benchmark.overoptimization.shared_features import load_proxy

    source, ways = _judge(job, plan, folder)
    reward = load_proxy(source, device=plan.device, **ways)
    charge = None if job.cure is None else CURES[job.cure].charge
    kl_coef = 0.0 if charge is None else getattr(plan, charge)
    found: Mapping[str, Any] = run_ppo(plan, reward, kl_coef=kl_coef, seed=plan.seed + job.seed)
    line = {"size": job.size, "seed": job.seed, "cure": job.cure, "kl_coef": kl_coef, **found}
    write_atomically(result, json.dumps(line) + "\n")
