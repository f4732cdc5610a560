"""Tools: typed Python functions that a policy calls in its replies."""

from textrl_env.turns.tools.calls import Call, describe_tools, read_calls
from textrl_env.turns.tools.tool import Tool
from textrl_env.turns.tools.tool_turns import ToolTurns

__all__ = ["Call", "Tool", "ToolTurns", "describe_tools", "read_calls"]
