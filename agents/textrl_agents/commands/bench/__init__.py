"""`textrl bench`: algorithms compared on tasks, speed, scaling, and the studies with reports of their own."""

from __future__ import annotations

import typer

from textrl_agents.commands.bench import cells, cost_curves, finetune, overoptimize, pretrain, scaling, speed, submit

app = typer.Typer(no_args_is_help=True, help="Benchmarks.")
app.command("speed")(speed.speed)
app.command("cost-curves")(cost_curves.cost_curves)
app.command("run")(cells.run)
app.command("report")(cells.report)
app.command("list")(cells.list_names)
app.command("submit")(submit.submit)
app.command("overoptimize")(overoptimize.overoptimize)
app.command("finetune")(finetune.finetune)
app.command("pretrain")(pretrain.pretrain)
app.command("scaling")(scaling.scaling)
