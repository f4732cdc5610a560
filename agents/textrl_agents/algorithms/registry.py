"""The algorithms by name: the built-in ones, those of installed packages, and those registered here.

A built-in one is a file in `built_in/`, and nothing else. A package adds its own through the entry point group
`textrl.algorithms`, whose entries are `Algorithm` objects.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

from textrl_agents.algorithms import built_in, libraries
from textrl_agents.algorithms.algorithm import Algorithm
from textrl_env.errors import ConfigError, UnknownName
from textrl_env.plugins import broken_plugin, load_plugin, modules_in, plugins

GROUP = "textrl.algorithms"
LIBRARIES = modules_in(libraries.__path__[0])
"""Names of the RL libraries. Each is a file in `libraries/`, which holds what describes the library's algorithms."""
_REGISTERED: dict[str, Algorithm] = {}


@functools.cache
def built_in_names() -> tuple[str, ...]:
    """Names of the algorithms that ship, sorted."""
    return modules_in(built_in.__path__[0])


def register_algorithm(algorithm: Algorithm) -> None:
    """Make an algorithm available by its name. Raises ConfigError where the name is taken."""
    if not isinstance(algorithm, Algorithm):
        raise ConfigError(f"register_algorithm takes an Algorithm, got {algorithm!r}")
    if algorithm.name in built_in_names() or algorithm.name in _REGISTERED:
        raise ConfigError(f"algorithm {algorithm.name!r} is registered already; choose another name")
    _REGISTERED[algorithm.name] = algorithm


def algorithm_names() -> list[str]:
    """Names of all algorithms: the built-in ones, then the others, each sorted."""
    return [*built_in_names(), *sorted({*plugins(GROUP), *_REGISTERED} - set(built_in_names()))]


def get_algorithm(name: str) -> Algorithm:
    """The algorithm of that name.

    Raises UnknownName with the nearest name, and a ConfigError that names a broken entry point.
    """
    if not isinstance(name, str):
        raise UnknownName("algorithm", name, algorithm_names())
    if name in built_in_names():
        return _built_in(name)
    if name in _REGISTERED:
        return _REGISTERED[name]
    if name not in plugins(GROUP):
        raise UnknownName("algorithm", name, algorithm_names())
    algorithm = load_plugin(GROUP, name)
    if not isinstance(algorithm, Algorithm):
        raise broken_plugin(GROUP, name, f"gives {type(algorithm).__name__}, expected an Algorithm")
    return algorithm


def find_algorithm(name: Any, library: str | None = None) -> Algorithm:
    """The algorithm of that name, ours or a library's own: "rllib_appo" is also "appo", since one library has it.

    library: whose it must be; None takes any. Raises UnknownName, and ConfigError for a name of several libraries.
    """
    if library is not None and library not in LIBRARIES:
        raise UnknownName("lib", library, LIBRARIES)
    if isinstance(name, str):
        if library is None and name in algorithm_names():
            return get_algorithm(name)
        asked = LIBRARIES if library is None else (library,)
        found = [algorithm for one in asked if (algorithm := _of_library(name, one)) is not None]
        if len(found) > 1:
            raise ConfigError(f"{', '.join(str(one.library) for one in found)} all have {name!r}: say which with lib")
        if found:
            return found[0]
    raise UnknownName("algorithm", name, algorithm_names() if library is None else names_in(library))


def names_in(library: str | None) -> list[str]:
    """The names that `library` has for its algorithms, sorted; None: those of no library. Loads no entry points."""
    known = [*map(_built_in, built_in_names()), *_REGISTERED.values()]
    return sorted(algorithm.name_in_library for algorithm in known if algorithm.library == library)


def _of_library(name: str, library: str) -> Algorithm | None:
    for full in (f"{library}_{name}", name):
        if full in algorithm_names() and (algorithm := get_algorithm(full)).library == library:
            return algorithm
    return None


def _built_in(name: str) -> Algorithm:
    algorithm: Algorithm = importlib.import_module(f"{built_in.__name__}.{name}").ALGORITHM
    return algorithm
