"""Where names come from: a folder with one file a name, entry points of installed packages, and Python files."""

from __future__ import annotations

import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from textrl_env.errors import ConfigError
from textrl_env.foreign_text import message_of

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


def modules_in(folder: str | Path) -> tuple[str, ...]:
    """The sorted names of a folder's modules: the tasks, rewards or algorithms that ship. None is imported."""
    return tuple(sorted(path.stem for path in Path(folder).glob("*.py") if path.stem != "__init__"))


@functools.cache
def plugins(group: str) -> dict[str, EntryPoint]:
    """Name -> entry point of a group, such as "textrl.tasks", of all installed packages; read once per process.

    Raises ConfigError where two packages bring the same name: which one is meant would depend on the search path.
    """
    from importlib.metadata import entry_points  # takes 20 ms: only when names are asked for

    found: dict[str, EntryPoint] = {}
    for entry in entry_points(group=group):
        other = found.setdefault(entry.name, entry)
        if other.value != entry.value:
            raise ConfigError(
                f"two installed packages bring the entry point {entry.name!r} of group {group!r}: {_shown(other)} and "
                f"{_shown(entry)}; uninstall one"
            )
    return found


def load_plugin(group: str, name: str) -> Any:
    """What the entry point `name` of a group refers to. Raises ConfigError that names it where it cannot be loaded."""
    entry = plugins(group)[name]
    try:
        return entry.load()
    except Exception as error:
        raise broken_plugin(group, name, f"cannot be loaded: {type(error).__name__}: {message_of(error)}") from error


def broken_plugin(group: str, name: str, what: str) -> ConfigError:
    """The error to raise about an entry point."""
    return ConfigError(f"the entry point {name!r} of group {group!r}, {_shown(plugins(group)[name])}, {what}")


def run_python_file(path: Path, module_name: str, what: str) -> ModuleType:
    """Run the file and keep it as `module_name`. Raises ConfigError, which calls it `what`, where it fails."""
    spec = importlib.util.spec_from_file_location(module_name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{what} {str(path)!r} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pickle look their module up by name
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # `sys.exit()` in the file must not end the program as if all were done
        sys.modules.pop(module_name, None)  # the file may have removed itself
        raise ConfigError(f"{what} {str(path)!r} failed with {type(error).__name__}: {message_of(error)}") from error
    return module


def _shown(entry: EntryPoint) -> str:
    return f"{entry.value!r} of {entry.dist.name}" if entry.dist is not None else repr(entry.value)
