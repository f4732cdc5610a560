"""The only two ways in which the environment calls a reward: whole episodes, and newest tokens.

Both hand over copies (a reward that changes its arguments changes nothing else), check that exactly one
finite number came back per sample, and turn whatever goes wrong into a `RewardError` that names the function
and the sample. No score that is not a finite number leaves this file.
"""

from __future__ import annotations

import copy
import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from textrl_env.errors import ConfigError, InvalidScore, RewardError, RewardRaised, WrongScoreCount
from textrl_env.foreign_text import message_of, shown
from textrl_env.rewards.protocol import Reward, Scores, accepted_columns, reward_name

_IMMUTABLE = (str, int, float, bool, bytes, type(None))


def score_episodes(
    reward: Reward | Callable[..., Any],
    prompts: Sequence[Any],
    completions: Sequence[Any],
    completion_ids: Sequence[Sequence[int]] | None = None,
    columns: Mapping[str, Sequence[Any]] | None = None,
) -> Scores:
    """Score n finished episodes in one call of the reward.

    reward: a `Reward`; its `detailed` is used if it has one.
    prompts: n texts, or n lists of chat messages.
    completions: n texts, or n lists with one assistant message. The text of a response to a chat prompt is put into an
        assistant message here, so the caller may pass plain text for both.
    completion_ids: n lists of response ids; passed on where the reward takes `completion_ids`.
    columns: the prompts' other columns, n values each; passed on where the reward takes them.

    Raises InvalidScore where it did not return n finite real numbers; RewardRaised where it raised, with the original
    error as the cause; a RewardError that the reward itself raised, such as RewardTimeout; and ConfigError where it
    requires a column that is not there.
    """
    if len(prompts) == 0:
        return Scores(np.empty(0), {})
    rows = dict(columns or {})
    if completion_ids is not None:
        rows["completion_ids"] = completion_ids
    call = getattr(reward, "detailed", None) or reward
    columns_taken = accepted_columns(call, rows, given=("prompts", "completions"))
    answers = [as_completion(prompt, text) for prompt, text in zip(prompts, completions, strict=True)]
    arguments = {"prompts": prompts, "completions": answers, **columns_taken}
    name = reward_name(reward)
    result = _call(call, name, arguments, len(prompts))
    if not isinstance(result, Scores):
        return Scores(_checked(result, name, arguments, len(prompts)), {})
    if not isinstance(result.parts, Mapping):
        raise InvalidScore(f"reward {name!r} gave the parts {shown(result.parts)}; expected a dict of names to scores")
    parts = {part: _checked(scores, f"{name}/{part}", arguments, len(prompts)) for part, scores in result.parts.items()}
    return Scores(_checked(result.scores, name, arguments, len(prompts)), parts)


def score_newest_tokens(
    reward: Reward | Callable[..., Any],
    prompts: Sequence[Any],
    completion_ids: Sequence[Sequence[int]],
    columns: Mapping[str, Sequence[Any]] | None = None,
) -> np.ndarray | None:
    """The score of each row's newest token, or None where the reward does not score tokens.

    reward: its `score_tokens` is called if it has one that is not None. prompts: of the n running rows. completion_ids:
        their n response ids so far, newest last. columns: the prompts' other columns, n values each.

    Returns float64 [n] or None. Raises what `score_episodes` raises.
    """
    call = getattr(reward, "score_tokens", None)
    if call is None:
        return None
    if len(prompts) == 0:
        return np.empty(0)
    taken = accepted_columns(call, columns or {}, given=("prompts", "completion_ids"))
    arguments = {"prompts": prompts, "completion_ids": completion_ids, **taken}
    name = f"{reward_name(reward)}.score_tokens"
    return _checked(_call(call, name, arguments, len(prompts)), name, arguments, len(prompts))


def _call(call: Callable[..., Any], name: str, arguments: dict[str, Any], count: int) -> Any:
    try:
        return call(**_copied(arguments, count))
    except (RewardError, ConfigError):
        raise  # already says what a user needs, and a reward inside this one has named its sample
    except (Exception, SystemExit) as error:  # `sys.exit()` in a reward must not end the program as if all were done
        where = _failing_sample(call, arguments, count)
        raise RewardRaised(f"reward {name!r} raised {type(error).__name__} on {where}: {message_of(error)}") from error


def _failing_sample(call: Callable[..., Any], arguments: dict[str, Any], count: int) -> str:
    """Find the sample that fails by calling again with one at a time; only done once something failed."""
    for index in range(count):
        if count == 1:
            return _sample(arguments, index, count)
        try:
            call(**_copied(_only(arguments, index, count), 1))
        except (Exception, SystemExit):
            return _sample(arguments, index, count)
    return f"a batch of {count} samples (none of them fails alone)"


def _checked(result: Any, name: str, arguments: dict[str, Any], count: int) -> np.ndarray:
    """`result` as float64 [count], or `InvalidScore`."""
    scores = np.empty(count, dtype=np.float64)
    for index, value in enumerate(_one_each(result, name, count)):
        number = _number(value)
        if not math.isfinite(number):
            raise InvalidScore(
                f"reward {name!r} returned {shown(value)} for {_sample(arguments, index, count)}; "
                "expected a finite number"
            )
        scores[index] = number
    return scores


def _one_each(result: Any, name: str, count: int) -> list[Any]:
    """The `count` values of a list, an array or a tensor, or `WrongScoreCount`."""
    try:
        shape = getattr(result, "shape", None)  # of a NumPy array or a tensor, without importing torch
        if shape is not None and hasattr(result, "tolist"):
            got = f"an array of shape {tuple(shape)}"
            values = result.tolist() if tuple(shape) == (count,) else []
        elif isinstance(result, (list, tuple)):
            values = list(result)
            got = f"{len(values)} scores"
        else:
            got, values = shown(result), []
    except Exception as error:  # a tensor on torch's "meta" device, a sparse one, a list of a user's own class ...
        got, values = f"{shown(result)}, which cannot be read ({type(error).__name__}: {message_of(error)})", []
    if len(values) != count:
        raise WrongScoreCount(
            f"reward {name!r} returned {got} for {count} samples; "
            f"expected a list of {count} finite numbers, one per completion"
        )
    return values


def _number(value: Any) -> float:
    """A real number, NumPy scalar or 0-d tensor as a float; NaN for anything else."""
    if type(value) is float:
        return value
    try:
        if getattr(value, "shape", None) == () and hasattr(value, "item"):
            is_missing = getattr(value, "mask", False)  # of NumPy's masked arrays, whose `item` would give 0
            value = None if is_missing else value.item()
        return float(value) if isinstance(value, numbers.Real) else math.nan
    except OverflowError:  # an integer beyond the range of floats
        return math.inf
    except Exception:  # a tensor without a value, a number of a user's own class ...
        return math.nan


def as_completion(prompt: Any, completion: Any) -> Any:
    """The completion in the form of its prompt: the text of a chat's response becomes a message."""
    if isinstance(completion, str) and not isinstance(prompt, str):
        return [{"role": "assistant", "content": completion}]
    return completion


def _is_per_sample(values: Any, count: int) -> bool:
    return isinstance(values, (list, tuple)) and len(values) == count


def _only(arguments: dict[str, Any], index: int, count: int) -> dict[str, Any]:
    """The arguments for one sample alone."""
    return {name: [values[index]] if _is_per_sample(values, count) else values for name, values in arguments.items()}


def _copied(arguments: dict[str, Any], count: int) -> dict[str, Any]:
    """Copies of the per-sample lists; whatever else a trainer passes (TRL's `trainer_state`) as it is."""
    return {
        name: [_copy(value) for value in values] if _is_per_sample(values, count) else values
        for name, values in arguments.items()
    }


def _copy(value: Any) -> Any:
    """A copy as deep as it can be changed. Shallow fast paths: this runs for every sample of every call."""
    if isinstance(value, _IMMUTABLE):
        return value
    if type(value) is list and all(type(item) is int for item in value):
        return value.copy()  # token ids
    try:
        return copy.deepcopy(value)
    except Exception:
        return value  # something that cannot be copied, such as an open file, is the reward's own business


def _sample(arguments: dict[str, Any], index: int, count: int) -> str:
    texts = ", ".join(
        f"{name[:-1]} {shown(arguments[name][index])}" for name in ("prompts", "completions") if name in arguments
    )
    return f"sample {index} of {count} ({texts})"
