"""The algorithms as the registry has them: their list, and what each says of itself."""

from __future__ import annotations

import importlib
import re

import yaml

from generators.docstrings import markdown
from textrl_agents.algorithms.algorithm import Algorithm
from textrl_agents.algorithms.registry import built_in_names, get_algorithm

TITLES = {"sb3": "SB3", "rllib": "RLlib", "trl": "TRL", None: "none"}


def algorithm_list() -> str:
    """Return a table of all algorithms that ship, by library."""
    rows = ["| algorithm | what it is | library | resumes |", "|---|---|---|---|"]
    algorithms = [get_algorithm(name) for name in built_in_names()]
    for library in TITLES:
        for each in (one for one in algorithms if one.library == library):
            only = f"; for {', '.join(f'`{task}`' for task in each.tasks)} alone" if each.tasks else ""
            resumes = "yes" if each.has_checkpoints else "no"
            rows.append(f"| [`{each.name}`](#{each.name}) | {each.description}{only} | {TITLES[library]} | {resumes} |")
    return "\n".join(rows)


def about_algorithm(name: str) -> str:
    """Return what an algorithm's file says of it: its source, its class, its tuned settings."""
    algorithm = get_algorithm(name)
    said = markdown(importlib.import_module(f"textrl_agents.algorithms.built_in.{name}"))
    parts = [re.sub(r"\((https?://[^)\s]+)\)", r"([source](\1))", said), _classes(algorithm)]
    settings = {"everywhere": dict(algorithm.settings), **{t: dict(s) for t, s in algorithm.task_settings.items()}}
    settings = {task: values for task, values in settings.items() if values}
    if settings:
        text = yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=100)
        parts.append(f"Its settings, and what differs by task:\n\n```yaml\n{text}```")
    return "\n\n".join(part for part in parts if part) + "\n"


def _classes(algorithm: Algorithm) -> str:
    place = getattr(algorithm, "algorithm_class", None) or getattr(algorithm, "trainer_class", None)
    place = place or getattr(algorithm, "config_class", None)
    return f"Class: `{place.replace(':', '.')}`." if place else ""
