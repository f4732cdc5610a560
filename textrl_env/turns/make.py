"""From what a user writes, in code, on a command line or in YAML, to turn environments."""

from __future__ import annotations

import functools
import importlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from textrl_env.errors import ConfigError, TextRLError, UnknownName
from textrl_env.foreign_text import message_of, shown
from textrl_env.plugins import modules_in
from textrl_env.turns.turn_env import TurnEnv

BUILT_IN = modules_in(Path(__file__).parent / "built_in")
"""Names of the turn environments that ship: the files in `built_in/`. None is imported to list them."""
FAMILIES = ("textarena", "gem")
"""What stands before the colon in a name such as "textarena:GuessTheNumber-v0"."""
_DOTTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*")


def named_module(name: str) -> str | None:
    """The module that `make_turn_env_factory(name)` would import, of "package.module:Class"; None where it is no path.

    Importing a module runs it, so a name that comes from elsewhere is to be asked about first.
    """
    family, colon, _ = name.partition(":")
    return family if colon and family not in FAMILIES and _DOTTED.fullmatch(name) else None


def make_turn_env_factory(value: Any) -> Callable[[], TurnEnv]:
    """Return what makes turn environments, one at each call, from any of these:

    - a class with `reset` and `step`, or a function that returns such an object: called without arguments,
    - a built-in's name, such as `"guess"`,
    - `"textarena:<id>"`, a single-player game of TextArena (extra `games`),
    - `"gem:<id>"`, an environment of GEM where it is installed,
    - `"package.module:Class"`, the same as the class.

    Each call of the factory checks that what it made has `reset` and `step`.

    Raises UnknownName where there is nothing of that name, ConfigError for anything else that cannot work, and
    MissingExtra where a package is not installed.
    """
    if isinstance(value, str):
        make, name = _named(value), value
    elif callable(value):
        make, name = value, getattr(value, "__qualname__", type(value).__name__)
    elif _is_turn_env(value):
        raise ConfigError(
            f"turns must make turn environments, one for each row, and not be one: got a {type(value).__name__}. Give "
            "its class, or a function that returns a new one"
        )
    else:
        raise ConfigError(
            "turns must be a class with reset and step, a function that returns such an object, or a name, got "
            f"{type(value).__name__}: {shown(value)}"
        )
    return functools.partial(_checked, make, name)


def _checked(make: Callable[[], Any], name: str) -> TurnEnv:
    try:
        made = make()
    except TextRLError:
        raise
    except Exception as error:
        raise ConfigError(
            f"the turn environment {shown(name)} cannot be made: {type(error).__name__}: {message_of(error)}"
        ) from error
    if not _is_turn_env(made):
        raise ConfigError(
            f"the turn environment {shown(name)} must have reset(seed) and step(action), got {type(made).__name__}"
        )
    environment: TurnEnv = made
    return environment


def _is_turn_env(value: Any) -> bool:
    return callable(getattr(value, "reset", None)) and callable(getattr(value, "step", None))


def _named(name: str) -> Callable[[], Any]:
    if name in BUILT_IN:
        made: Callable[[], Any] = importlib.import_module(f"textrl_env.turns.built_in.{name}").TURNS
        return made
    family, _, rest = name.partition(":")
    if family == "textarena" and rest:
        from textrl_env.turns.foreign.textarena import TextArenaTurns, check_textarena

        check_textarena(rest)
        return functools.partial(TextArenaTurns, rest)
    if family == "gem" and rest:
        from textrl_env.turns.foreign.gem import GemTurns, check_gem

        check_gem()
        return functools.partial(GemTurns, rest)
    if (module := named_module(name)) is not None:
        return _of_module(name, module, rest)
    raise UnknownName("turn environment", name, (*BUILT_IN, "textarena:<id>", "gem:<id>", "package.module:Class"))


def _of_module(name: str, module: str, path: str) -> Callable[[], Any]:
    try:
        found: Any = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        raise ConfigError(
            f"the turn environment {shown(name)}: {shown(module)} cannot be imported ({type(error).__name__}: "
            f"{message_of(error)})"
        ) from error
    public = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
    for part in path.split("."):
        if not hasattr(found, part):
            raise UnknownName(f"turn environment in {module!r}", path, public)
        found = getattr(found, part)
    if not callable(found):
        raise ConfigError(f"the turn environment {shown(name)} must be a class or a function, got {shown(found)}")
    made: Callable[[], Any] = found
    return made
