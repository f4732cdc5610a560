"""The demo: stock SB3 PPO aligns the embedded model on `sentiment`, offline, in about a minute on two CPU cores."""

from __future__ import annotations

import itertools
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from textrl_agents.evaluation.tables import comparison_table, sample_table
from textrl_agents.runs.config import TrainConfig
from textrl_agents.runs.run_folder import RunFolder
from textrl_agents.runs.train import RunResult, train

# The score levels off here; seeds 0, 1 and 2 all get there.
TIMESTEPS = 65_536
SAMPLES_SHOWN = 5


def demo_config(*, seed: int = 0, timesteps: int = TIMESTEPS, out: str | None = None) -> TrainConfig:
    """Return the settings of the demo.

    Twice the task's KL coefficient keeps more of the reviews' variety at little cost in score, and two epochs an update
    give nearly what four do, in half the time.
    """
    return TrainConfig(
        task="sentiment",
        algo="ppo",
        timesteps=timesteps,
        seed=seed,
        out=out,
        kl_coef=0.1,
        n_envs=64,
        algorithm={"n_epochs": 2},
        eval_every=max(1, timesteps // 4),
        eval_episodes=512,
        save_every=0,
        keep_checkpoints=1,
    )


def free_folder(wanted: Path) -> Path:
    """Return `wanted`, or the first of `wanted-2`, `wanted-3`, ... that is free."""
    names = itertools.chain([wanted], (wanted.with_name(f"{wanted.name}-{number}") for number in itertools.count(2)))
    return next(path for path in names if not path.exists())


def run_demo(
    *,
    out: str | Path | None = None,
    timesteps: int | None = None,
    seed: int = 0,
    threads: int | None = None,
) -> RunResult:
    """Evaluate, train, evaluate on the same held-out prompts, and print what has changed.

    out: None for `runs/demo`, or `runs/demo-2` and so on where that exists. timesteps: None for the tuned length.
    """
    console = Console()
    folder = Path(out) if out is not None else free_folder(Path("runs/demo"))
    config = demo_config(seed=seed, timesteps=timesteps or TIMESTEPS, out=str(folder))
    config.threads = threads
    console.print(
        f"Stock SB3 PPO aligns the embedded model so that its reviews please a reward model: "
        f"{config.timesteps:,} tokens, seed {seed}."
    )
    result = train(config)
    if result.before is not None and result.after is not None:
        console.print(sample_table(result.before, result.after, SAMPLES_SHOWN))
        console.print(comparison_table(result.before, result.after))
    run = RunFolder(result.folder)
    console.print(f"{result.timesteps:,} tokens in {result.seconds:.0f} s.", highlight=False)
    places = escape(f"Run folder: {run.path}\nCurve: {run.curve}")
    console.print(places, soft_wrap=True, highlight=False)
    return result
