"""Python files of a user that register algorithms and tasks; each process of a benchmark imports them."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterable
from pathlib import Path

from textrl_env.errors import ConfigError
from textrl_env.foreign_text import shown
from textrl_env.plugins import run_python_file
from textrl_env.user_values import user_path


def plugin_files(paths: Iterable[str | Path]) -> tuple[str, ...]:
    """Return absolute paths, for processes in any folder. Raises ConfigError where one is no Python file."""
    return tuple(str(_file(path)) for path in paths)


def load_plugins(paths: Iterable[str | Path]) -> None:
    """Run each file once in this process. Raises ConfigError where one is missing or fails."""
    for path in map(_file, paths):
        # By its path too: two files may have one name, and the same file must not register twice.
        name = f"textrl_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
        if name not in sys.modules:
            run_python_file(path, name, "plug-in")


def _file(path: str | Path) -> Path:
    found = user_path(path).resolve()
    if found.suffix != ".py" or not found.is_file():
        raise ConfigError(
            f"plug-in {shown(str(found), 300)} is not a Python file; give the file that registers your algorithm"
        )
    return found
