"""Options that several commands share."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from textrl_env.foreign_text import CONTROLS

DEVICE_HELP = "cpu, cuda, cuda:1, ...; auto takes a GPU where there is one."
DTYPE_HELP = "float32, bfloat16 or float16; auto: float32 on a CPU, else the model's own."

Device = Annotated[str, typer.Option(help=DEVICE_HELP)]
Dtype = Annotated[str, typer.Option(help=DTYPE_HELP)]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads of torch. Default: one per core.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON on stdout, and nothing else there.")]

Trust = Annotated[
    bool, typer.Option("--trust", help="Run the Python that the folder's settings name, such as a reward in a file.")
]


def set_threads(threads: int | None) -> None:
    """Limit torch's threads, where a number is given."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def print_json(value: Any) -> None:
    """One JSON document on stdout. What a terminal would obey is there as JSON's own escape, in every text."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    typer.echo(CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text))
