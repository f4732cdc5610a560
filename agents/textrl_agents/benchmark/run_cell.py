"""Run one cell, from its description to its line of results: build, train, evaluate."""

from __future__ import annotations

import contextlib
import math
import time
import traceback
from datetime import UTC, datetime
from statistics import fmean
from typing import Any

import torch

from textrl_agents.algorithms.cell import Cell, Trained
from textrl_agents.algorithms.cell_setup import judging_env
from textrl_agents.algorithms.registry import get_algorithm
from textrl_agents.benchmark.results import failed, new_line
from textrl_agents.evaluation import Evaluation
from textrl_agents.training.provenance import resident_bytes
from textrl_agents.training.random_state import seed_all
from textrl_env import TextGenVectorEnv
from textrl_env.errors import ConfigError
from textrl_env.tasks.enumeration import ExactValue
from textrl_env.trajectory import Trajectory
from textrl_env.user_values import check_whole

SAMPLES = 6
POINTS = 100  # of a learning curve; some algorithms record every update


def run_cell(cell: Cell) -> dict[str, Any]:
    """Train and evaluate; return the line for `results.jsonl`.

    An error of the algorithm, its task or its settings gives a line with the status "failed"; only Ctrl-C and
    `sys.exit` are raised. On a CPU torch runs on one thread, here and afterwards: cells run side by side.
    """
    line = new_line(cell, started=datetime.now(UTC))
    curve = LearningCurve()
    began = time.perf_counter()
    try:
        line |= _trained_and_evaluated(cell, curve)
    except Exception as error:  # the other cells are still worth having
        seconds = time.perf_counter() - began
        line |= {"tokens": curve.tokens, "train_seconds": seconds, "peak_memory_mib": _peak_mib()}
        message = "\n".join([str(error), *getattr(error, "__notes__", [])])
        return failed(line, f"{type(error).__name__}: {message}", traceback.format_exc())
    return line


class LearningCurve:
    """Keeps the points that an algorithm records. It is a `Record`."""

    def __init__(self) -> None:
        self.points: list[dict[str, float | None]] = []
        self.tokens = 0

    def __call__(self, tokens: int, *, score: float, kl: float | None, length: float) -> None:
        """Keep a point. kl: None or NaN where the algorithm cannot tell it, as one that learns values and no policy."""
        self.tokens = int(tokens)
        # NaN is the mean over no episode: none has ended since the last point, so there is nothing to draw.
        if not (math.isfinite(score) and math.isfinite(length)):
            return
        known = float(kl) if kl is not None and math.isfinite(kl) else None
        self.points.append({"tokens": int(tokens), "score": float(score), "kl": known, "length": float(length)})

    def thinned(self) -> list[dict[str, float | None]]:
        """Return at most POINTS points. Each is a mean of neighbours, at the tokens of the last of them."""
        size = max(1, math.ceil(len(self.points) / POINTS))
        return [_mean_point(self.points[start : start + size]) for start in range(0, len(self.points), size)]


def _mean_point(points: list[dict[str, float | None]]) -> dict[str, float | None]:
    means: dict[str, float | None] = {"tokens": points[-1]["tokens"]}
    for name in ("score", "kl", "length"):
        known = [value for point in points if (value := point[name]) is not None]
        means[name] = fmean(known) if known else None
    return means


def _trained_and_evaluated(cell: Cell, curve: LearningCurve) -> dict[str, Any]:
    check_whole("budget", cell.budget, 1)
    algorithm = get_algorithm(cell.algorithm)
    env = judging_env(cell)
    device = torch.device(env.kl_penalty.require_reference().lm.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    else:
        torch.cuda.reset_peak_memory_stats(device)
    seed_all(cell.seed)
    with contextlib.ExitStack() as stack:
        began = time.perf_counter()
        trained = algorithm.run(cell, curve)
        stack.callback(trained.close)
        seconds = time.perf_counter() - began
        # None where nothing was trained. Best-of-n generates only while it is evaluated.
        speed = trained.tokens / max(seconds, 1e-9) if trained.tokens else None
        # Before the evaluation, whose own need is no part of the algorithm's.
        memory = {"peak_memory_mib": _peak_mib()}
        if device.type == "cuda":
            memory["peak_gpu_memory_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
        # The cell's own seed: the same prompts for every algorithm, and others for every seed.
        evaluation = trained.evaluate(env, cell.eval_episodes, cell.seed)
        metrics = _metrics(evaluation, trained, env)
    return {
        "tokens": int(trained.tokens),
        "metrics": metrics,
        "train_seconds": seconds,
        "tokens_per_second": speed,
        **memory,
        "curve": curve.thinned(),
        "samples": [_sample(episode) for episode in evaluation.episodes[:SAMPLES]],
        "split": evaluation.split,
        "kl_coef": evaluation.kl_coef,
        "device": str(device),
    }


def _peak_mib() -> float | None:
    peak = resident_bytes("VmHWM")
    return None if peak is None else peak / 2**20


def _metrics(evaluation: Evaluation, trained: Trained, env: TextGenVectorEnv) -> dict[str, float]:
    """Means over the evaluation's episodes. Raises FloatingPointError where one is not finite."""
    means = {name: statistic.mean for name, statistic in evaluation.statistics.items()}
    reported = ("score", "gold_score", "kl", "turns", "success")
    metrics: dict[str, float] = {name: means[name] for name in reported if name in means}
    metrics |= {
        "objective": means["penalized_return"],
        "length": means["length"],
        "distinct_1": evaluation.distinct_1,
        "distinct_2": evaluation.distinct_2,
        "entropy": means["entropy"],
        "eos_share": evaluation.finish_reasons["eos"],
    }
    if "turns" in means:
        metrics["turn_length"] = means["length"] / means["turns"]
    exact = _exact_value(env)
    if exact is not None and trained.evaluation is None:
        metrics["normalized"] = exact.normalized(trained.policy, deterministic=trained.deterministic)
    elif exact is not None:  # what answers in a way of its own has no probabilities to enumerate, but samples
        gained = metrics["objective"] - exact.reference_value
        metrics["normalized"] = gained / (exact.optimal_value - exact.reference_value)
    broken = [f"{name} is {value}" for name, value in metrics.items() if not math.isfinite(value)]
    if broken:
        raise FloatingPointError(f"the trained policy's {', '.join(broken)}: training has diverged")
    return {name: float(value) for name, value in metrics.items()}


def _exact_value(env: TextGenVectorEnv) -> ExactValue | None:
    """The exact values of a task that can be enumerated; None for any other."""
    try:
        return ExactValue(env.rules, env.prompts)
    except ConfigError:
        return None


def _sample(episode: Trajectory) -> dict[str, Any]:
    known = {name: getattr(episode, name) for name in ("prompt", "response", "score", "gold_score")}
    return {**known, "kl": episode.kl_sum}
