"""A user's Python file as a module: for rewards and plug-ins given by path."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

from textrl_env.errors import ConfigError


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
        del sys.modules[module_name]
        raise ConfigError(f"{what} {str(path)!r} failed with {type(error).__name__}: {error}") from error
    return module
