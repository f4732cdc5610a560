"""`Tool`: a typed Python function that a policy may call, within limits. Whatever goes wrong becomes a text for it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from textrl_env.errors import ConfigError, RewardTimeout
from textrl_env.foreign_text import message_of, shown
from textrl_env.rewards.time_limit import TimeLimit
from textrl_env.user_values import check_whole

ERROR = "error: "
"""How a result begins that says what went wrong."""


class Tool:
    """A function with its description, its time limit and its output limit.

    function: takes JSON values (texts, numbers, booleans, lists, dicts) by name and returns a text, or what JSON can
        write. Its signature has types and its docstring describes it and, under `Args:`, each argument; that is what
        `transformers.utils.get_json_schema` reads, and what a policy is shown.
    timeout: seconds of one call; None sets no limit and needs no thread. A call that runs out of time cannot be
        stopped, see `TimeLimit`. With a limit the results depend on how fast the machine is.
    max_characters: a longer result is cut, and says so.

    Raises ConfigError for a function that cannot be described.
    """

    def __init__(self, function: Callable[..., Any], *, timeout: float | None = 5.0, max_characters: int = 2000):
        if not callable(function):
            raise ConfigError(f"a tool must be a function, got {type(function).__name__}: {shown(function)}")
        check_whole("max_characters", max_characters, 1)
        self.function, self.max_characters = function, int(max_characters)
        self.name: str = getattr(function, "__name__", type(function).__name__)
        self._limit = TimeLimit(timeout, f"tool {self.name}")
        self.schema = _schema(function, self.name)
        described = self.schema["function"]["parameters"]
        self.parameters: dict[str, dict[str, Any]] = described.get("properties", {})
        self.required: tuple[str, ...] = tuple(described.get("required", ()))

    def __call__(self, arguments: Mapping[str, Any]) -> str:
        """Run the function and return its result as a text; `error: ...` where it could not be had."""
        if fault := self._fault(arguments):
            return self._cut(ERROR + fault)
        try:
            result = self._limit.call(self.function, dict(arguments), 1)
        except RewardTimeout:
            return f"{ERROR}{self.name} did not answer within {self._limit.seconds:g} s"
        except (Exception, SystemExit) as error:
            return self._cut(f"{ERROR}{type(error).__name__}: {message_of(error)}")
        return self._cut(_text(result))

    def _fault(self, arguments: Any) -> str:
        """Say what is wrong with the arguments; nothing where all is well."""
        if not isinstance(arguments, Mapping):
            return f"the arguments of {self.name} must be a JSON object"
        takes = f"{self.name} takes {', '.join(self.parameters) or 'no arguments'}"
        if missing := [name for name in self.required if name not in arguments]:
            return f"{missing[0]} is missing; {takes}"
        if unknown := [name for name in arguments if name not in self.parameters]:
            return f"{shown(unknown[0])} is not an argument; {takes}"
        for name, value in arguments.items():
            if not fits(value, self.parameters[name]):
                wanted = self.parameters[name]
                return f"{name} must be {wanted.get('enum') or wanted.get('type', 'another value')}, got {shown(value)}"
        return ""

    def _cut(self, text: str) -> str:
        if len(text) <= self.max_characters:
            return text
        return f"{text[: self.max_characters]}... (cut, {len(text)} characters)"


def fits(value: Any, schema: Mapping[str, Any]) -> bool:
    """Whether a JSON value is what the schema of a parameter asks for: its type, its choices, its elements' types."""
    if "anyOf" in schema:
        return any(fits(value, each) for each in schema["anyOf"])
    if value is None:
        return bool(schema.get("nullable"))
    if "enum" in schema and value not in schema["enum"]:
        return False
    kinds = schema.get("type")
    if kinds is None:
        return True
    if not any(_is_a(value, kind) for kind in ([kinds] if isinstance(kinds, str) else kinds)):
        return False
    if isinstance(value, list) and "items" in schema:
        return all(fits(each, schema["items"]) for each in value)
    return True


def _is_a(value: Any, kind: str) -> bool:
    if kind in ("integer", "number"):
        is_whole = isinstance(value, int) and not isinstance(value, bool)
        return is_whole or (kind == "number" and isinstance(value, float))
    types = {"string": str, "boolean": bool, "array": list, "object": dict}
    return kind not in types or isinstance(value, types[kind])


def _text(result: Any) -> str:
    if isinstance(result, str):
        return result
    try:
        return json.dumps(result, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        return shown(result, 2000)


def _schema(function: Callable[..., Any], name: str) -> dict[str, Any]:
    from transformers.utils.chat_template_utils import get_json_schema  # takes seconds: only where there are tools

    try:
        schema: dict[str, Any] = get_json_schema(function)
    except Exception as error:
        raise ConfigError(
            f"the tool {shown(name)} cannot be described to a model ({message_of(error)}). Give its arguments types, "
            "and a docstring that says what it does and, under 'Args:', what each argument is"
        ) from error
    return schema
