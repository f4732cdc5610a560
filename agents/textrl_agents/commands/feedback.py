"""`textrl feedback`: what annotators said, in a store: statistics, import, export and report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from textrl_agents.commands.feedback_serve import serve
from textrl_agents.commands.options import AsJson, print_json, print_table

app = typer.Typer(no_args_is_help=True, help="Human feedback: collect, exchange and judge it.")

app.command()(serve)

StoreFile = Annotated[Path, typer.Argument(help="File of the feedback store.")]


@app.command()
def stats(store: StoreFile, as_json: AsJson = False) -> None:
    """Count the records of a store by kind, and how far its questions are answered."""
    from textrl_env.preferences.store import FeedbackStore

    with FeedbackStore(store, read_only=True) as opened:
        counts, progress = opened.count(), opened.progress()
    if as_json:
        asked = {"asked": progress.questions, "answered": progress.answered, "leased": progress.leased}
        votes = {"given": progress.votes, "wanted": progress.votes_wanted, "by": dict(progress.annotators)}
        print_json({"records": counts, "questions": asked, "votes": votes})
        return
    rows = [("records", f"{sum(counts.values()):,}"), *((f"- {kind}", f"{count:,}") for kind, count in counts.items())]
    if progress.questions:
        rows += [
            ("questions answered", f"{progress.answered:,} of {progress.questions:,}"),
            ("questions leased now", f"{progress.leased:,}"),
            ("votes", f"{progress.votes:,} of {progress.votes_wanted:,}"),
            *((f"- by {name}", f"{count:,}") for name, count in progress.annotators.items()),
        ]
    print_table(("what", "count"), rows, numbers=("count",))
