"""`textrl eval`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from textrl_agents.commands.options import (
    AsJson,
    Device,
    Dtype,
    Threads,
    check_names,
    print_json,
    set_threads,
    told_on_stderr,
)


def evaluate(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Run folder, checkpoint, or folder of a saved model.")],
    task: Annotated[
        str | None, typer.Option(help="Task to evaluate on. Default: the run's own, else sentiment.")
    ] = None,
    episodes: Annotated[int, typer.Option(min=2, help="Responses to sample on held-out prompts.")] = 256,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the prompts and the sampling.")] = 0,
    reference: Annotated[
        str | None,
        typer.Option(help="Model that the KL is measured from. Default: what the run started from, else the task's."),
    ] = None,
    reward: Annotated[str | None, typer.Option(help="Reward instead of the run's or the task's.")] = None,
    greedy: Annotated[bool, typer.Option("--greedy", help="Take the likeliest token instead of sampling.")] = False,
    samples: Annotated[bool, typer.Option(help="Include every response in the JSON.")] = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Measure a policy on held-out prompts: score, gold score, KL, length, entropy, each with its 95% interval."""
    check_names(task=task, reward=reward, device=device, dtype=dtype)
    from textrl_agents.run_folder import RunFolder, load_policy

    settings = _run_settings(RunFolder(folder), RunFolder(folder.absolute().parent), task)
    set_threads(threads)
    from textrl_agents.evaluation import evaluate as measure
    from textrl_agents.quiet import quiet_loading

    given = {"model": reference, "reward": reward}
    settings.update({name: value for name, value in given.items() if value is not None})
    with quiet_loading(), told_on_stderr() as tell:
        actor_critic = load_policy(folder, device=device, dtype=dtype)
        tell(f"sampling {episodes} responses")
        result = measure(
            actor_critic,
            settings.pop("task"),
            episodes=episodes,
            seed=seed,
            deterministic=greedy,
            dtype=actor_critic.lm.dtype,
            **settings,
        )
    if as_json:
        print_json(result.to_json(samples=samples))
        return
    from rich.console import Console

    from textrl_agents.tables import evaluation_table

    Console().print(evaluation_table(result))


def _run_settings(run: Any, parent: Any, task: str | None) -> dict[str, Any]:
    """The environment a run was trained in, where the task is the same; the folder may be one of its checkpoints."""
    from textrl_agents.config import TrainConfig, read_settings

    home = next((candidate for candidate in (run, parent) if candidate.config.is_file()), None)
    config = TrainConfig.of(read_settings(home.config)) if home is not None else TrainConfig()
    settings: dict[str, Any] = {"task": task or config.task}
    if config.model is not None:
        settings.update(model=config.model, tokenizer=config.tokenizer)
    if task is None or task == config.task:
        settings.update(reward=config.reward, kl_coef=config.kl_coef, **config.env)
        if config.heldout_prompts is not None:
            settings["prompts"] = config.heldout_prompts
    settings.pop("kl_mode", None)  # an evaluation charges whole episodes, however training did
    return settings
