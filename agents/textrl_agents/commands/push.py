"""`textrl push`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from textrl_agents.commands.options import print_table

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run, as textrl train writes it.")]
Repo = Annotated[str, typer.Argument(metavar="REPO", help="Model repository on the hub: NAME or OWNER/NAME.")]
Public = Annotated[bool, typer.Option("--public", help="Make a new repository public. Default: private.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the model card and what would be sent, and send nothing.")
]


def push(run: Run, repo: Repo, public: Public = False, dry_run: DryRun = False) -> None:
    """Send a run's policy to the Hugging Face hub, with a model card of its figures and settings.

    Sent are the model, its tokenizer and value head, and in training/ the run's metrics, curve and samples. The card
    holds the run's settings, names of files among them: look at --dry-run first. It needs `hf auth login` or HF_TOKEN.

    Example: textrl push runs/first me/first-policy --dry-run
    """
    from textrl_agents.runs.hub import files_of, staged
    from textrl_agents.runs.hub import push as send
    from textrl_env.foreign_text import visible

    if not dry_run:
        typer.echo(send(run, repo, public=public))
        return
    with staged(run, repo) as folder:
        typer.echo(visible((folder / "README.md").read_text(encoding="utf-8")))
        files = files_of(folder)
    rows = [(name, f"{size:,}") for name, size in files]
    print_table(("file", "bytes"), rows, title=f"would be sent to {repo}", numbers=("bytes",))
