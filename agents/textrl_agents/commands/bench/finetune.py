"""`textrl bench finetune`: agents that steer a fine-tuning run, against the best schedule there is."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Any

import typer

from textrl_agents.commands.options import AsJson, print_json, print_table
from textrl_env.errors import ConfigError

Out = Annotated[Path, typer.Option(help="Folder of the benchmark; the same command goes on with one that was stopped.")]
Quick = Annotated[
    bool, typer.Option("--quick", help="Few segments, seeds and orders: a look at it in some three minutes.")
]
Agents = Annotated[
    str | None,
    typer.Option(metavar="A,B,...", help="Of q_learning,sarsa,dqn,ppo,a2c,rllib_ppo,random_search. Default: all."),
]
Data = Annotated[
    str | None,
    typer.Option(metavar="A,B,...", help="Data sets whose schedules are enumerated; all agents learn on the first."),
]
Unknown = Annotated[
    str | None, typer.Option(metavar="A,B,...", help="Other tasks to try the learned schedules on, by training.")
]
Segments = Annotated[int | None, typer.Option(min=5, help="Segments that each agent trains. Default: 4000.")]
Seeds = Annotated[int | None, typer.Option(min=1, help="Of each agent. Intervals need 3. Default: 10.")]
Orders = Annotated[int | None, typer.Option(min=1, help="Other orders of the data to try schedules with. Default: 5.")]
PPOEpisodes = Annotated[
    int | None, typer.Option(min=0, help="Episodes that a table learns from to tune PPO; 0: none. Default: 16.")
]
Jobs = Annotated[int | None, typer.Option(min=1, help="Jobs side by side. Default: one a core.")]


def finetune(
    out: Out,
    quick: Quick = False,
    agents: Agents = None,
    data: Data = None,
    unknown: Unknown = None,
    segments: Segments = None,
    seeds: Seeds = None,
    orders: Orders = None,
    ppo_episodes: PPOEpisodes = None,
    jobs: Jobs = None,
    as_json: AsJson = False,
) -> None:
    """Let agents steer fine-tuning, and hold them against the best schedule there is.

    The environment is TextRLHF-FineTune-v0: five segments, and before each the
    learning rate times 1/4, 1/2, 1, 2 or 4. All 3,125 schedules are known, and
    agents learn by replaying them, which gives what training would give.
    Learned schedules are then played on other data, by training, and a table
    tunes PPO itself. OUT/report.md and OUT/report.html have tables and the
    figure, OUT/results.json the data.

    A run that was stopped goes on with the same command. Exit codes: 0 done,
    1 where a job has failed, 2 wrong usage.

    Example: textrl bench finetune --quick --out runs/finetune
    """
    from textrl_agents.benchmark.finetune.plan import SMALL, FineTunePlan

    given: dict[str, Any] = {
        "agents": _names(agents, "--agents"),
        "data": _names(data, "--data"),
        "unknown": _names(unknown, "--unknown"),
        "segments": segments,
        "seeds": seeds,
        "orders": orders,
        "ppo_episodes": ppo_episodes,
    }
    plan = FineTunePlan(
        **{**(SMALL if quick else {}), **{name: value for name, value in given.items() if value is not None}}
    )
    findings = _run(plan, out, jobs=jobs)
    from textrl_agents.benchmark.finetune.report import AGENT_COLUMNS, agent_rows, conclusions

    if as_json:
        print_json(findings.to_json())
        return
    print_table(AGENT_COLUMNS, agent_rows(findings), numbers=AGENT_COLUMNS[1:])
    for line in conclusions(findings):
        typer.echo(line)
    typer.echo(f"Report: {out / 'report.md'} and {out / 'report.html'}")


def _run(plan: Any, out: Path, *, jobs: int | None) -> Any:
    """Run the plan. A signal ends the command, and it says how to go on."""
    from textrl_agents.benchmark.finetune.run import run_finetune
    from textrl_agents.benchmark.run import BenchmarkStopped

    try:
        return run_finetune(plan, out, jobs=jobs)
    except BenchmarkStopped as stopped:
        typer.echo(f"{stopped}; the same command goes on", err=True)
        raise typer.Exit(130 if stopped.received == signal.SIGINT else 1) from None


def _names(text: str | None, option: str) -> tuple[str, ...] | None:
    if text is None:
        return None
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    if not names:
        raise ConfigError(f"{option} takes names with commas between them; got {text!r}")
    return names
