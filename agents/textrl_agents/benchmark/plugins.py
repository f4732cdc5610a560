"""Python files of a user that register algorithms and tasks; each process of a benchmark imports them."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterable
from pathlib import Path

from textrl_env.errors import ConfigError


def load_plugins(paths: Iterable[str | Path]) -> None:
    """Run each file once in this process. Raises ConfigError where one is missing or fails."""
    for path in paths:
        _load(Path(path).expanduser().resolve())


def _load(path: Path) -> None:
    # By its path too: two files may have one name, and the same file must not register twice.
    name = f"textrl_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return
    if path.suffix != ".py" or not path.is_file():
        raise ConfigError(f"plug-in {str(path)!r} is not a Python file; give the file that registers your algorithm")
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"plug-in {str(path)!r} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickle look their module up by name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise ConfigError(f"plug-in {str(path)!r} failed with {type(error).__name__}: {error}") from error
