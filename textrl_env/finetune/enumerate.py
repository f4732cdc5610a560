"""Play all schedules of the fine-tuning environment and keep them: `python -m textrl_env.finetune.enumerate`.

It trains 3,905 segments for each data set, which takes minutes. Torch uses one thread, so that another run on the same
machine gives the same bits; on other processors the last digits differ. A file is written when its tree is complete.
"""

from __future__ import annotations

import argparse
import platform
import sys
import time
from typing import Any

import numpy as np
import torch
import transformers

from textrl_env.finetune.env import FineTuneEnv
from textrl_env.finetune.schedule_tree import ScheduleTree, enumerate_schedules, enumerated_names, tree_path
from textrl_env.finetune.schedules import SCHEDULES, play_rates, scheduled_rates
from textrl_env.finetune.supervised_run import SupervisedRun
from textrl_env.finetune.training_run import LEARNING_RATE

DATA = ("translate",)
DOUBLINGS = range(
    -2, 11
)  # peaks of the baselines, from a quarter of the start's rate up to about all that the tree has


def make_tree(env: FineTuneEnv, told: Any = lambda done, total: None) -> ScheduleTree:
    """Enumerate the schedules of a supervised environment, and play the baselines beside them."""
    levels = enumerate_schedules(env, told)
    run = env.run
    assert isinstance(run, SupervisedRun)
    start = run.settings.dials[LEARNING_RATE]
    peaks = np.array([start * 2.0**power for power in DOUBLINGS])
    baselines = {
        name: (
            peaks,
            np.array([play_rates(run, scheduled_rates(name, peak, env.segments), _seed(env)) for peak in peaks]),
        )
        for name in SCHEDULES
    }
    multipliers = tuple(change.factors[LEARNING_RATE] for change in env.changes)
    return ScheduleTree(levels, multipliers, described(env), _made_with(), baselines)


def described(env: FineTuneEnv) -> dict[str, Any]:
    """All that the numbers of a tree depend on, but for versions and the machine."""
    run = env.run
    assert isinstance(run, SupervisedRun)
    return {
        "data": run.examples.name,
        "data_hash": run.data_hash,
        "model_hash": run.model_hash,
        "steps": run.steps,
        "batch_size": run.settings.batch_size,
        "optimizer": run.settings.optimizer,
        LEARNING_RATE: run.settings.dials[LEARNING_RATE],
        "order_seed": _seed(env),
        "segments": env.segments,
    }


def _seed(env: FineTuneEnv) -> int:
    assert env.order_seed is not None  # `enumerate_schedules` has refused it
    return env.order_seed


def _made_with() -> dict[str, Any]:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "machine": platform.machine(),
    }


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="*", default=DATA, help=f"built-in tasks; default: {' '.join(DATA)}")
    torch.set_num_threads(1)
    for data in parser.parse_args().data:
        began = time.perf_counter()

        def told(done: int, total: int, data: str = data, began: float = began) -> None:
            if done % 50 == 0 or done == total:
                print(
                    f"\r{data}: {done}/{total} segments, {time.perf_counter() - began:.0f} s", end="", file=sys.stderr
                )

        tree = make_tree(FineTuneEnv(data), told)
        tree.save(tree_path(data))
        best = tree.best()
        rates = ", ".join(f"{rate:.3g}" for rate in tree.rates(best.actions))
        print(f"\n{data}: the best schedule has rates {rates} and gains {best.gain:.4f}")
        for name in tree.baselines:
            peak, gain = tree.best_baseline(name)
            print(f"{data}: {name}, best peak {peak:.3g}: {gain:.4f}, {gain / best.gain:.3f} of the best")
    print(f"enumerated: {', '.join(enumerated_names())}")


if __name__ == "__main__":
    _main()
