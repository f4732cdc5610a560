"""`textrl reward`: train, eval, curve and serve."""

from __future__ import annotations

import typer

from textrl_agents.commands.reward import curve, serve, train

app = typer.Typer(no_args_is_help=True, help="Reward models.")
app.command("train")(train.train)
app.command("eval")(train.evaluate)
app.command("curve")(curve.curve)
app.command("serve")(serve.serve)
