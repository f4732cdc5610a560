"""What a reward is: one callable with TRL's signature, and two richer methods that it may also have.

Which keywords a reward takes is checked when it is built, and used at every call to pass on only those.

A plain function is a reward as it is::

    def shorter(prompts, completions, **columns):
        return [-len(text) / 100 for text in completions]

and every reward here can be handed to TRL's trainers as it is: it is a callable with a `__name__` that takes
`prompts` and `completions` by keyword, ignores keywords it does not know (`completion_ids`, `trainer_state`,
data set columns), and returns a list of floats.

Text prompts come as `list[str]` with `list[str]` completions. Chat prompts come as in TRL: each prompt is a
list of `{"role": ..., "content": ...}` messages and each completion is a list with one assistant message.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import numpy as np

from textrl_env.errors import ConfigError
from textrl_env.foreign_text import message_of, shown

Message = dict[str, Any]
Text = str | list[Message]


class Scores(NamedTuple):
    """The scores of n finished episodes."""

    scores: np.ndarray  # float64 [n]: what the environment pays at each episode's end
    parts: dict[str, np.ndarray]  # name -> float64 [n]: each component before its weight; {} if there is only one


@runtime_checkable
class Reward(Protocol):
    """Anything that scores finished responses. A function with this signature is a `Reward`.

    Two optional methods say more; the environment uses each where it is there (and is not None):

    `detailed(prompts, completions, **columns) -> Scores`
        The same scores together with their components, which the environment reports as
        `info["score_parts"]`.
    `score_tokens(prompts, completion_ids, **columns) -> list[float]`
        A per-token reward: the score of each row's *newest* token, given the response ids so far
        (`completion_ids[i][-1]` is that token). Called at every step for the rows that are still running. An
        episode's total score is its sequence score plus the sum of its token scores.

    A reward that remembers earlier calls has `state_dict() -> dict` (numbers, text and arrays; {} where there is
    nothing to keep) and `load_state_dict(state)`: environments put it into their own state, so that a checkpoint
    resumes exactly. It may have `as_measured() -> Reward` too, the reward that an evaluation asks in its place.
    """

    def __call__(self, prompts: list[Any], completions: list[Any], **columns: Any) -> list[float]:
        """Score n finished responses.

        prompts: n texts, or n lists of chat messages. completions: n texts, or n lists with one assistant message.
        columns: the prompts' other columns, n values each; `completion_ids` (n lists of token ids); and, from an
            environment, `finish_reason` (n of "eos", "stop" and "length", and of several turns of "env", "turns" and
            "length"). The completion of a chat of several turns is a list of all messages from its first answer on.

        Returns n finite numbers, in the order of the completions. Higher is better.
        """
        ...


def reward_name(reward: object) -> str:
    """The name under which a reward appears in errors and logs: its `__name__`, or that of its class."""
    name = getattr(reward, "__name__", None)
    if name is None and hasattr(reward, "func"):  # functools.partial
        name = getattr(reward.func, "__name__", None)
    return str(name or type(reward).__name__)


def state_of(reward: object) -> dict[str, Any]:
    """What a reward remembers of earlier calls; {} where it remembers nothing."""
    return dict(reward.state_dict()) if hasattr(reward, "state_dict") else {}


def load_state_of(reward: object, state: Mapping[str, Any]) -> None:
    """Give a reward what `state_of` took. Raises ConfigError where there is something and it takes nothing."""
    if hasattr(reward, "load_state_dict"):
        if state:
            reward.load_state_dict(state)
    elif state:
        raise ConfigError(f"the saved state is of a reward that remembers, and {reward_name(reward)!r} does not")


def as_measured(reward: Any) -> Any:
    """The reward that an evaluation asks: the same, but for what changes its scores while training goes on."""
    return reward.as_measured() if hasattr(reward, "as_measured") else reward


_BY_KEYWORD = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


class _Keywords(NamedTuple):
    """The keywords that a callable takes."""

    names: frozenset[str]
    required: frozenset[str]  # without a default
    takes_all: bool  # has **kwargs
    unfillable: tuple[str, ...]  # required positional-only parameters: no keyword reaches them


_cache: WeakKeyDictionary[Any, _Keywords] = WeakKeyDictionary()


def _keywords_of(function: Callable[..., Any]) -> _Keywords:
    """Read a callable's signature (once: it is remembered as long as the callable lives)."""
    key = getattr(function, "__func__", function)  # bound methods are made anew at every access
    try:
        known = _cache.get(key)
    except TypeError:  # neither hashable nor weakly referable, such as a slotted or an `eq` dataclass instance
        return _read(function)
    if known is None:
        known = _cache[key] = _read(function)
    return known


def _expected(judged: str = "completions") -> str:
    return f"f(prompts, {judged}, **columns) -> list[float]"


def _read(function: Callable[..., Any]) -> _Keywords:
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the signature of {reward_name(function)!r} cannot be read ({message_of(error)}); "
            f"wrap it in a function with the signature {_expected()}"
        ) from error
    no_default = [p for p in parameters if p.default is inspect.Parameter.empty]
    return _Keywords(
        names=frozenset(p.name for p in parameters if p.kind in _BY_KEYWORD),
        required=frozenset(p.name for p in no_default if p.kind in _BY_KEYWORD),
        takes_all=any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters),
        unfillable=tuple(p.name for p in no_default if p.kind is inspect.Parameter.POSITIONAL_ONLY),
    )


def check_signature(function: object, judged: str = "completions") -> None:
    """Raise `ConfigError` where `function` cannot be called with the keywords `prompts` and `judged`."""
    expected = _expected(judged)
    if not callable(function):
        got = f"{type(function).__name__} {shown(function, 60)}"
        raise ConfigError(f"a reward must be callable, got {got}; expected {expected}")
    if inspect.isclass(function):
        raise ConfigError(
            f"got the class {function.__name__!r} as a reward; pass an instance: {function.__name__}(...)"
        )
    keywords = _keywords_of(function)
    missing = [name for name in ("prompts", judged) if not keywords.takes_all and name not in keywords.names]
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

    Raises ConfigError where the function requires a column that the prompts do not bring.
    """
    keywords = _keywords_of(function)
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
