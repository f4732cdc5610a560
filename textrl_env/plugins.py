"""Where names come from: a folder with one file a name, entry points of installed packages, and Python files."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from textrl_env.errors import ConfigError
from textrl_env.foreign_text import message_of, shown
from textrl_env.user_values import user_path

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


def plugin_files(paths: Iterable[str | Path]) -> tuple[str, ...]:
    """Return absolute paths, for processes in any folder. Raises ConfigError where one is no Python file."""
    return tuple(str(_plugin_file(path)) for path in paths)


def load_plugin_files(paths: Iterable[str | Path]) -> None:
    """Run each file once in this process. Raises ConfigError where one is missing or fails."""
    for path in map(_plugin_file, paths):
        # By its path too: two files may have one name, and the same file must not register twice.
        name = f"textrl_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        if name not in sys.modules:
            run_python_file(path, name, "plug-in")


def _plugin_file(path: str | Path) -> Path:
    found = user_path(path).resolve()
    if found.suffix != ".py" or not found.is_file():
        raise ConfigError(
            f"plug-in {shown(str(found), 300)} is not a Python file; give the file that registers your algorithm"
        )
    return found
