"""`textrl reward curve`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from textrl_agents.commands.options import AsJson, Device, Threads, print_json, print_table, set_threads, told_on_stderr
from textrl_agents.commands.reward.train import (
    Bootstrap,
    Combine,
    Ensemble,
    FeaturesName,
    KindName,
    Layers,
    Pooling,
    Settings,
)
from textrl_env.errors import ConfigError
from textrl_env.foreign_text import shown

if TYPE_CHECKING:  # a typo shows before torch is imported
    from textrl_agents.benchmark.reward_curve.curve import CurvePoint
    from textrl_agents.benchmark.reward_curve.plan import CurvePlan
    from textrl_agents.reports.statistics import IntervalEstimate
    from textrl_agents.reward_models.measures.shares import Share

COLUMNS = ("comparisons", "annotator", "votes", "gold", "gold, clear pairs")

Task = Annotated[str, typer.Option(help="Task with a gold score, by which annotators are simulated.")]
Policy = Annotated[
    str | None,
    typer.Option(help="Policy whose responses are compared: embedded, a folder or an id. Default: the task's."),
]
Base = Annotated[
    str | None, typer.Option("--model", help="Model that the reward models start from or read. Default: the policy.")
]
Comparisons = Annotated[str, typer.Option(metavar="N,N,...", help="Numbers of comparisons to learn from.")]
Seeds = Annotated[
    int, typer.Option(min=1, help="Annotators, each with other errors and comparisons. Intervals need 3.")
]
ErrorRate = Annotated[float, typer.Option(help="Share of an annotator's wrong answers.")]
Ties = Annotated[float, typer.Option(help="Annotators call responses equal whose gold scores differ by no more.")]
HeldoutPairs = Annotated[int, typer.Option(min=2, help="Pairs on held-out prompts, which judge.")]
Clear = Annotated[float, typer.Option(help="A pair is clear where its gold scores differ by more than this.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]


def curve(
    task: Task = "sentiment",
    policy: Policy = None,
    model: Base = None,
    comparisons: Comparisons = "100,200,400",
    seeds: Seeds = 3,
    error_rate: ErrorRate = 0.1,
    ties: Ties = 0.0,
    heldout_pairs: HeldoutPairs = 1000,
    clear: Clear = 0.3,
    kind: KindName = "classifier",
    ensemble: Ensemble = 1,
    combine: Combine = "mean",
    bootstrap: Bootstrap = True,
    features: FeaturesName = "hidden_states",
    pooling: Pooling = "response",
    layers: Layers = None,
    setting: Settings = None,
    seed: Seed = 0,
    device: Device = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """See how good a reward model becomes with more comparisons, before you ask anybody.

    Simulated annotators, who err at a stated rate, compare responses by the
    task's gold score. Each reward model is judged on the same pairs of
    held-out prompts, by the annotator's votes (which err there too, so that
    1 - error rate is the most one can reach), by the gold score, and by the
    gold score on clear pairs alone. Intervals are 95%: Wilson's for a model,
    Student's for the mean over annotators.

    Example: textrl reward curve --comparisons 400 --error-rate 0.1 --seeds 3
    """
    from textrl_agents.benchmark.reward_curve.plan import CurvePlan
    from textrl_agents.training.settings_file import parse_assignments

    plan = CurvePlan(
        task=task,
        model=policy,
        comparisons=_numbers(comparisons),
        seeds=seeds,
        error_rate=error_rate,
        ties=ties,
        heldout_pairs=heldout_pairs,
        clear=clear,
        reward={
            **({} if model is None else {"model": model}),
            "kind": kind,
            "ensemble": ensemble,
            "combine": combine,
            "bootstrap": bootstrap,
            "features": features,
            "pooling": pooling,
            "layers": layers,
            "settings": parse_assignments(setting or [], example="num_train_epochs=1"),
        },
        seed=seed,
        device=device,
    )
    set_threads(threads)
    with told_on_stderr() as tell:
        from textrl_agents.benchmark.reward_curve.curve import learning_curve

        points = learning_curve(plan, tell)
    _print(plan, points, as_json)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise ConfigError(
            f"--comparisons takes whole numbers with commas between them, such as 100,400; got {shown(text)}"
        ) from None


def _print(plan: CurvePlan, points: list[CurvePoint], as_json: bool) -> None:
    from textrl_agents.benchmark.reward_curve.curve import MEASURES, estimates

    means = {size: estimates(points, size) for size in plan.comparisons}
    if as_json:
        print_json(
            {
                "points": [point.to_json() for point in points],
                "means": {str(size): {name: _plain(found[name]) for name in MEASURES} for size, found in means.items()},
            }
        )
        return
    rows = []
    for size, found in means.items():
        of_size = [point for point in points if point.comparisons == size]
        rows += [[str(size), str(each.seed), *(_share(getattr(each, name)) for name in MEASURES)] for each in of_size]
        if len(of_size) > 1:
            rows.append([str(size), "mean", *(_text(found[name]) for name in MEASURES)])
    title = f"accuracy on {plan.heldout_pairs:,} pairs of held-out prompts; annotators err in {plan.error_rate:.0%}"
    print_table(COLUMNS, rows, title=title, numbers=COLUMNS)
    typer.echo(f"Clear pairs: gold scores more than {plan.clear:g} apart.")


def _plain(estimate: IntervalEstimate) -> dict[str, Any]:
    return {"value": estimate.value, "interval": estimate.interval, "seeds": estimate.seeds}


def _share(share: Share) -> str:
    return f"{share.value:.3f} [{share.low:.3f}, {share.high:.3f}]"


def _text(estimate: IntervalEstimate) -> str:
    if estimate.interval is None:
        return f"{estimate.value:.3f}"
    return f"{estimate.value:.3f} [{estimate.interval[0]:.3f}, {estimate.interval[1]:.3f}]"
