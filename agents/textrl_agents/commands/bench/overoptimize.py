"""`textrl bench overoptimize`: watch a learned reward being over-optimised, and what delays it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from textrl_agents.commands.options import AsJson, DeviceIfGiven, check_names, print_json, print_table
from textrl_env.errors import ConfigError

Out = Annotated[Path, typer.Option(help="Folder of the benchmark; the same command goes on with one that was stopped.")]
Quick = Annotated[
    bool, typer.Option("--quick", help="Fewer prompts, proxies and tokens: minutes, and wider intervals.")
]
TaskName = Annotated[
    str | None, typer.Option(help="A task with a gold score, which plays the truth. Default: sentiment.")
]
Model = Annotated[
    str | None, typer.Option(help="The policy, whose hidden states the proxies read. Default: the task's.")
]
Sizes = Annotated[
    str | None, typer.Option(metavar="N,N,...", help="Comparisons that the proxies learn from. Default: the preset's.")
]
Noise = Annotated[float | None, typer.Option(help="Share of wrong labels, 0 to 0.5. Default: 0.25.")]
Seeds = Annotated[int | None, typer.Option(min=1, help="Proxies of each size. Default: the preset's.")]
Candidates = Annotated[
    int | None, typer.Option(min=4, help="Responses to each prompt that best-of-n chooses from. Default: the preset's.")
]
Tokens = Annotated[
    int | None, typer.Option(min=1, help="Tokens that each run of PPO generates. Default: the preset's.")
]
CureSize = Annotated[
    int | None, typer.Option(help="The size that the cures are tried on. Default: 800, or the largest.")
]
KLCoef = Annotated[
    float | None, typer.Option(help="KL coefficient of the cure that charges the KL alone. Default: 0.05.")
]
Seed = Annotated[int | None, typer.Option(min=0, help="Of samples, labels and training. Default: 0.")]
Jobs = Annotated[int | None, typer.Option(min=1, help="Jobs side by side. Default: one a core, and one on a GPU.")]


def overoptimize(
    out: Out,
    quick: Quick = False,
    task: TaskName = None,
    model: Model = None,
    sizes: Sizes = None,
    noise: Noise = None,
    seeds: Seeds = None,
    candidates: Candidates = None,
    tokens: Tokens = None,
    cure_size: CureSize = None,
    kl_coef: KLCoef = None,
    seed: Seed = None,
    device: DeviceIfGiven = None,
    jobs: Jobs = None,
    as_json: AsJson = False,
) -> None:
    """Optimise learned rewards ever further, and see the true one turn down.

    Reward models (proxies) learn from more and more simulated comparisons, a
    quarter of them wrong. Best-of-n and stock PPO then optimise each proxy,
    and OUT/overoptimization.png shows proxy and gold against sqrt(KL), with
    the functional forms of Gao et al. 2023 fitted; beside it ensembles, KL
    charges and both, which delay the turn. OUT/report.md has the figures, and
    OUT/points.csv and OUT/results.json the data.

    A run that was stopped goes on with the same command. Exit codes: 0 done,
    1 where a job has failed, 2 wrong usage.

    Example: textrl bench overoptimize --quick --out runs/overoptimization
    """
    check_names(task=task, device=device)
    from textrl_agents.benchmark.overoptimization.plan import PRESETS, OveroptimizationPlan

    given: dict[str, Any] = {
        "task": task,
        "model": model,
        "sizes": None if sizes is None else _sizes(sizes),
        "noise": noise,
        "seeds": seeds,
        "candidates": candidates,
        "rl_tokens": tokens,
        "cure_size": cure_size,
        "kl_coef": kl_coef,
        "seed": seed,
        "device": device,
    }
    plan = OveroptimizationPlan.of(
        PRESETS["quick" if quick else "full"], **{name: value for name, value in given.items() if value is not None}
    )
    findings = _run(plan, out, jobs=jobs)
    from textrl_agents.benchmark.overoptimization.analysis.report import (
        COLUMNS,
        FIGURE,
        REPORT,
        SHOWN,
        conclusions,
        table,
    )

    if as_json:
        print_json(findings.to_json())
        return
    places = [COLUMNS.index(name) for name in SHOWN]
    print_table(SHOWN, [[row[place] for place in places] for row in table(findings)])
    for line in conclusions(findings):
        typer.echo(line)
    typer.echo(f"Report: {out / REPORT}, figure: {out / FIGURE}")


def _run(plan: Any, out: Path, *, jobs: int | None) -> Any:
    """Run the plan. A signal ends the command, and it says how to go on."""
    from textrl_agents.benchmark.overoptimization.run import run_overoptimization
    from textrl_agents.benchmark.run import BenchmarkStopped

    try:
        return run_overoptimization(plan, out, jobs=jobs)
    except BenchmarkStopped as stopped:
        typer.echo(f"{stopped}; the same command goes on", err=True)
        raise typer.Exit(130 if stopped.received == signal.SIGINT else 1) from None


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"--sizes takes whole numbers with commas between them, such as 50,200; got {text!r}"
        ) from None
