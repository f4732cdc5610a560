"""`textrl bench cost-curves`: what a token costs, against the model's size, the rows and the response's length."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from textrl_agents.commands.options import (
    AsJson,
    Device,
    Threads,
    check_names,
    print_json,
    print_table,
    set_threads,
    told_on_stderr,
)

FIGURE, POINTS = "cost-curves.png", "cost-curves.json"
COLUMNS = ("curve", "size", "rows", "tokens", "rollout", "least", "update", "least ")

Out = Annotated[Path, typer.Option(help=f"Folder for {FIGURE} and {POINTS}; those that are there are replaced.")]


def cost_curves(
    out: Out,
    device: Device = "auto",
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of each point; the median counts.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="Two small points of each curve: seconds.")] = False,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Measure what a token of stock PPO costs, and draw it against model size, rows and response length.

    The models are Llamas with random weights, 1 to 112 million parameters, all
    of which are trained; every response runs to its limit, and the reward
    costs nothing. Each point is measured, beside the least time that the
    device's arithmetic and memory would allow. The whole takes some minutes
    on two cores.

    Example: textrl bench cost-curves --out runs/curves
    """
    check_names(device=device)
    from textrl_agents.training.extras import require
    from textrl_env.user_values import user_path

    require("matplotlib", "stable_baselines3")
    folder = user_path(out)
    from textrl_agents.runs.atomic import write_atomically
    from textrl_agents.speed.curves import points as measured
    from textrl_agents.speed.curves.figure import plot_curves
    from textrl_env.models.storage.loading import resolve_device

    resolve_device(device)
    folder.mkdir(parents=True, exist_ok=True)  # refused now, and not after minutes
    set_threads(threads)
    curves = measured.cost_curves(quick=quick)
    with told_on_stderr() as tell:
        points = measured.measure_points(curves, device=device, repeats=repeats, progress=tell)
    about = _about(device)
    found = {"about": about, "points": [point._asdict() for point in points]}
    write_atomically(folder / POINTS, json.dumps(found, indent=2) + "\n")
    plot_curves(curves, points, folder / FIGURE, title=f"Stock PPO, one epoch, all weights trained. {about}")
    if as_json:
        print_json(found)
        return
    cells = [
        (
            point.curve,
            f"{point.parameters / 1e6:.1f}M",
            *(str(count) for count in (point.rows, point.tokens)),
            *(f"{cost:,.0f}" for cost in (point.rollout, point.rollout_bound, point.update, point.update_bound)),
        )
        for point in points
    ]
    title = "Microseconds a token; least: what the measured peaks of the device allow"
    print_table(COLUMNS, cells, title=title, numbers=COLUMNS[1:], whole=COLUMNS)
    typer.echo(f"Figure: {folder / FIGURE}, points: {folder / POINTS}")


def _about(device: str) -> str:
    """The machine, for the picture's title."""
    import torch

    from textrl_agents.training.provenance import machine
    from textrl_env.models.storage.loading import resolve_device

    here: dict[str, Any] = machine()
    on_gpu = resolve_device(device).type == "cuda"
    threads = torch.get_num_threads()
    where = here["gpu"] if on_gpu else f"{here['cpu']}, {threads} thread{'s' if threads > 1 else ''}"
    return f"{where}, torch {torch.__version__.partition('+')[0]}"
