"""`textrl train`."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from textrl_agents.algorithms.registry import LIBRARIES, names_in
from textrl_agents.commands.options import MODELS, DeviceIfGiven, DtypeIfGiven, PrecisionIfGiven, Threads, Trust
from textrl_env.errors import ConfigError

# Flags that a resumed run may still be given; all else is as it was.
_RESUMABLE = ("timesteps",)
# Flags that are arguments of the environment.
_OF_ENV = ("score_mode",)


def _every_algorithm() -> str:
    """The algorithms by library, as --lib and --algo call them."""
    by_library = [f"{', '.join(names_in(library))} ({library})" for library in LIBRARIES]
    return "; ".join([*by_library, ", ".join(names_in(None))])


Lib = Annotated[
    str | None, typer.Option(help=f"RL library: {', '.join(LIBRARIES)}. Default: the one that has --algo, sb3 first.")
]
Algo = Annotated[str | None, typer.Option(help=f"{_every_algorithm()}. Default: ppo.")]
TrainingTask = Annotated[str | None, typer.Option(help="Task: sentiment, exact, ... Default: sentiment.")]
Timesteps = Annotated[int | None, typer.Option(help="Tokens to generate in training. Default: 200000.")]
TrainingSeed = Annotated[int | None, typer.Option(help="Seed of everything random. Default: 0.")]
NewRunFolder = Annotated[Path | None, typer.Option(help="New run folder. Default: runs/TASK-ALGO-SEED.")]
Model = Annotated[str | None, typer.Option(help=f"Model to train: {MODELS}. Default: the task's.")]
TrainingReward = Annotated[
    str | None,
    typer.Option(
        help="Reward: a name, file.py:function, a reward model's folder or id, or a server's http address. Default: "
        "the task's."
    ),
]
ScoreMode = Annotated[
    str | None,
    typer.Option(
        help="When the reward is asked: deferred, once a rollout for all responses that ended in it, or stepwise, as "
        "each ends. Default: deferred; stepwise where an algorithm learns from single steps (dqn, q_learning ...). "
        "More: --set env.reward_workers=8, env.reward_batch=64."
    ),
]
KLCoef = Annotated[float | None, typer.Option(help="Weight of the KL from the reference. Default: the task's.")]
Rows = Annotated[int | None, typer.Option(help="Responses sampled at once. Default: 32, or as tuned.")]
EvalEvery = Annotated[
    int | None, typer.Option(help="Tokens between evaluations on validation prompts; 0: before and after alone.")
]
EpisodesPerEvaluation = Annotated[int | None, typer.Option(help="Episodes of each evaluation; 0: never. Default: 256.")]
SaveEvery = Annotated[int | None, typer.Option(help="Tokens between checkpoints; 0: at the end alone.")]
Decoder = Annotated[
    str | None,
    typer.Option(
        help="How responses are sampled: slots, a token of every row a step; ahead, whole responses at once by the "
        "continuous batching of transformers. Default: slots, the faster one on a CPU."
    ),
]
Optimizer = Annotated[
    str | None,
    typer.Option(
        help="Optimizer, such as torch.optim.AdamW or bitsandbytes.optim.AdamW8bit; with arguments, in its place: "
        "--set optimizer.name=torch.optim.AdamW --set optimizer.fused=true. Default: torch.optim.Adam."
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="Any other setting, such as algorithm.n_steps=32."),
]
Config = Annotated[Path | None, typer.Option(help="YAML file of settings; flags go on top of it.")]
Resume = Annotated[
    Path | None, typer.Option(help="Continue this run, or this checkpoint of one, exactly where it stopped.")
]


def train(
    lib: Lib = None,
    algo: Algo = None,
    task: TrainingTask = None,
    timesteps: Timesteps = None,
    seed: TrainingSeed = None,
    out: NewRunFolder = None,
    model: Model = None,
    reward: TrainingReward = None,
    score_mode: ScoreMode = None,
    kl_coef: KLCoef = None,
    n_envs: Rows = None,
    eval_every: EvalEvery = None,
    eval_episodes: EpisodesPerEvaluation = None,
    save_every: SaveEvery = None,
    device: DeviceIfGiven = None,
    dtype: DtypeIfGiven = None,
    precision: PrecisionIfGiven = None,
    decoder: Decoder = None,
    optimizer: Optimizer = None,
    threads: Threads = None,
    settings: Assignments = None,
    config: Config = None,
    resume: Resume = None,
    trust: Trust = False,
) -> None:
    """Align a language model with a reward, and write a run folder.

    The folder holds the policy in Hugging Face format, metrics, curve.png, samples.md and checkpoints. Ctrl-C saves a
    checkpoint, and --resume goes on from it as if nothing had happened. Some algorithms have no checkpoints and say so:
    a run of theirs cannot go on.
    """
    named = {
        "lib": lib,
        "algo": algo,
        "task": task,
        "timesteps": timesteps,
        "seed": seed,
        "out": None if out is None else str(out),
        "model": model,
        "reward": reward,
        "score_mode": score_mode,
        "kl_coef": kl_coef,
        "n_envs": n_envs,
        "eval_every": eval_every,
        "eval_episodes": eval_episodes,
        "save_every": save_every,
        "device": device,
        "dtype": dtype,
        "precision": precision,
        "decoder": decoder,
        "optimizer": optimizer,
        "threads": threads,
    }
    flags = {name: value for name, value in named.items() if value is not None}
    result = _resume(resume, flags, settings or config, trust) if resume else _train(flags, settings or [], config)
    exit_if_stopped(result)
    _report(result)


def exit_if_stopped(result: Any) -> None:
    """Say how to continue a run that a signal has stopped, and end with its exit code."""
    if result.finished:
        return
    from textrl_agents.runs.config import TrainConfig
    from textrl_agents.runs.run_folder import RunFolder
    from textrl_agents.training.settings_file import read_settings
    from textrl_agents.training.trust import resume_command

    settings = read_settings(RunFolder(result.folder).config)
    algorithm = TrainConfig.of(settings).algorithm_entry
    how = f"continue with: {resume_command(result.folder, settings)}"
    if not algorithm.has_checkpoints:
        how = f"{algorithm.name} has no checkpoints, so the run cannot go on: start a new one with another --out"
    typer.echo(f"stopped by {result.stopped_by.name} after {result.timesteps:,} tokens; {how}", err=True)
    raise typer.Exit(130 if result.stopped_by == signal.SIGINT else 1)


def _train(flags: dict[str, Any], settings: list[str], config: Path | None) -> Any:
    from textrl_agents.runs.config import TrainConfig
    from textrl_agents.training.settings_file import parse_assignments, read_settings

    # Settings are checked before torch and SB3 are imported, so that a typo shows at once.
    layers = [read_settings(config)] if config else []
    of_env = {name: flags.pop(name) for name in _OF_ENV if name in flags}
    given = TrainConfig.of(*layers, parse_assignments(settings), {**flags, "env": of_env})
    given.check()
    from textrl_agents.runs.train import train as train_run

    return train_run(given)


def _resume(folder: Path, flags: dict[str, Any], others: Any, trust: bool) -> Any:
    refused = [f"--{name.replace('_', '-')}" for name in flags if name not in _RESUMABLE]
    if refused or others:
        raise ConfigError(
            f"--resume continues a run with its own settings; only --timesteps can change, "
            f"and {', '.join(refused) or '--config and --set'} cannot"
        )
    from textrl_agents.runs.train import resume as resume_run

    return resume_run(folder, timesteps=flags.get("timesteps"), trust=trust or None)


def _report(result: Any) -> None:
    from rich.console import Console
    from rich.markup import escape

    from textrl_agents.evaluation.tables import comparison_table, evaluation_table

    console = Console()
    if result.before is not None and result.after is not None:
        console.print(comparison_table(result.before, result.after))
    elif result.after is not None:
        console.print(evaluation_table(result.after))
    where = escape(str(result.folder))
    console.print(f"{result.timesteps:,} tokens in {result.seconds:.0f} s. Run folder: {where}", soft_wrap=True)
