"""The algorithms as the registry has them: their list, and what each says of itself."""

from __future__ import annotations

import copy
import importlib
import re
from pathlib import Path

import yaml

from generators.docstrings import markdown
from textrl_agents.algorithms.algorithm import Algorithm
from textrl_agents.algorithms.registry import built_in_names, get_algorithm

TITLES = {"sb3": "SB3", "rllib": "RLlib", "trl": "TRL", None: "none"}

BENCHMARK = Path(__file__).parents[1] / "benchmark.md"


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
    """Return what an algorithm's file says of it, with its sources, and its class."""
    said = markdown(importlib.import_module(f"textrl_agents.algorithms.built_in.{name}"))
    said = re.sub(r"\((https?://[^)\s]+)\)", r"([source](\1))", said)
    place = _class_of(get_algorithm(name))
    return f"{said}\n\nClass: `{place.replace(':', '.')}`.\n" if place else f"{said}\n"


def settings_and_row(name: str) -> str:
    """Return an algorithm's settings, by task, and its row of the benchmark."""
    algorithm = get_algorithm(name)
    # Copies, since YAML would write what two tasks share as an anchor.
    everywhere = {"everywhere": algorithm.settings, **algorithm.task_settings}
    settings = {task: copy.deepcopy(values) for task, values in everywhere.items() if values}
    row = measured_row(name, BENCHMARK.read_text(encoding="utf-8"))
    if not settings:
        return f"{row}\n"
    text = yaml.safe_dump(settings, sort_keys=False, default_flow_style=None, width=100)
    return f"**Settings,** and what differs by task:\n\n```yaml\n{text}```\n\n{row}\n"


def measured_row(name: str, page: str) -> str:
    """Return what the first table of a page that has the algorithm says of it, as a table of one row."""
    for table in re.findall(r"(?:^\|.*\n)+", page, flags=re.MULTILINE):
        header, rule, *rows = table.splitlines()
        for row in rows:
            if header.startswith("| algorithm ") and row.startswith(f"| `{name}` |"):
                return "\n".join(["**Measured,** see the [Benchmark](benchmark.md#results):", "", header, rule, row])
    return "**Measured:** not yet in a table of the [Benchmark](benchmark.md#results)."


def _class_of(algorithm: Algorithm) -> str:
    names = ("algorithm_class", "trainer_class", "config_class")
    return next((place for name in names if (place := getattr(algorithm, name, ""))), "")
