"""What several commands share: options, and how they print."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import Annotated, Any

import typer

from textrl_env.foreign_text import CONTROLS, visible

DEVICE_HELP = "cpu, cuda, cuda:1, ...; auto takes a GPU where there is one."
MODELS = "embedded, a name of textrl models list, a folder, a .gguf file or a Hugging Face id"
DTYPE_HELP = "How weights are stored: float32, bfloat16 or float16; auto: float32, but for an adapter's base on a GPU."
PRECISION_HELP = "What float32 weights compute in: float32 or bfloat16; auto: bfloat16 where it is faster."

Device = Annotated[str, typer.Option(help=DEVICE_HELP)]
Dtype = Annotated[str, typer.Option(help=DTYPE_HELP)]
# None where the flag is not given: a file of settings may then name it.
DeviceIfGiven = Annotated[str | None, typer.Option(help=f"{DEVICE_HELP} Default: auto.")]
PrecisionIfGiven = Annotated[str | None, typer.Option(help=f"{PRECISION_HELP} Default: auto, or as saved.")]
DtypeIfGiven = Annotated[str | None, typer.Option(help=f"{DTYPE_HELP} Default: auto.")]
Threads = Annotated[int | None, typer.Option(min=1, max=1024, help="CPU threads of torch. Default: one per core.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else there.")]
Trust = Annotated[
    bool,
    typer.Option(
        "--trust",
        help="Run the Python and ask the servers that the folder's settings name, such as its reward.",
    ),
]
# Of the commands that train on texts.
PeakLearningRate = Annotated[
    float | None, typer.Option("--learning-rate", "--lr", help="Peak. Default: one that fits the model's size.")
]
CheckpointCount = Annotated[int, typer.Option("--checkpoints", min=0, help="Written over the run; 0: none.")]
ResumeNewest = Annotated[
    bool, typer.Option("--resume", help="Go on from the newest checkpoint in --out, with the same data and settings.")
]
SeedOfAll = Annotated[int, typer.Option("--seed", min=0, help="Of everything random.")]


def check_names(
    *,
    task: str | None = None,
    reward: str | None = None,
    model: str | None = None,
    device: str | None = None,
    dtype: str | None = None,
    precision: str | None = None,
) -> None:
    """Look the names up before torch is imported, so that a typo shows at once.

    Raises UnknownName, and ModelError for a model that has a name and was not fetched.
    """
    from textrl_env.catalogue.cache import check_model_name
    from textrl_env.rewards.make import check_reward_name
    from textrl_env.tasks.registry import check_task_name
    from textrl_env.user_values import check_device_name, check_dtype_name, check_precision_name

    if task is not None:
        check_task_name(task)
    check_reward_name(reward)
    check_model_name(model)
    if device is not None:
        check_device_name(device)
    if dtype is not None:
        check_dtype_name(dtype)
    if precision is not None:
        check_precision_name(precision)


@contextlib.contextmanager
def told_on_stderr() -> Iterator[Callable[[str], None]]:
    """Yield a function that tells what is being done: in place in a terminal, as lines elsewhere."""
    from rich.console import Console
    from rich.markup import escape

    console = Console(stderr=True)
    if not console.is_interactive:
        yield lambda text: console.print(f"{text} ...", markup=False, highlight=False, soft_wrap=True)
        return
    with console.status("") as status:
        yield lambda text: status.update(escape(text))


def set_threads(threads: int | None) -> None:
    """Limit torch's threads, where a number is given."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def print_json(value: Any) -> None:
    """Print one JSON document on stdout. Control characters, which a terminal would obey, are escaped as JSON does."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    typer.echo(CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str | bool]],
    *,
    title: str = "",
    numbers: Collection[str] = (),
    whole: Collection[str] = (),
) -> None:
    """Print a table on stdout. What models and users wrote is shown as text, and a bool as yes or NO.

    numbers: the columns that are aligned to the right. whole: those whose cells are never broken over lines.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    def cell(value: str | bool) -> Text:
        if isinstance(value, str):
            return Text(visible(value))
        return Text("yes", "green") if value else Text("NO", "bold red")

    table = Table(title=Text(visible(title)) if title else None, title_justify="left")
    for column in columns:
        table.add_column(column, justify="right" if column in numbers else "left", no_wrap=column in whole)
    for row in rows:
        table.add_row(*map(cell, row))
    Console().print(table)
