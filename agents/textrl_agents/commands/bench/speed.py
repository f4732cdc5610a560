"""`textrl bench speed`: speed and memory against the same work done by hand."""

from __future__ import annotations

from typing import Annotated

import typer

from textrl_agents.commands.options import (
    MODELS,
    AsJson,
    Device,
    check_names,
    print_json,
    print_table,
    told_on_stderr,
)

Model = Annotated[str | None, typer.Option(help=f"Measure this model: {MODELS}. Default: the embedded models.")]
Only = Annotated[
    list[str] | None,
    typer.Option(metavar="TEXT", help="Run the row of this name, or those whose names contain it. Repeatable."),
]
Rows = Annotated[
    int | None,
    typer.Option(min=1, help="Responses sampled at once. Default: each row's own, 32 with --model, 256 on a GPU."),
]
Threads = Annotated[
    int | None, typer.Option(min=1, help="CPU threads of torch. Default: 1, and with --model one per core.")
]


def speed(
    model: Model = None,
    device: Device = "auto",
    only: Only = None,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of each row; the median counts.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller sizes: a minute or a few, and less exact.")] = False,
    rows: Rows = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Measure speed and memory against the same work done by hand, side by side.

    Without --model: what this package promises, on the embedded models. With
    it: the tokens a second of rollout, update and both, with the settings of
    textrl demo --model; their share of what the device's arithmetic and memory
    would allow, which are measured in the same run; and ratios against
    transformers' generate and generate_batch and against TRL, on the same
    model and work. Two cores need many minutes for 135 million parameters.

    Example: textrl bench speed --model smollm2 --only end --only trl
    """
    check_names(device=device, model=model)
    from textrl_agents.speed.names import MODEL_ROWS, SPEED_ROWS, chosen_names

    chosen_names(only, SPEED_ROWS if model is None else MODEL_ROWS)
    from textrl_agents.speed.speed import run_speed

    with told_on_stderr() as tell:
        found = run_speed(
            device=device,
            model=model,
            only=only,
            repeats=repeats,
            quick=quick,
            threads=threads,
            rows=rows,
            progress=tell,
        )
    if as_json:
        print_json(found)
        return
    cells = []
    for row in found:
        value = _shown(row["value"])
        cells.append((row["name"], value, row["unit"], row["target"], row["ok"], row["detail"]))
    print_table(("name", "value", "unit", "target", "ok", "measured"), cells, numbers=("value", "target"))


def _shown(value: float | None) -> str:
    if value is None:
        return "None"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
