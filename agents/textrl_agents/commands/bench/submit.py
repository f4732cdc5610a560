"""`textrl bench submit`: results into a leaderboard, and a leaderboard's results run again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from textrl_agents.commands.bench.cells import Plugins
from textrl_agents.commands.options import AsJson, Trust, print_json, print_table
from textrl_env.errors import ConfigError
from textrl_env.foreign_text import visible

if TYPE_CHECKING:
    from textrl_agents.benchmark.rerun import Verdict

Source = Annotated[
    Path | None, typer.Argument(metavar="[RESULTS]", help="Folder of a benchmark, or its results.jsonl.")
]
Board = Annotated[Path | None, typer.Option("--to", metavar="FILE", help="Leaderboard to add its finished runs to.")]
Check = Annotated[Path | None, typer.Option(metavar="FILE", help="Leaderboard whose runs to run again.")]
Numbers = Annotated[
    list[int] | None,
    typer.Option("--line", min=1, metavar="N", help="With --check: this line alone. Repeatable. Default: all lines."),
]
Jobs = Annotated[int | None, typer.Option(min=1, help="With --check: runs side by side. Default: one a core.")]


def submit(
    results: Source = None,
    to: Board = None,
    check: Check = None,
    line: Numbers = None,
    jobs: Jobs = None,
    plugin: Plugins = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Add a benchmark's results to a leaderboard, or run a leaderboard's lines again and say whether they hold.

    A leaderboard is a .jsonl file, a line a run, with all that is needed to run it again. Of a run that is not the same
    to the last digit, the objective must lie where one more seed of its configuration would in 95% of cases.
    Exit codes: 0 done, 1 where a result differs or a run failed, 2 wrong usage.

    Example: textrl bench submit runs/bench --to board.jsonl; textrl bench submit --check board.jsonl --line 1
    """
    if check is not None and results is None and to is None:
        _check(check, line or [], as_json, jobs=jobs, plugins=plugin or [], trust=trust or None)
    elif results is not None and to is not None and check is None and not line and jobs is None:
        _add(results, to, as_json)
    else:
        raise ConfigError(
            "give RESULTS and --to FILE to add results, or --check FILE to run a leaderboard's lines again"
        )


def _add(results: Path, to: Path, as_json: bool) -> None:
    from textrl_agents.benchmark.leaderboard import submit as add

    new, known = add(results, to)
    if as_json:
        print_json({"leaderboard": str(to), "new": new, "known": known})
    else:
        typer.echo(f"{new} runs added to {to}" + (f"; {known} were there" if known else ""))


def _check(board: Path, numbers: list[int], as_json: bool, **how: Any) -> None:
    from textrl_agents.benchmark.rerun import run_again

    verdicts = run_again(board, numbers, **how)
    if as_json:
        print_json([_as_json(verdict) for verdict in verdicts])
    elif verdicts:
        columns = ("line", "algorithm", "task", "seed", "objective", "again", "95% of seeds", "outcome")
        numbers_of = ("line", "seed", "objective", "again")
        print_table(columns, [_row(verdict) for verdict in verdicts], title=str(board), numbers=numbers_of)
        for verdict in verdicts:
            if verdict.why:
                typer.echo(f"line {verdict.number}: {visible(verdict.why)}", err=True)
    if not verdicts or any(verdict.outcome in ("differs", "failed") for verdict in verdicts):
        raise typer.Exit(1)


def _row(verdict: Verdict) -> tuple[str, ...]:
    cell, expected = verdict.cell, verdict.expected
    return (
        str(verdict.number),
        cell.algorithm,
        cell.task,
        str(cell.seed),
        f"{verdict.before:.3f}",
        "" if verdict.after is None else f"{verdict.after:.3f}",
        "" if expected is None else f"{expected[0]:.3f} to {expected[1]:.3f}",
        verdict.outcome,
    )


def _as_json(verdict: Verdict) -> dict[str, Any]:
    cell = verdict.cell
    named = {"algorithm": cell.algorithm, "task": cell.task, "seed": cell.seed, "configuration": cell.configuration}
    return {**named, **{name: value for name, value in verdict._asdict().items() if name != "cell"}}
