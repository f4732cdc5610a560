"""The `Task` and the registry of names. A new task is one small file that defines and registers one."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from textrl_env.errors import ConfigError, UnknownName


@dataclass(frozen=True)
class Task:
    """Prompts, reward, model and limits of one problem; every argument of the environment overrides its part.

    prompts, heldout_prompts: a source that `textrl_env.prompts.PromptSet` takes (a list of texts, chats or rows, a
        path, a dataset), or a function that returns one.
    reward: anything that `textrl_env.rewards.make_reward` takes.
    gold: the same; reported beside the score as `gold_score` and never trained on.
    model: what `textrl_env.models.load_model` takes, or a function that returns a `LoadedModel`.
    sampling: keyword arguments of `SamplingParams`. stop: strings that end a response.
    prompt_overflow: "truncate" cuts a prompt longer than `max_prompt_tokens` from the left, "error" refuses it.
    """

    name: str
    prompts: Any
    reward: Any
    heldout_prompts: Any = None
    gold: Any = None
    model: Any = "embedded"
    tokenizer: Any = None
    kl_coef: Any = 0.05
    kl_estimator: str = "k1"
    max_prompt_tokens: int = 32
    max_new_tokens: int = 48
    prompt_overflow: Literal["truncate", "error"] = "truncate"
    sampling: Mapping[str, float] = field(default_factory=dict)
    stop: tuple[str, ...] = ()
    description: str = ""


_BUILT_IN = {"sentiment": "textrl_env.tasks.sentiment", "exact": "textrl_env.tasks.exact"}
_REGISTERED: dict[str, Task | Callable[[], Task]] = {}


def register_task(task: Task | Callable[[], Task], name: str | None = None) -> None:
    """Make a task available by name. A function is called at first use (`name` is then required)."""
    if isinstance(task, Task):
        name = name or task.name
    elif name is None or not callable(task):
        raise ConfigError(f"register_task takes a Task, or a function and its name; got {task!r}")
    if name in _REGISTERED or name in _BUILT_IN:
        raise ConfigError(f"task {name!r} is registered already; choose another name")
    _REGISTERED[name] = task


def task_names() -> list[str]:
    """Names of all tasks, sorted."""
    return sorted({*_BUILT_IN, *_REGISTERED})


def is_built_in(name: Any) -> bool:
    """Whether `name` is that of a task which every process knows, and not one that this process registered."""
    return isinstance(name, str) and name in _BUILT_IN


def get_task(name: str | Task) -> Task:
    """The task of that name; a Task is returned as it is. Raises UnknownName with the nearest name."""
    if isinstance(name, Task):
        return name
    if name in _BUILT_IN:
        return importlib.import_module(_BUILT_IN[name]).TASK
    if name not in _REGISTERED:
        raise UnknownName("task", name, task_names())
    registered = _REGISTERED[name]
    if not isinstance(registered, Task):
        registered = _REGISTERED[name] = registered()
    return registered
