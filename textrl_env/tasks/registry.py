"""The `Task` and the registry of names. A new task is one small file that defines and registers one."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from textrl_env.errors import ConfigError, UnknownName
from textrl_env.foreign_text import message_of
from textrl_env.plugins import broken_plugin, load_plugin, plugins
from textrl_env.text.prompt_splits import Item


@dataclass(frozen=True)
class Task:
    """Prompts, reward, model and limits of one problem; every argument of the environment overrides its part.

    prompts: a source that `PromptSet` takes (a list of texts, chats or rows, a path, a dataset), or
        a function that returns one. They are trained on.
    validation_prompts, heldout_prompts: the same, for evaluations while training and every choice of settings, and for
        what is reported. None takes an eighth of `prompts` away for each, where there are at least 16 different ones;
        an empty list holds none back.
    item: what a row `{"prompt": ..., **columns}` is about. Rows with equal items never stand on two sides of a split.
        None compares the prompts' texts, whatever their case and white space.
    reward: anything that `textrl_env.rewards.make_reward` takes.
    gold: the same; reported beside the score as `gold_score` and never trained on.
    model: what `textrl_env.models.load_model` takes, or a function that returns a `LoadedModel`.
    requires: package that the rewards import -> the extra of textrl-env that installs it, checked before anything is
        built.
    sampling: keyword arguments of `SamplingParams`. stop: strings that end a response.
    prompt_overflow: "truncate" cuts a prompt longer than `max_prompt_tokens` from the left, "error" refuses it.
    """

    name: str
    prompts: Any
    reward: Any
    validation_prompts: Any = None
    heldout_prompts: Any = None
    item: Item | None = None
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
    requires: Mapping[str, str] = field(default_factory=dict)


BUILT_IN = (
    "arithmetic",
    "code",
    "detoxify",
    "dialogue",
    "exact",
    "question",
    "recommend",
    "sentiment",
    "story",
    "summarize",
    "translate",
)
"""Names of the tasks that ship; each is the `TASK` of the module of its name."""
GROUP = "textrl.tasks"
"""The entry point group in which installed packages name tasks: each a Task, or a function that returns one."""
REASONING_GYM = "reasoning_gym:"
"""Beginning of the names of the tasks that a data set of reasoning_gym makes."""
_REGISTERED: dict[str, Task | Callable[[], Task]] = {}


def register_task(task: Task | Callable[[], Task], name: str | None = None) -> None:
    """Make a task available by name. A function is called at first use (`name` is then required)."""
    if isinstance(task, Task):
        name = name or task.name
    elif name is None or not callable(task):
        raise ConfigError(f"register_task takes a Task, or a function and its name; got {task!r}")
    if name in _REGISTERED or is_built_in(name):
        raise ConfigError(f"task {name!r} is registered already; choose another name")
    _REGISTERED[name] = task


def task_names() -> list[str]:
    """Names of all tasks, sorted: built in, registered and of installed packages. Each data set of reasoning_gym is a
    task beside these, `reasoning_gym:<data set>`.
    """
    return sorted({*BUILT_IN, *_REGISTERED, *plugins(GROUP)})


def is_built_in(name: Any) -> bool:
    """Whether `name` is that of a task which every process knows, and not one that this process registered.

    Such are the tasks that ship, those of installed packages and those of reasoning_gym.
    """
    return isinstance(name, str) and (name in BUILT_IN or name.startswith(REASONING_GYM) or name in plugins(GROUP))


def check_task_name(name: str | Task) -> None:
    """Raise UnknownName where no task is called so; none is loaded."""
    if not isinstance(name, Task) and name not in _REGISTERED and not is_built_in(name):
        raise UnknownName("task", name, task_names())


def get_task(name: str | Task) -> Task:
    """The task of that name; a Task is returned as it is.

    Raises UnknownName with the nearest name, and a ConfigError that names a broken entry point.
    """
    if isinstance(name, Task):
        return name
    if name in BUILT_IN:
        return importlib.import_module(f"textrl_env.tasks.built_in.{name}").TASK
    if isinstance(name, str) and name.startswith(REASONING_GYM):
        module = importlib.import_module("textrl_env.tasks.built_in.reasoning_gym")
        return module.reasoning_task(name.removeprefix(REASONING_GYM))
    if not isinstance(name, str) or name not in _REGISTERED:
        if not isinstance(name, str) or name not in plugins(GROUP):
            raise UnknownName("task", name, task_names())
        return _plugin_task(name)
    registered = _REGISTERED[name]
    if not isinstance(registered, Task):
        registered = _REGISTERED[name] = registered()
    return registered


@functools.cache
def _plugin_task(name: str) -> Task:
    task = load_plugin(GROUP, name)
    if callable(task):
        try:
            task = task()
        except Exception as error:
            raise broken_plugin(GROUP, name, f"raised {type(error).__name__}: {message_of(error)}") from error
    if not isinstance(task, Task):
        what = f"gives {type(task).__name__}, expected a Task or a function that returns one"
        raise broken_plugin(GROUP, name, what)
    return task
