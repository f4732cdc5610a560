"""The rewards that have a name."""

from __future__ import annotations

import inspect

from generators.docstrings import first_sentence, markdown
from textrl_env.rewards.registry import _BUILT_IN  # the factories: making a reward may need its extra


def reward_list() -> str:
    """Return a table of the rewards that ship: name, arguments, what it pays."""
    rows = ["| reward | arguments | what it pays |", "|---|---|---|"]
    for name, factory in sorted(_BUILT_IN.items()):
        rows.append(f"| [`{name}`](#{name}) | {_arguments(factory)} | {first_sentence(factory)} |")
    return "\n".join(rows)


def reward_sections() -> str:
    """Return a section for each reward that ships: all that its docstring says."""
    return "\n\n".join(f"### {name}\n\n{markdown(factory)}" for name, factory in sorted(_BUILT_IN.items())) + "\n"


def _arguments(factory: object) -> str:
    parameters = inspect.signature(factory).parameters.values()  # type: ignore[arg-type]
    named = [each for each in parameters if each.kind is not inspect.Parameter.VAR_KEYWORD]
    return ", ".join(f"`{each.name}={each.default!r}`" for each in named)
