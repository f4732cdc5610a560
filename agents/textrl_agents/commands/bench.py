"""`textrl bench`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from textrl_agents.commands import bench_run
from textrl_agents.commands.options import AsJson, Device, check_names, print_json, told_on_stderr
from textrl_env.foreign_text import visible

app = typer.Typer(no_args_is_help=True, help="Benchmarks.")


@app.callback()
def bench() -> None:
    """Benchmarks."""


@app.command()
def speed(
    device: Device = "auto",
    only: Annotated[str | None, typer.Option(metavar="NAME", help="Run this row of the table alone.")] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Measurements of each row; the median counts.")] = 3,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller sizes: about a minute, and less exact.")] = False,
    as_json: AsJson = False,
) -> None:
    """Measure speed and memory against the same work done by hand, side by side."""
    check_names(device=device)
    from textrl_agents.speed.names import chosen_names

    chosen_names(only)
    from textrl_agents.speed.speed import run_speed

    with told_on_stderr() as tell:
        rows = run_speed(device=device, only=only, repeats=repeats, quick=quick, progress=tell)
    if as_json:
        print_json(rows)
    else:
        _print(rows)


app.command("run")(bench_run.run)
app.command("report")(bench_run.report)
app.command("list")(bench_run.list_names)


def _print(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table()
    for column in ("name", "value", "unit", "target", "ok", "measured"):
        table.add_column(column, justify="right" if column in ("value", "target") else "left")
    for row in rows:
        value = row["value"]
        shown = f"{value:.3g}" if isinstance(value, float) else str(value)
        ok = Text("yes", "green") if row["ok"] else Text("NO", "bold red")
        # The detail of a row that failed is an error's text, which is no markup.
        table.add_row(str(row["name"]), shown, str(row["unit"]), str(row["target"]), ok, Text(visible(row["detail"])))
    Console().print(table)
