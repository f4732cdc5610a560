"""From what a user writes, in code, on a command line or in YAML, to a reward."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from textrl_env.errors import ConfigError, UnknownName
from textrl_env.foreign_text import shown
from textrl_env.plugins import run_python_file
from textrl_env.rewards.composite import CompositeReward
from textrl_env.rewards.function import FunctionReward
from textrl_env.rewards.protocol import Reward, check_signature
from textrl_env.rewards.registry import make_registered, registered_rewards
from textrl_env.user_values import user_path

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def make_reward(spec: Any, **kwargs: Any) -> Reward:
    """A reward from any of these:

    - a registered name, such as `"embedded"`; `kwargs` go to its factory,
    - a function `f(prompts, completions, **columns) -> list[float]`, which becomes a `FunctionReward`,
    - `"path/to/file.py:function"`, the same for a function in a file (the file is run),
    - the folder of a sequence classifier, its Hugging Face id or the loaded module: a `ClassifierReward`,
    - a list or dict of specs, or of `(spec, weight)`, or of `{"reward": spec, "weight": number}`: a `CompositeReward`,
    - a reward object with `detailed` or `score_tokens`, or a `FunctionReward`: returned as it is. Any other callable is
      treated as a function, so that it gets a time limit.

    Raises UnknownName where no reward has this name; ConfigError for a function with the wrong signature, a file
    without the function or a malformed list; and ModelError for a folder that holds no usable classifier.
    """
    if isinstance(spec, (str, os.PathLike)):
        return _from_text(os.fspath(spec), kwargs)
    if isinstance(spec, Mapping) or (isinstance(spec, (list, tuple)) and not _is_weighted(spec)):
        return _composite(spec, kwargs)
    if isinstance(spec, (list, tuple)):
        return _composite([spec], kwargs)
    if hasattr(spec, "forward") and hasattr(spec, "config"):
        from textrl_env.rewards.classifier import ClassifierReward  # a loaded module: torch is there already

        return ClassifierReward(spec, **kwargs)
    return _from_callable(spec, kwargs)


def file_and_function(text: str) -> tuple[Path, str] | None:
    """The Python file that `make_reward(text)` would run, and the name in it; None where it would run none."""
    path, _, function = text.rpartition(":")
    return (user_path(path), function) if path.endswith(".py") else None


def check_reward_name(spec: Any) -> None:
    """Raise what `make_reward` raises about a text that names no reward; nothing is loaded and no file is run."""
    if isinstance(spec, str):
        _kind_of(spec)


def _kind_of(text: str) -> Literal["registered", "function", "classifier"]:
    if text in registered_rewards():
        return "registered"
    if in_file := file_and_function(text):
        if not in_file[0].is_file():
            raise ConfigError(f"reward {shown(text, 300)}: there is no file {shown(str(in_file[0]), 300)}")
        return "function"
    if text.endswith(".py"):
        raise ConfigError(f"reward {shown(text, 300)} names no function; write {shown(text + ':function', 300)}")
    if user_path(text).is_dir() or text.startswith((".", "/", "~")) or _HUB_ID.fullmatch(text):
        return "classifier"
    raise UnknownName("reward", text, registered_rewards())


def _from_text(text: str, kwargs: dict[str, Any]) -> Reward:
    kind = _kind_of(text)
    if kind == "registered":
        return make_registered(text, **kwargs)
    if kind == "function":
        in_file = file_and_function(text)
        assert in_file is not None  # its kind says so
        return _from_callable(_load_function(*in_file), kwargs)
    from textrl_env.rewards.classifier import ClassifierReward

    return ClassifierReward(text, **kwargs)


def _from_callable(reward: Any, kwargs: dict[str, Any]) -> Reward:
    is_complete = not inspect.isclass(reward) and (
        isinstance(reward, FunctionReward) or hasattr(reward, "detailed") or hasattr(reward, "score_tokens")
    )
    if not is_complete:
        return FunctionReward(reward, **kwargs)
    if kwargs:
        raise ConfigError(f"{reward!r} is a reward already, so it takes no arguments; got {sorted(kwargs)}")
    check_signature(reward)
    complete: Reward = reward
    return complete


def _composite(specs: Any, kwargs: dict[str, Any]) -> Reward:
    if kwargs:
        raise ConfigError(f"a composite of rewards takes no arguments; got {sorted(kwargs)}. Give them to its parts")
    try:
        if isinstance(specs, Mapping):
            if "reward" in specs and specs.keys() <= {"reward", "weight"}:
                return CompositeReward([_part(specs)])
            return CompositeReward({name: _part(entry) for name, entry in specs.items()})
        return CompositeReward([_part(entry) for entry in specs])
    except RecursionError:
        raise ConfigError("a list of rewards is nested too deeply, or holds itself") from None


def _part(entry: Any) -> Any:
    """An entry of a composite: a reward, or (reward, weight)."""
    if isinstance(entry, Mapping) and "reward" in entry:
        unknown = sorted(set(entry) - {"reward", "weight"})
        if unknown:
            raise UnknownName("key of a reward's entry", unknown[0], ("reward", "weight"))
        return make_reward(entry["reward"]), entry.get("weight", 1.0)
    if _is_weighted(entry):
        return make_reward(entry[0]), entry[1]
    return make_reward(entry)


def _is_weighted(entry: Any) -> bool:
    """(spec, weight); also as a list, for YAML has no tuples."""
    return isinstance(entry, (list, tuple)) and len(entry) == 2 and isinstance(entry[1], (int, float))


def _load_function(path: Path, name: str) -> Any:
    module = run_python_file(path, f"textrl_reward_{path.stem}", "reward file")
    if not hasattr(module, name):
        public = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        raise UnknownName(f"function in {str(path)!r}", name, public)
    return getattr(module, name)
