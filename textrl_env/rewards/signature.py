"""Which keywords a reward takes: checked when it is built, used at every call to pass on only those."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

from textrl_env.errors import ConfigError
from textrl_env.foreign_text import message_of, shown
from textrl_env.rewards.protocol import reward_name

EXPECTED = "f(prompts, completions, **columns) -> list[float]"
EXPECTED_TOKENS = "f(prompts, completion_ids, **columns) -> list[float]"

_BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class Keywords(NamedTuple):
    """The keywords that a callable takes."""

    names: frozenset[str]
    required: frozenset[str]  # without a default
    takes_all: bool  # has **kwargs
    unfillable: tuple[str, ...]  # required positional-only parameters: no keyword reaches them


_cache: WeakKeyDictionary[Any, Keywords] = WeakKeyDictionary()


def keywords_of(function: Callable[..., Any]) -> Keywords:
    """Read a callable's signature (once: it is remembered as long as the callable lives)."""
    key = getattr(function, "__func__", function)  # bound methods are made anew at every access
    try:
        known = _cache.get(key)
    except TypeError:  # neither hashable nor weakly referable, such as a slotted or an `eq` dataclass instance
        return _read(function)
    if known is None:
        known = _cache[key] = _read(function)
    return known


def _read(function: Callable[..., Any]) -> Keywords:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the signature of {reward_name(function)!r} cannot be read ({message_of(error)}); "
            f"wrap it in a function with the signature {EXPECTED}"
        ) from error
    no_default = [p for p in parameters if p.default is inspect.Parameter.empty]
    return Keywords(
        names=frozenset(p.name for p in parameters if p.kind in _BY_KEYWORD),
        required=frozenset(p.name for p in no_default if p.kind in _BY_KEYWORD),
        takes_all=any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters),
        unfillable=tuple(p.name for p in no_default if p.kind is inspect.Parameter.POSITIONAL_ONLY),
    )


def check_signature(
    function: object, needed: Iterable[str] = ("prompts", "completions"), *, expected: str = EXPECTED
) -> None:
    """Raise `ConfigError` where `function` cannot be called with the `needed` keywords."""
    if not callable(function):
        got = f"{type(function).__name__} {shown(function, 60)}"
        raise ConfigError(f"a reward must be callable, got {got}; expected {expected}")
    if inspect.isclass(function):
        raise ConfigError(
            f"got the class {function.__name__!r} as a reward; pass an instance: {function.__name__}(...)"
        )
    keywords = keywords_of(function)
    missing = [name for name in needed if not keywords.takes_all and name not in keywords.names]
    if missing or keywords.unfillable:
        why = f"takes no keyword {missing[0]!r}" if missing else f"needs {keywords.unfillable[0]!r} by position"
        raise ConfigError(
            f"reward {reward_name(function)!r} has the signature {inspect.signature(function)}, which {why}; "
            f"expected {expected}"
        )


def accepted_columns(
    function: Callable[..., Any], columns: Mapping[str, Any], *, given: Iterable[str]
) -> dict[str, Any]:
    """The columns that `function` takes. `given` are the keywords that it gets anyway.

    Raises:
        ConfigError: The function requires a column that the prompts do not bring.
    """
    keywords = keywords_of(function)
    absent = keywords.required.difference(columns, given)
    if absent:
        has = ", ".join(sorted(columns)) or "none"
        raise ConfigError(
            f"reward {reward_name(function)!r} requires the column {min(absent)!r}, which the prompts do not "
            f"have (columns: {has}); add it to the prompts' rows or give the parameter a default"
        )
    if keywords.takes_all:
        return dict(columns)
    return {name: values for name, values in columns.items() if name in keywords.names}
