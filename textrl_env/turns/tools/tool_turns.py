"""`ToolTurns`: tools for any turn environment. A reply that calls one is answered by its result."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from textrl_env.errors import ConfigError, InvalidAction, ResetNeeded
from textrl_env.foreign_text import shown
from textrl_env.turns.tools.calls import describe_tools, read_calls
from textrl_env.turns.tools.tool import Tool
from textrl_env.turns.turn_env import TurnEnv
from textrl_env.user_values import check_names, check_number, check_whole

FORMS = ("plain", "template")


class ToolTurns:
    """A turn environment with tools: every reply that calls none goes to `turns`, as it is.

    turns: a turn environment. tools: functions, or `Tool`s where the limits are to be others.
    most_calls: replies of an episode that may call; a later one goes to `turns`, whatever it says, so that an episode
        always gets on. call_cost: what such a reply costs, a number >= 0 of the reward.
    form: how the policy is told about the tools. "plain" describes them in the system prompt, and results come as a
        user's message. "template" hands their schemas (`tools`) to the model's chat template, which must know them, and
        results come as a tool's message. Calls of either form are read in both.
    instructions: what the system prompt says about the tools, in place of `describe_tools(tools)`.

    calls: replies of this episode that called.

    It can be saved where `turns` can. What a tool itself remembers is not saved with it.
    """

    def __init__(
        self,
        turns: TurnEnv,
        tools: Sequence[Callable[..., Any] | Tool],
        *,
        most_calls: int = 4,
        call_cost: float = 0.0,
        form: Literal["plain", "template"] = "plain",
        instructions: str | None = None,
    ):
        check_whole("most_calls", most_calls, 1)
        check_number("call_cost", call_cost, 0.0)
        check_names("form of the tools", [form], FORMS)
        self.turns, self.most_calls, self.call_cost = turns, int(most_calls), float(call_cost)
        self._tools = [tool if isinstance(tool, Tool) else Tool(tool) for tool in tools]
        names = [tool.name for tool in self._tools]
        if not names or len(set(names)) < len(names):
            raise ConfigError(f"tools must be at least one, each with a name of its own; got {shown(names)}")
        self.tools: list[dict[str, Any]] | None = [tool.schema for tool in self._tools] if form == "template" else None
        described = describe_tools(self._tools) if form == "plain" else None
        self._told = described if instructions is None else instructions
        self._role = "tool" if form == "template" else "user"
        self.calls = 0
        self._running = False

    @property
    def system_prompt(self) -> str | None:
        """What `turns` has for this episode, and how the tools are called."""
        said = [part for part in (getattr(self.turns, "system_prompt", None), self._told) if part]
        return "\n\n".join(said) or None

    @property
    def reset(self) -> Callable[..., tuple[str, dict[str, Any]]]:
        """What begins an episode of `turns`; it takes what the reset of `turns` takes."""
        inner = self.turns.reset

        @functools.wraps(inner)
        def begin(*args: Any, **columns: Any) -> tuple[str, dict[str, Any]]:
            first = inner(*args, **columns)
            self.calls, self._running = 0, True
            return first

        return begin

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        """Answer a reply: with the results of its calls, or as `turns` does.

        info: `called`, how many calls the reply made; and what the answer of `turns` brings.
        """
        if not isinstance(action, str):
            raise InvalidAction(f"a reply must be a text, got {type(action).__name__}: {shown(action)}")
        if not self._running:
            raise ResetNeeded("ToolTurns.step was called before reset, or after the episode's end; call reset first")
        calls = read_calls(action, self._tools) if self.calls < self.most_calls else []
        if not calls:
            text, reward, terminated, truncated, info = self.turns.step(action)
            self._running = not (terminated or truncated)
            return text, reward, terminated, truncated, {**info, "called": 0}
        self.calls += 1
        parts = {"call": -self.call_cost} if self.call_cost else {}
        info = {"role": self._role, "called": len(calls), "score_parts": parts}
        return "\n".join(call.run() for call in calls), 0.0 - self.call_cost, False, False, info

    @property
    def get_state(self) -> Callable[[], dict[str, Any]]:
        """What returns where the episode stands. AttributeError where `turns` cannot be saved."""
        inner = self.turns.get_state  # type: ignore[attr-defined]
        return lambda: {"turns": inner(), "calls": self.calls, "running": self._running}

    @property
    def set_state(self) -> Callable[[Mapping[str, Any]], None]:
        """What goes on where a state was taken. AttributeError where `turns` cannot be saved."""
        inner = self.turns.set_state  # type: ignore[attr-defined]

        def restore(state: Mapping[str, Any]) -> None:
            if not isinstance(state, Mapping) or not {"turns", "calls", "running"} <= state.keys():
                raise ConfigError(f"a saved ToolTurns has 'turns', 'calls' and 'running', got {shown(state)}")
            check_whole("calls", state["calls"], 0)
            inner(state["turns"])
            self.calls, self._running = int(state["calls"]), bool(state["running"])

        return restore

    def close(self) -> None:
        """Close `turns`, where it can be closed."""
        if (close := getattr(self.turns, "close", None)) is not None:
            close()
