"""`textrl bench run`, `report` and `list`: algorithms compared on tasks."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from textrl_agents.commands.options import (
    AsJson,
    DeviceIfGiven,
    Trust,
    print_json,
    print_table,
)
from textrl_agents.training.extras import require
from textrl_env.errors import ConfigError
from textrl_env.foreign_text import visible

if TYPE_CHECKING:
    from textrl_agents.benchmark.plan import Plan

# The columns of the report that a terminal has room for.
SHOWN = ("objective", "score", "success", "gold_score", "kl", "normalized", "tokens_per_second")

Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE",
        help="Python file that calls register_algorithm or register_task; each process imports it. Repeatable.",
    ),
]

# The options of `run`.
BenchmarkFolder = Annotated[
    Path, typer.Option(help="Folder of the benchmark; alone, it goes on with the one that is there.")
]
Algos = Annotated[
    str | None, typer.Option(help="Algorithms, as in ppo,grpo; `textrl bench list` shows all. Default: the preset's.")
]
Tasks = Annotated[str | None, typer.Option(help="Tasks, as in exact,sentiment. Default: the preset's.")]
Seeds = Annotated[
    int | None, typer.Option(min=1, help="How many seeds: 0, 1, ... Intervals need 3. Default: the preset's.")
]
Budget = Annotated[
    int | None, typer.Option(min=1, help="Tokens that a cell may generate in training. Default: the preset's, by task.")
]
PresetName = Annotated[
    str | None,
    typer.Option(
        help="quick (minutes), turns (half an hour of a core) or default (hours): what other flags leave open. "
        "Default: default."
    ),
]
Jobs = Annotated[
    int | None, typer.Option(min=1, help="Cells side by side. Default: one a core, and one alone on a GPU.")
]
CellTimeLimit = Annotated[
    float | None, typer.Option(help="Seconds after which a cell is ended and counts as failed. Default: none.")
]
WithRay = Annotated[
    bool, typer.Option("--ray", help="Run the cells as trials of Ray Tune, by default on this machine.")
]
RayAddress = Annotated[
    str | None,
    typer.Option(help="Ray cluster to join: auto, or host:port. Its machines must see --out. Implies --ray."),
]
AlgorithmSettings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="ALGO.NAME=VALUE", help="A setting of an algorithm, such as ppo.n_steps=32."),
]
EnvSettings = Annotated[
    list[str] | None,
    typer.Option("--env", metavar="NAME=VALUE", help="An argument of every environment, such as kl_coef=0.1."),
]
JudgingEpisodes = Annotated[
    int | None, typer.Option(min=2, help="Responses that judge each cell. Default: the preset's.")
]
JudgingSplit = Annotated[
    str | None,
    typer.Option(help="Prompts that judge: heldout to report, validation to choose settings by. Default: heldout."),
]


def run(
    out: BenchmarkFolder,
    algos: Algos = None,
    tasks: Tasks = None,
    seeds: Seeds = None,
    budget: Budget = None,
    preset: PresetName = None,
    jobs: Jobs = None,
    time_limit: CellTimeLimit = None,
    ray: WithRay = False,
    ray_address: RayAddress = None,
    plugin: Plugins = None,
    settings: AlgorithmSettings = None,
    env: EnvSettings = None,
    eval_episodes: JudgingEpisodes = None,
    split: JudgingSplit = None,
    device: DeviceIfGiven = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Compare algorithms on tasks, over seeds, each with the same number of tokens.

    A cell is one algorithm on one task with one seed, in its own process.

    Each result is in OUT/results.jsonl as soon as it is there. A run that was
    stopped or killed goes on with `textrl bench run --out OUT`, which also
    tries failed cells again. At the end OUT/report.md and OUT/report.html are
    written. Exit codes: 0 done, 1 where a cell has failed, 2 wrong usage.

    Example: textrl bench run --algos reference,ppo,grpo --tasks exact --seeds 3 --out runs/bench
    """
    plan = _plan(
        algos=_names(algos, "--algos"),
        tasks=_names(tasks, "--tasks"),
        seeds=seeds,
        budget=budget,
        preset=preset,
        plugins=plugin,
        settings=settings,
        env=env,
        eval_episodes=eval_episodes,
        split=split,
        device=device,
    )
    results = _run_cells(
        plan,
        out,
        jobs=jobs,
        time_limit=time_limit,
        ray=ray or ray_address is not None,
        ray_address=ray_address,
        trust=trust or None,
    )
    if as_json:
        print_json(results)
    if results:
        _write_report(out, results, silent=as_json)
    _exit_unless_done(results)


def report(
    folder: Annotated[Path, typer.Argument(help="Folder of a benchmark.")],
    plugin: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Write FOLDER/report.md and FOLDER/report.html from the results that are there, and show the main table.

    It can be called while the benchmark runs.
    """
    from textrl_agents.benchmark.results import ResultsFile
    from textrl_agents.benchmark.run import RESULTS
    from textrl_env.plugins import load_plugin_files

    require("matplotlib")
    path = folder / RESULTS
    lines = ResultsFile(path).read().lines
    if not lines:
        raise ConfigError(f"{str(path)!r} holds no results; run `textrl bench run --out {folder}` first")
    load_plugin_files(plugin or [])
    paths = _write_report(folder, lines, silent=as_json)
    if as_json:
        print_json({"report": [str(path) for path in paths], "results": lines})


def list_names(plugin: Plugins = None, as_json: AsJson = False) -> None:
    """List the algorithms, tasks and presets, with what each is."""
    from textrl_agents.algorithms.registry import algorithm_names, get_algorithm
    from textrl_agents.benchmark.plan import PRESETS
    from textrl_env.plugins import load_plugin_files
    from textrl_env.tasks import get_task, task_names

    load_plugin_files(plugin or [])
    found = {
        "algorithms": {name: get_algorithm(name).description for name in algorithm_names()},
        "tasks": {name: get_task(name).description for name in task_names()},
        "presets": {name: preset.description for name, preset in PRESETS.items()},
    }
    if as_json:
        print_json(found)
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    for kind, entries in found.items():
        table = Table(title=kind, title_justify="left", box=None, show_header=False, pad_edge=False)
        for name, description in entries.items():
            table.add_row(escape(visible(name)), escape(visible(description)))
        Console().print(table)


def _plan(**named: Any) -> Plan | None:
    """The plan that the flags describe; None where none was given, to go on with the one in the folder."""
    require("matplotlib")  # for the report, at the end of what may be hours
    from textrl_agents.benchmark.plan import Plan, parse_env, parse_settings

    given = {name: value for name, value in named.items() if value}
    if "settings" in given:
        given["settings"] = parse_settings(given["settings"])
    if "env" in given:
        given["env"] = parse_env(given["env"])
    return Plan.of(**given) if given else None


def _run_cells(plan: Plan | None, out: Path, **how: Any) -> list[dict[str, Any]]:
    """Run the benchmark. A signal ends the command, and it says how to go on."""
    from textrl_agents.benchmark.run import BenchmarkStopped, run_benchmark

    try:
        return run_benchmark(plan, out, **how)
    except BenchmarkStopped as stopped:
        typer.echo(f"{stopped}; continue with: textrl bench run --out {out}{_trusted(out)}", err=True)
        raise typer.Exit(130 if stopped.received == signal.SIGINT else 1) from None


def _exit_unless_done(results: list[dict[str, Any]]) -> None:
    failures = sum(line["status"] != "done" for line in results)
    if failures:
        typer.echo(f"{failures} of {len(results)} cells failed; the same command tries them again", err=True)
    elif not results:
        typer.echo("no cell was run", err=True)
    if failures or not results:
        raise typer.Exit(1)


def _names(text: str | None, option: str) -> list[str] | None:
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise ConfigError(f"{option} takes names with commas between them; got {text!r}")
    return names


def _trusted(out: Path) -> str:
    """The flag that is needed to go on with the benchmark in `out`."""
    from textrl_agents.benchmark.plan import PLAN, Plan
    from textrl_agents.training.trust import python_named_in

    return " --trust" if python_named_in(Plan.read(out / PLAN).to_dict()) else ""


def _write_report(folder: Path, lines: list[dict[str, Any]], *, silent: bool) -> tuple[Path, Path]:
    """Write both files of the report and show the tables. silent: shows nothing, where stdout is JSON."""
    from textrl_agents.benchmark.report.report import write_report

    paths = write_report(folder, lines)
    if not silent:
        _print_tables(folder, lines)
        typer.echo(f"Report: {paths[0]} and {paths[1]}")
    return paths


def _print_tables(folder: Path, lines: list[dict[str, Any]]) -> None:
    from textrl_agents.benchmark.report.report import summary_of
    from textrl_agents.reports.blocks import mean_text

    summary = summary_of(folder, lines)
    if summary.is_partial:
        typer.echo(f"{summary.done} of {summary.planned} runs")
    for task in summary.tasks:
        columns = [column for cost in (False, True) for column in task.columns(cost=cost) if column.key in SHOWN]
        numbers = [*(column.title for column in columns), "done"]
        rows = [
            (
                row.label,
                *(mean_text(row.estimates.get(column.key), column.digits) for column in columns),
                f"{len(row.lines)}/{len(row.lines) + len(row.failures)}",
            )
            for row in task.rows
        ]
        prompts = f" on {task.prompts}" if task.prompts else ""
        title = f"{task.label}: means over seeds{prompts} ± half of the 95% interval"
        print_table(("algorithm", *numbers), rows, title=title, numbers=numbers, whole=("algorithm",))
