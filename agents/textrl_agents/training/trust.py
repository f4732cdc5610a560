"""Python and servers that a folder's settings name: run or asked only where the user of the folder says so.

A run's `config.yaml` and a benchmark's `benchmark.yaml` are plain data. Yet some settings name code: a reward in a
file, a turn environment or a class of RLlib by its import path, a plug-in, a Ray cluster. And a reward's server gets
all prompts and responses, and a token out of an environment variable. A folder may come from anyone. What the user
names in a call, by a flag or in the file of `--config` needs no permission.
"""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from textrl_agents.training.optimizers import KNOWN_PACKAGES
from textrl_env.errors import ConfigError
from textrl_env.foreign_text import shown, visible
from textrl_env.rewards.make import file_and_function, is_address
from textrl_env.turns.make import named_module

# A plug-in is a file to run. The others make Ray run what they name, or accept functions from whoever is at an address.
_CODE = (
    *("plugins", "address", "runtime_env", "trust_remote_code"),
    *("extra_python_environs_for_driver", "extra_python_environs_for_worker"),
)
# Arguments of libraries. A library imports what looks like an import path.
_OF_LIBRARIES = ("algorithm", "settings", "lora")
_IMPORT_PATH = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)+")


def python_named_in(settings: Mapping[str, Any]) -> list[str]:
    """List the Python that `settings` would run and the servers they would ask, each as `setting: what`."""
    return list(dict.fromkeys(_named(settings, ())))


def require_trust(settings: Mapping[str, Any], folder: str | Path, trust: bool | None) -> None:
    """Raise ConfigError where the settings of `folder` name Python or a server that nobody allowed.

    trust: True allows it; None asks, where a person sits at a terminal, and is False elsewhere.
    """
    named = [] if trust else python_named_in(settings)
    if not named or (trust is None and _allowed(named, folder)):
        return
    raise ConfigError(
        f"the settings in {str(folder)!r} name {_kinds(named)}: {'; '.join(named)}. Read it first; if you trust it, "
        "and whoever made this folder, say so with --trust (in Python, trust=True)"
    )


def resume_command(folder: str | Path, settings: Mapping[str, Any]) -> str:
    """Return the command that goes on with a run of these settings."""
    return f"textrl train --resume {shlex.quote(str(folder))}{' --trust' if python_named_in(settings) else ''}"


def _named(value: Any, place: tuple[str, ...]) -> Iterator[str]:
    where = ".".join(place)
    if place and place[-1] in _CODE and value:
        yield f"{where}: {shown(value, 300)}"
    elif place and place[0] == "optimizer" and isinstance(value, str) and not value.startswith(KNOWN_PACKAGES):
        if place == ("optimizer",) or place[-1] == "name":
            yield f"{where}: {shown(value, 300)}"
    elif isinstance(value, Mapping):
        for key, entry in value.items():
            yield from _named(entry, (*place, str(key)))
    elif isinstance(value, (list, tuple)):
        for entry in value:
            yield from _named(entry, place)
    elif isinstance(value, str):
        if in_file := file_and_function(value):
            yield f"{where}: {shown(f'{in_file[0].absolute()}:{in_file[1]}', 300)}"
        elif is_address(value) and "reward" in place:
            yield f"{where}: {shown(value, 300)}"
        elif _is_import_path(value, place):
            yield f"{where}: {value}"


def _is_import_path(value: str, place: tuple[str, ...]) -> bool:
    if "turns" in place:
        return named_module(value) is not None
    return bool(_IMPORT_PATH.fullmatch(value) and set(_OF_LIBRARIES) & set(place))


def _kinds(named: list[str]) -> str:
    servers = [each for each in named if is_address(each.partition(": ")[2].strip("'"))]
    if not servers:
        return "Python that would be run"
    return "servers that would get every response" + (", and Python that would be run" if servers != named else "")


def _allowed(named: list[str], folder: str | Path) -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    listed = "\n".join(f"  {each}" for each in named)
    question = f"The settings in {str(folder)!r} name {_kinds(named)}:\n{listed}\nRun it? [y/N] "
    print(visible(question), end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")
