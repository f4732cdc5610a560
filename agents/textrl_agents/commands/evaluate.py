"""`textrl eval`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from textrl_agents.commands.options import (
    AsJson,
    Device,
    Dtype,
    PrecisionIfGiven,
    Threads,
    Trust,
    check_names,
    print_json,
    set_threads,
    told_on_stderr,
)
from textrl_env.errors import ConfigError

if TYPE_CHECKING:  # a typo shows before torch is imported
    from textrl_agents.evaluation import Evaluation
    from textrl_agents.runs.config import TrainConfig
    from textrl_agents.runs.run_folder import RunFolder
    from textrl_env.models import CausalLMActorCritic

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Run folder, checkpoint, or folder of a saved model.")]
TaskName = Annotated[
    str | None,
    typer.Option(help="Task to evaluate on, with its own prompts and reward. Default: what the run was trained on."),
]
EvaluationSplit = Annotated[
    str,
    typer.Option(
        help="Prompts: heldout to report, validation to choose settings by, train. Training prompts, and "
        "said so, where the task has no others."
    ),
]
Episodes = Annotated[int, typer.Option(min=2, help="Responses to sample.")]
SamplingSeed = Annotated[int, typer.Option(min=0, help="Chooses the prompts and the sampling.")]
ReferenceModel = Annotated[
    str | None,
    typer.Option(
        help="Model that the KL is measured from. Default: what the run started from, else the task's; what was "
        "pretrained is its own."
    ),
]
RewardName = Annotated[str | None, typer.Option(help="Reward instead of the run's or the task's.")]
SystemPrompt = Annotated[
    str | None,
    typer.Option(help="System message of prompts that are chats. Default: as trained, else the task's."),
]
Greedy = Annotated[bool, typer.Option("--greedy", help="Take the likeliest token instead of sampling.")]
WithSamples = Annotated[bool, typer.Option(help="Include every response in the JSON.")]


def evaluate(
    folder: Folder,
    task: TaskName = None,
    split: EvaluationSplit = "heldout",
    episodes: Episodes = 256,
    seed: SamplingSeed = 0,
    reference: ReferenceModel = None,
    reward: RewardName = None,
    system_prompt: SystemPrompt = None,
    greedy: Greedy = False,
    samples: WithSamples = False,
    trust: Trust = False,
    device: Device = "auto",
    dtype: Dtype = "auto",
    precision: PrecisionIfGiven = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Measure a policy on held-out prompts: score, gold score, KL, length, entropy, each with its 95% interval."""
    check_names(task=task, reward=reward, device=device, dtype=dtype, precision=precision)
    from textrl_agents.runs.run_folder import RunFolder, load_policy
    from textrl_agents.training.trust import require_trust

    config = _run_config(RunFolder(folder), RunFolder(folder.absolute().parent))
    settings = _run_settings(config, task)
    set_threads(threads)
    own = _own_reference(RunFolder(folder), RunFolder(folder.absolute().parent))
    given = {"model": reference or own, "reward": reward, "system_prompt": system_prompt}
    given = {name: value for name, value in given.items() if value is not None}
    require_trust({name: value for name, value in settings.items() if name not in given}, folder, trust or None)
    settings.update(given, split=split)
    with told_on_stderr() as tell:
        actor_critic = load_policy(folder, device=device, dtype=dtype, precision=precision)
        tell(f"sampling {episodes} responses")
        result = _measured(actor_critic, config, settings, episodes=episodes, seed=seed, greedy=greedy)
    if as_json:
        print_json(result.to_json(samples=samples))
        return
    from rich.console import Console

    from textrl_agents.evaluation.tables import evaluation_table

    Console().print(evaluation_table(result))


def _own_reference(run: RunFolder, parent: RunFolder) -> str | None:
    """The policy itself of a pretraining run, which started from nothing that the KL could be measured from."""
    from textrl_agents.runs.run_folder import PRETRAINING_FILE

    home = next((candidate for candidate in (run, parent) if (candidate.path / PRETRAINING_FILE).is_file()), None)
    return None if home is None else str(home.policy)


def _run_config(run: RunFolder, parent: RunFolder) -> TrainConfig:
    """The settings of the run that a folder is, or is a checkpoint of; the default ones of a model that is neither."""
    from textrl_agents.runs.config import TrainConfig

    home = next((candidate for candidate in (run, parent) if candidate.config.is_file()), None)
    return TrainConfig.of_run(home.config) if home is not None else TrainConfig()


def _measured(
    actor_critic: CausalLMActorCritic,
    config: TrainConfig,
    settings: dict[str, Any],
    *,
    episodes: int,
    seed: int,
    greedy: bool,
) -> Evaluation:
    """Evaluate the policy as its algorithm answers prompts. settings: the environment's arguments."""
    task, split = settings.pop("task"), settings.pop("split")
    settings |= {"dtype": actor_critic.lm.weight_dtype, "precision": actor_critic.lm.precision}
    answers = config.algorithm_entry.answers
    if answers is None:
        from textrl_agents.evaluation import evaluate as measure

        return measure(
            actor_critic, task, episodes=episodes, seed=seed, deterministic=greedy or None, split=split, **settings
        )
    if greedy:
        raise ConfigError(f"--greedy has no meaning for {config.algo}, which answers in a way of its own")
    from textrl_agents.evaluation.heldout_env import heldout_env

    arguments = {name: value for name, value in settings.items() if value is not None}
    arguments |= {"task": task, "sampling": actor_critic.sampling, "device": actor_critic.device}
    env = heldout_env(arguments, episodes=episodes, split=split)
    return answers(actor_critic, config.algorithm)(env, episodes, seed)


def _run_settings(config: TrainConfig, task: str | None) -> dict[str, Any]:
    """The environment a run was trained in, where the task is the same."""
    settings: dict[str, Any] = {"task": task or config.task}
    if config.model is not None:
        settings.update(model=config.model, tokenizer=config.tokenizer)
    if task is None or task == config.task:
        settings.update(kl_coef=config.kl_coef, **config.env)
    if task is None:
        settings.update(
            reward=config.reward, validation_prompts=config.validation_prompts, heldout_prompts=config.heldout_prompts
        )
    else:
        settings.pop("prompts", None)  # a task that is named is evaluated with its own prompts and its own reward
    settings.pop("kl_mode", None)  # an evaluation charges whole episodes, however training did
    return settings
