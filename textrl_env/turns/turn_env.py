"""What answers between the turns of an episode, and how its answers are checked.

The signature is the one that GEM's environments have already. What it may have besides is read where it is there:

- `get_state() -> JSON-able` and `set_state(state)`: a checkpoint in the midst of its episodes then resumes exactly,
- `system_prompt: str | None`: the system message of its episodes, where the task has none,
- `tools: list | None`: JSON schemas of functions that the policy may call, which the chat template is to show,
- `close()`: called once it is no longer needed.

`reset` may take more keywords than `seed`: the columns of the prompt's row, and `prompt`, its text.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from textrl_env.errors import InvalidReply
from textrl_env.foreign_text import shown

ROLES = ("user", "tool")
RESET = "(message: str, info: dict)"
STEP = "(message: str, reward: float, terminated: bool, truncated: bool, info: dict)"


class TurnEnv(Protocol):
    """What a policy talks to: a game, a tool, a simulated user. It sees text, and never a token."""

    def reset(self, seed: int | None = None) -> tuple[str, dict[str, Any]]:
        """Begin an episode; returns what the policy is told first, and an info that is not looked at.

        The same seed begins the same episode: the rows of a group get equal ones.
        """
        ...

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Answer one turn of the policy.

        Returns the reply, the turn's reward (a finite number), whether the episode is over, whether a time-out of its
        own cuts it off, and an info. Of that these keys are read: `score_parts`, names to numbers that say what the
        reward is made of; `success`, true or false, at the episode's end; `role`, whose message the reply is: "user"
        (the default) or "tool".
        """
        ...


class Reply(NamedTuple):
    """What a turn environment answered."""

    message: str
    reward: float
    terminated: bool
    truncated: bool
    role: str
    score_parts: dict[str, float]
    success: bool | None


def turn_env_name(env: object) -> str:
    """The name under which a turn environment appears in errors."""
    return str(getattr(env, "__name__", None) or type(env).__name__)


def checked_opening(result: Any, where: str) -> str:
    """The message that `reset` gave. Raises InvalidReply that begins with `where`."""
    if not isinstance(result, tuple) or len(result) != 2:
        raise InvalidReply(f"{where} returned {shown(result)} from reset; expected {RESET}")
    return _text(result[0], f"{where} returned from reset the message")


def checked_reply(result: Any, where: str) -> Reply:
    """What `step` gave, checked. Raises InvalidReply that begins with `where`."""
    if not isinstance(result, tuple) or len(result) != 5:
        raise InvalidReply(f"{where} returned {shown(result)} from step; expected {STEP}")
    message, reward, terminated, truncated, info = result
    if not isinstance(info, Mapping):
        raise InvalidReply(f"{where} returned the info {shown(info)}; expected a dict")
    role, success = info.get("role", "user"), info.get("success")
    if role not in ROLES:
        raise InvalidReply(f"{where} returned the role {shown(role)}; expected one of {', '.join(ROLES)}")
    parts = info.get("score_parts", {})
    if not isinstance(parts, Mapping) or not all(isinstance(name, str) for name in parts):
        raise InvalidReply(f"{where} returned the score parts {shown(parts)}; expected a dict of names to numbers")
    return Reply(
        _text(message, f"{where} returned the message"),
        _finite(reward, f"{where} returned the reward"),
        _flag(terminated, f"{where} returned terminated ="),
        _flag(truncated, f"{where} returned truncated ="),
        role,
        {name: _finite(part, f"{where} returned the score part {name!r} =") for name, part in parts.items()},
        None if success is None else _flag(success, f"{where} returned success ="),
    )


def _text(value: Any, what: str) -> str:
    if not isinstance(value, str):
        raise InvalidReply(f"{what} {shown(value)}; expected a text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise InvalidReply(f"{what} {shown(value)}, which holds half of a surrogate pair and is no text") from None
    return value


def _finite(value: Any, what: str) -> float:
    """A finite number, of Python, of NumPy or a tensor's, as a float."""
    try:
        if getattr(value, "shape", None) == () and hasattr(value, "item"):
            value = value.item()
        number = float(value) if isinstance(value, numbers.Real) else math.nan
    except Exception:  # a whole number beyond the range of floats, a number of a user's own class ...
        number = math.nan
    if not math.isfinite(number):
        raise InvalidReply(f"{what} {shown(value)}; expected a finite number")
    return number


def _flag(value: Any, what: str) -> bool:
    if getattr(value, "shape", None) == () and hasattr(value, "item"):
        value = value.item()  # NumPy's, or a tensor's
    if not isinstance(value, bool):
        raise InvalidReply(f"{what} {shown(value)}; expected true or false")
    return value
