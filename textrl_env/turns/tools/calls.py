"""How a reply calls tools, and how a policy is told so.

Two forms are read, whichever the policy was shown:

- plain: `<call>weather {"city": "Oslo"}</call>`. A tool with one argument takes it as it is:
  `<call>weather Oslo</call>`. Where there is one tool, its name may be left out: `<call>Oslo</call>`.
- JSON, as models with a tool template write it: `{"name": "weather", "arguments": {"city": "Oslo"}}`, between
  `<tool_call>` and `</tool_call>` (Qwen, Hermes), as a list behind `[TOOL_CALLS]` (Mistral), or as the whole reply,
  with "parameters" for "arguments" (Llama).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from textrl_env.foreign_text import shown
from textrl_env.turns.tools.tool import ERROR, Tool

MOST_IN_A_REPLY = 4
_OPEN = re.compile(r"<(call|tool_call)>")
_MARKS = re.compile(r"^\s*(?:\[TOOL_CALLS\]|<\|python_tag\|>)?\s*")


@dataclass(frozen=True)
class Call:
    """One call in a reply: the tool and its arguments, or what is wrong with it as a text for the policy."""

    tool: Tool | None
    arguments: Any
    fault: str = ""

    def run(self) -> str:
        """Return the result, or the fault, as a text."""
        return ERROR + self.fault if self.tool is None else self.tool(self.arguments)


def read_calls(reply: str, tools: Sequence[Tool]) -> list[Call]:
    """List the calls in a reply, in their order; none where it calls nothing. A call that is malformed has a fault."""
    by_name = {tool.name: tool for tool in tools}
    calls, place = [], 0
    while opened := _OPEN.search(reply, place):
        kind, end = opened[1], reply.find(f"</{opened[1]}>", opened.end())
        if end < 0:
            calls.append(_wrong(f"a call has no </{kind}> behind it"))
            break
        content, place = reply[opened.end() : end].strip(), end + len(kind) + 3
        calls += [_plain_call(content, by_name)] if kind == "call" else _json_calls(content, by_name)
    if not calls and (bare := _MARKS.sub("", reply, count=1)).startswith(("{", "[")) and _is_call(bare):
        calls = _json_calls(bare, by_name)
    if len(calls) > MOST_IN_A_REPLY:
        return [_wrong(f"a reply may call {MOST_IN_A_REPLY} times, this one does {len(calls)} times")]
    return calls


def describe_tools(tools: Sequence[Tool]) -> str:
    """Tell a policy in the plain form which tools there are, and how they are called."""
    lines = ["You can call these functions. Their results come as the next message."]
    for tool in tools:
        about = tool.schema["function"]["description"].strip()
        lines.append(f"- {tool.name}({', '.join(_parameter(tool, name) for name in tool.parameters)}): {about}")
    example = json.dumps(dict.fromkeys(tools[0].parameters, "..."))
    return "\n".join([*lines, f"To call one, write: <call>{tools[0].name} {example}</call>"])


def _parameter(tool: Tool, name: str) -> str:
    schema = tool.parameters[name]
    kind = " or ".join(map(str, schema["enum"])) if "enum" in schema else schema.get("type", "any")
    about = schema.get("description", "")
    optional = "" if name in tool.required else ", optional"
    return f"{name}: {kind}{optional}{f' - {about}' if about else ''}"


def _plain_call(content: str, tools: Mapping[str, Tool]) -> Call:
    name = (re.match(r"[\w.-]+", content) or [""])[0]
    if name in tools:
        tool, given = tools[name], content[len(name) :].strip()
    elif len(tools) == 1:
        tool, given = next(iter(tools.values())), content
    else:
        return _unknown(name or content, tools)
    if given.startswith("{") or not given:
        try:
            return Call(tool, json.loads(given or "{}"))
        except (ValueError, RecursionError):
            return _wrong(f"the arguments of {tool.name} are no JSON object")
    wanted = tool.required or tuple(tool.parameters)
    if len(wanted) != 1:
        return _wrong(f"the arguments of {tool.name} must be a JSON object with {', '.join(wanted)}")
    if tool.parameters[wanted[0]].get("type") == "string":
        return Call(tool, {wanted[0]: given})
    try:
        return Call(tool, {wanted[0]: json.loads(given)})
    except (ValueError, RecursionError):
        return _wrong(f"{wanted[0]} of {tool.name} cannot be read: {shown(given)}")


def _json_calls(content: str, tools: Mapping[str, Tool]) -> list[Call]:
    try:
        read = json.loads(content)
    except (ValueError, RecursionError):
        return [_wrong("a call must be JSON with a name and arguments")]
    return [_json_call(each, tools) for each in (read if isinstance(read, list) else [read])]


def _json_call(read: Any, tools: Mapping[str, Tool]) -> Call:
    if not isinstance(read, dict) or not isinstance(read.get("name"), str):
        return _wrong('a call must be a JSON object such as {"name": "...", "arguments": {...}}')
    if read["name"] not in tools:
        return _unknown(read["name"], tools)
    arguments = read.get("arguments", read.get("parameters", {}))
    if isinstance(arguments, str):  # as OpenAI's interface has them
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return _wrong(f"the arguments of {read['name']} are no JSON object")
    return Call(tools[read["name"]], arguments)


def _is_call(text: str) -> bool:
    """Whether a reply of JSON alone calls something: it names a function and its arguments."""
    try:
        read = json.loads(text)
    except (ValueError, RecursionError):
        return False
    first = read[0] if isinstance(read, list) and read else read
    return isinstance(first, dict) and "name" in first and ("arguments" in first or "parameters" in first)


def _unknown(name: str, tools: Mapping[str, Tool]) -> Call:
    return _wrong(f"there is no function {shown(name)}; there is {', '.join(tools)}")


def _wrong(fault: str) -> Call:
    return Call(None, None, fault)
