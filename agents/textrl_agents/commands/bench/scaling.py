"""`textrl bench scaling`: what more env runners and learners would bring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from textrl_agents.commands.options import AsJson, Device, check_names, print_json, print_table, told_on_stderr
from textrl_env.errors import ConfigError

if TYPE_CHECKING:
    from textrl_agents.speed.scaling.cost_model import CostModel, Layout
    from textrl_agents.speed.scaling.measured import Scaling

# What is projected, beside what was measured.
RUNNERS = (1, 2, 4, 8, 16, 32, 64)
LEARNERS = (1, 2, 4, 8)

TaskName = Annotated[str, typer.Option(help="A task by name.")]
Model = Annotated[str | None, typer.Option(help="The policy. Default: the task's.")]
Layouts = Annotated[
    str | None,
    typer.Option(metavar="RxK,...", help="Layouts to run besides 0x0, 1x0 and 1x2: env runners x learners, as in 2x2."),
]
Rows = Annotated[int, typer.Option(min=1, help="Episodes side by side, over all env runners.")]
Steps = Annotated[int, typer.Option(min=1, help="Tokens of each row in an iteration.")]
Repeats = Annotated[int, typer.Option(min=1, help="Iterations in each layout; medians count.")]
Network = Annotated[
    float, typer.Option(metavar="GBIT", min=0.001, help="Link between machines in the projection, in Gbit/s.")
]
EnvSettings = Annotated[
    list[str] | None,
    typer.Option("--env", metavar="NAME=VALUE", help="An argument of the environment, such as lora.r=16."),
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="NAME=VALUE", help="A setting of RLlib's config, such as minibatch_size=512."),
]


def scaling(
    task: TaskName = "sentiment",
    model: Model = None,
    layouts: Layouts = None,
    rows: Rows = 32,
    steps: Steps = 64,
    repeats: Repeats = 3,
    network: Network = 10.0,
    env: EnvSettings = None,
    settings: Settings = None,
    device: Device = "auto",
    as_json: AsJson = False,
) -> None:
    """Measure RLlib's PPO with env runners and learners in processes of their own, and project what more would bring.

    Each layout runs stock PPO on this machine. Its three steps are timed:
    sampling, the update, and sending the weights. A cost model takes its
    constants from them; the formula is in the docstring of
    textrl_agents.speed.scaling.cost_model. The first table holds it against
    what was measured. The second says what it expects of machines with a
    network between them: a projection, not a measurement.

    With more processes than cores the measured layouts share cores, and the
    model, which knows of no sharing, is then too good.

    Example: textrl bench scaling --layouts 2x0,2x2 --rows 64
    """
    check_names(task=task, device=device)
    from textrl_agents.training.extras import require
    from textrl_agents.training.settings_file import parse_assignments

    require("ray.rllib")
    more = _layouts(layouts)
    arguments = {"task": task, "device": device, **parse_assignments(env or [], "--env", example="lora.r=16")}
    if model is not None:
        arguments["model"] = model
    chosen = parse_assignments(settings or [], "--set", example="minibatch_size=512")
    from textrl_agents.speed.scaling.measured import measure_scaling

    with told_on_stderr() as tell:
        found = measure_scaling(
            arguments, more, rows=rows, steps=steps, repeats=repeats, settings=chosen, progress=tell
        )
    projected = found.model.over_network(network * 1e9 / 8)
    if as_json:
        print_json(_as_json(found, projected))
        return
    _print(found, projected, network)


def _layouts(text: str | None) -> list[Layout]:
    from textrl_agents.speed.scaling.cost_model import Layout

    found = []
    for part in (text or "").split(",") if text else []:
        runners, times, learners = part.strip().partition("x")
        if not (times and runners.isdecimal() and learners.isdecimal()):
            raise ConfigError(f"--layouts takes env runners x learners, such as 2x0,2x2; got {text!r}")
        found.append(Layout(int(runners), int(learners)))
    return found


def _print(found: Scaling, projected: CostModel, network: float) -> None:
    columns = ("runners x learners", "tokens/s", "model", "sampling s", "update s", "weights s")
    cells = [
        (
            str(each.layout),
            f"{each.speed:,.0f}",
            f"{found.model.speed(each.layout):,.0f}",
            *(f"{seconds:.3f}" for seconds in each.seconds),
        )
        for each in found.measured
    ]
    print_table(columns, cells, title="Measured here, an iteration", numbers=columns[1:])
    model = found.model
    typer.echo(
        f"Constants: an env runner samples {model.sampling:,.0f} tokens/s, a learner trains on {model.update:,.0f}; "
        f"a token is {model.token_bytes:,.0f} bytes, the weights sent {model.weight_bytes / 1e6:,.1f} MB, the "
        f"gradients {model.gradient_bytes / 1e6:,.1f} MB; {model.bandwidth / 1e6:,.0f} MB/s between processes, "
        f"{model.gradient_bandwidth / 1e6:,.0f} MB/s between learners."
    )
    from textrl_agents.speed.scaling.cost_model import Layout

    head = ("env runners", *(f"{count} learner{'s' if count > 1 else ''}" for count in LEARNERS))
    rows = [
        (str(runners), *(f"{projected.speed(Layout(runners, learners)):,.0f}" for learners in LEARNERS))
        for runners in RUNNERS
    ]
    print_table(head, rows, title=f"Projected, tokens/s, {network:g} Gbit/s between machines", numbers=head)
    ends = ", ".join(f"{projected.saturation(learners)} with {learners}" for learners in LEARNERS)
    typer.echo(f"Nine tenths of what any number of env runners reaches, by learners: {ends}.")


def _as_json(found: Scaling, projected: CostModel) -> dict[str, Any]:
    from textrl_agents.speed.scaling.cost_model import Layout

    return {
        "measured": [
            {
                **each._asdict(),
                "layout": each.layout._asdict(),
                "seconds": each.seconds._asdict(),
                "tokens_per_second": each.speed,
                "model": found.model.speed(each.layout),
            }
            for each in found.measured
        ],
        "model": vars(found.model),
        "projected": [
            {"runners": runners, "learners": learners, "tokens_per_second": projected.speed(Layout(runners, learners))}
            for runners in RUNNERS
            for learners in LEARNERS
        ],
        "saturation": {learners: projected.saturation(learners) for learners in LEARNERS},
    }
