"""The names of tasks, and what each stands for.

A built-in task is one file of `tasks/built_in/`, which is the whole of its registration. A task of your own is given to
`register_task`, or named by an installed package's entry point.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from textrl_env.errors import ConfigError, UnknownName
from textrl_env.foreign_text import message_of
from textrl_env.plugins import broken_plugin, load_plugin, modules_in, plugins
from textrl_env.tasks.task import Format, Task

BUILT_IN = modules_in(Path(__file__).parent / "built_in")
"""Names of the tasks that ship: the files in `built_in/`. None is imported to list them."""
FAMILIES = {
    "reasoning_gym": "textrl_env.tasks.reasoning_gym",
    "textarena": "textrl_env.tasks.textarena",
    "gem": "textrl_env.tasks.gem",
}
"""What stands before the colon in a name such as "reasoning_gym:chain_sum" -> the module whose `task_of` makes the task
from what stands behind it.
"""
GROUP = "textrl.tasks"
"""The entry point group in which installed packages name tasks: each a Task, or a function that returns one."""
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
    task beside these, `reasoning_gym:<data set>`, and so is each game of TextArena and each environment of GEM.
    """
    return sorted({*BUILT_IN, *_REGISTERED, *plugins(GROUP)})


def is_built_in(name: Any) -> bool:
    """Whether every process knows the task `name`, and not only this one, which registered it.

    True for the tasks that ship, for those of installed packages and for families such as reasoning_gym.
    """
    return isinstance(name, str) and (name in BUILT_IN or _in_family(name) or name in plugins(GROUP))


def check_task_name(name: str | Task) -> None:
    """Raise UnknownName where no task has that name. No task is loaded."""
    if isinstance(name, Task):
        return
    if not isinstance(name, str) or (name not in _REGISTERED and not is_built_in(name)):
        raise UnknownName("task", name, task_names())


def get_task(name: str | Task) -> Task:
    """Return the task of that name; a Task is returned as it is.

    Raises UnknownName with the nearest name, and a ConfigError that names a broken entry point.
    """
    if isinstance(name, Task):
        return name
    check_task_name(name)
    if name in BUILT_IN:
        built_in: Task = _built_in(name).TASK
        return built_in
    if _in_family(name):
        family, _, member = name.partition(":")
        made: Task = importlib.import_module(FAMILIES[family]).task_of(member)
        return made
    if name not in _REGISTERED:
        return _plugin_task(name)
    registered = _REGISTERED[name]
    if not isinstance(registered, Task):
        registered = _REGISTERED[name] = registered()
    return registered


def built_in_formats() -> dict[str, Format]:
    """Name -> format of each built-in task that has one, in the names' order. Imports all of these tasks.

    The order matters: the embedded model's training text is drawn with a generator that picks a format by its place.
    """
    formats = {name: getattr(_built_in(name), "FORMAT", None) for name in BUILT_IN}
    return {name: found for name, found in formats.items() if isinstance(found, Format)}


def _built_in(name: str) -> ModuleType:
    return importlib.import_module(f"textrl_env.tasks.built_in.{name}")


def _in_family(name: str) -> bool:
    family, colon, _ = name.partition(":")
    return bool(colon) and family in FAMILIES


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
