"""The command line: every command with its options, as `--help` has them."""

from __future__ import annotations

from typing import Any

import typer.main

from textrl_agents.cli import app


def command_page() -> str:
    """Return the page of all commands."""
    parts = [
        "# Command line",
        "Each command explains itself with `--help`; this page is made from the same texts. Exit codes: 0 done, "
        "1 failed, 2 wrong usage, 130 stopped by Ctrl-C.",
    ]
    for path, command in _commands(typer.main.get_command(app), ("textrl",)):
        parts += [f"## {' '.join(path)}", _plain(command.help), _usage(path, command), _options(command)]
    return "\n\n".join(part for part in parts if part) + "\n"


def _commands(group: Any, path: tuple[str, ...]) -> list[tuple[tuple[str, ...], Any]]:
    found = []
    for name, command in group.commands.items():
        here = (*path, name)
        found += _commands(command, here) if hasattr(command, "commands") else [(here, command)]
    return found


def _usage(path: tuple[str, ...], command: Any) -> str:
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    words = [f"[{name}]" if not each.required else name for each in arguments for name in [_placeholder(each)]]
    return f"```text\n{' '.join([*path, *words, '[OPTIONS]'])}\n```"


def _options(command: Any) -> str:
    rows = ["| option | what it does |", "|---|---|"]
    for each in command.params:
        names = _placeholder(each) if each.param_type_name == "argument" else ", ".join(each.opts)
        rows.append(f"| `{names}` | {_plain(each.help).replace('|', '/')}{_default(each)} |")
    return "\n".join(rows) if len(rows) > 2 else ""


def _placeholder(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _default(parameter: Any) -> str:
    value = parameter.default
    simple = isinstance(value, (str, int, float)) and not isinstance(value, bool) and value != ""
    return f" Default: `{value}`." if simple and "Default" not in (parameter.help or "") else ""


def _plain(text: str | None) -> str:
    """Keep what a help text says: neither HTML nor Markdown was meant."""
    said = " ".join((text or "").replace("\b", "").split())
    for mark in ("\\", "<", ">", "*", "_", "[", "]", "{", "}"):
        said = said.replace(mark, f"\\{mark}")
    return said
