"""Settings in YAML: files of `setting: value` lines, and NAME=VALUE arguments of the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from textrl_env.errors import ConfigError

LARGEST_FILE = 100_000  # values; those behind an anchor count again at each reference to it


class _Loader(yaml.SafeLoader):
    """The safe loader, with numbers such as 1e-3, which YAML 1.1 takes for text."""


_Loader.yaml_implicit_resolvers = {
    key: list(entries) for key, entries in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+"), list("-+.0123456789")
)


def read_settings(path: str | Path) -> dict[str, Any]:
    """Read the mapping in a YAML file. No tag in it can make an object or run code. Raises ConfigError."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: no UTF-8, or a path that none can be
        raise ConfigError(f"config file {str(path)!r:.200} cannot be read: {error!s:.200}") from error
    settings = _parse(text, f"config file {str(path)!r}")
    if settings is None:
        return {}
    if not isinstance(settings, dict) or not all(isinstance(key, str) for key in settings):
        raise ConfigError(f"config file {str(path)!r} must hold `setting: value` lines, got {type(settings).__name__}")
    return settings


def parse_assignments(
    assignments: Sequence[str], option: str = "--set", *, example: str = "algorithm.n_steps=32"
) -> dict[str, Any]:
    """Parse `["algorithm.n_steps=32", "samples=8"]` into nested settings; values are YAML. Raises ConfigError.

    option, example: of the command line, for the messages.
    """
    settings: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, value = assignment.partition("=")
        group, dot, key = name.strip().partition(".")
        if not equals or not group or (dot and not key):
            raise ConfigError(f"{option} takes NAME=VALUE, such as {example}; got {assignment!r}")
        parsed = _parse(value, f"the value of {option} {name}")
        if dot:
            settings.setdefault(group, {})[key] = parsed
        else:
            settings[group] = parsed
    return settings


def _parse(text: str, where: str) -> Any:
    try:
        value = yaml.load(text, _Loader)
    except Exception as error:  # YAMLError, and what Python's own types raise for dates, numbers and depths they lack
        raise ConfigError(f"{where} is not valid YAML: {' '.join(str(error).split())}") from error
    _require_tree(value, where)
    return value


def _require_tree(value: Any, where: str) -> None:
    """Refuse an anchor that is inside itself, and anchors within anchors that stand for billions of values."""
    waiting, count = [value], 0
    while waiting:
        count += 1
        if count > LARGEST_FILE:
            raise ConfigError(f"{where} has an anchor that holds itself, or more than {LARGEST_FILE:,} values")
        entry = waiting.pop()
        if isinstance(entry, Mapping):
            waiting.extend(entry.values())
        elif isinstance(entry, (list, tuple, set)):
            waiting.extend(entry)
