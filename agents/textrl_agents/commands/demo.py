"""`textrl demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from textrl_agents.commands.options import Threads
from textrl_agents.commands.train import exit_if_stopped


def demo(
    out: Annotated[Path | None, typer.Option(help="New run folder. Default: runs/demo, or runs/demo-2, ...")] = None,
    timesteps: Annotated[int | None, typer.Option(min=1, help="Tokens to generate in training.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of everything random.")] = 0,
    threads: Threads = None,
) -> None:
    """Align the embedded model in about a minute, and show what it writes before and after."""
    from textrl_agents.runs.demo import run_demo

    exit_if_stopped(run_demo(out=out, timesteps=timesteps, seed=seed, threads=threads))
