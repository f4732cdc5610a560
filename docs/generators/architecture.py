"""Draws `docs/images/architecture.svg`: the rooms of the two packages, and which needs which.

python docs/generators/architecture.py

The arrows are the imports themselves. One that follows from others is left out: where `tasks` needs `rewards` and
`rewards` needs `models`, no arrow goes from `tasks` to `models`. `tests/test_architecture.py` compares the picture with
the imports.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from xml.sax.saxutils import escape

ROOT = Path(__file__).parents[2]
PICTURE = ROOT / "docs" / "images" / "architecture.svg"
PACKAGES = {"textrl_env": ROOT / "textrl_env", "textrl_agents": ROOT / "agents" / "textrl_agents"}
# A room: what it is called, and its modules or packages. A package's root belongs to no room: it names what is below.
ROOMS: dict[str, dict[str, str]] = {
    "textrl_env": {
        "errors and values": "foreign_text errors user_values arguments actions plugins trajectory",
        "text": "text language catalogue",
        "models": "models",
        "kl": "kl accounts",
        "rewards": "rewards",
        "turns": "turns",
        "preferences": "preferences",
        "mdp": "rules charges scores episode_rows mdp",
        "tasks": "tasks",
        "finetune": "finetune",
        "env, vector_env": "assembled env vector_env wrappers",
    },
    "textrl_agents": {
        "training": "training",
        "policy, rollout": "policy rollout",
        "evaluation": "evaluation",
        "reports": "reports",
        "algorithms": "algorithms",
        "runs": "runs",
        "sb3": "sb3",
        "rllib": "rllib",
        "trl": "trl",
        "pretraining": "pretraining pretrained",
        "steering": "finetune",
        "reward_models": "reward_models",
        "feedback": "feedback",
        "check": "check",
        "benchmark": "benchmark",
        "speed": "speed",
        "commands": "commands cli __main__",
    },
}
ABOUT = {
    "errors and values": "what all share; Trajectory",
    "text": "prompts, ids, chats",
    "models": "loading, slot cache, sampling",
    "kl": "estimators; who owes what",
    "rewards": "functions, models, servers",
    "preferences": "votes in one store",
    "turns": "games, tools, dialogues",
    "mdp": "the batched transition",
    "tasks": "what is asked and judged",
    "env, vector_env": "the two Gymnasium faces",
    "finetune": "a training run as state",
    "training": "schedules, metrics, guards",
    "policy, rollout": "what acts; the loop",
    "evaluation": "fresh samples, intervals",
    "reports": "statistics, pages",
    "algorithms": "one file each",
    "runs": "folders, checkpoints",
    "sb3": "Stable-Baselines3",
    "rllib": "Ray RLlib",
    "trl": "TRL",
    "pretraining": "a reward while pretraining",
    "steering": "agents for finetune",
    "reward_models": "from votes to rewards",
    "feedback": "the page, the loop",
    "check": "textrl check",
    "benchmark": "textrl bench",
    "speed": "textrl bench speed",
    "commands": "textrl",
}
ROW, BOX_WIDTH, BOX_HEIGHT, GAP, TOP = 86, 152, 46, 14, 64
COLOURS = {"textrl_env": ("#e3ecf9", "#2b5797"), "textrl_agents": ("#e6f3e6", "#2f6b34")}


def room_of(module: str) -> str | None:
    """Return the room of a module such as "textrl_env.models.packing"; None for what stands in none."""
    package, *rest = module.split(".")
    for room, names in ROOMS.get(package, {}).items():
        if rest and rest[0] in names.split():
            return room
    return None


def imports() -> Iterator[tuple[str, str]]:
    """Yield module and imported module or name, for every import that runs; those for type checking alone do not."""
    for package, folder in PACKAGES.items():
        for path in folder.rglob("*.py"):
            parts = [package, *path.relative_to(folder).with_suffix("").parts]
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            for name in _imported(ast.parse(path.read_text(encoding="utf-8"))):
                if name.split(".")[0] in PACKAGES:
                    yield module, name


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    for child in ast.iter_child_nodes(node):
        yield from _imported(child)


def needs() -> dict[str, set[str]]:
    """Room -> the rooms that it imports something of."""
    found: dict[str, set[str]] = {room: set() for rooms in ROOMS.values() for room in rooms}
    # A name of a package's root, such as `from textrl_env import Task`, is loaded from where it is.
    root = {"TextGenEnv": "env, vector_env", "TextGenVectorEnv": "env, vector_env", "Task": "tasks"}
    root |= {"register_task": "tasks", "TokenAction": "errors and values", "KLPenalty": "kl"}
    for module, name in imports():
        here, last = room_of(module), name.split(".")[-1]
        there = room_of(name) or (root.get(last) if name.count(".") == 1 else None)
        if here and there and here != there:
            found[here].add(there)
    return found


def reached(needed: dict[str, set[str]], start: str) -> set[str]:
    """All rooms that `start` needs, by whatever way."""
    seen: set[str] = set()
    waiting = list(needed[start])
    while waiting:
        room = waiting.pop()
        if room not in seen:
            seen.add(room)
            waiting += needed[room]
    return seen


def without_detours(needed: dict[str, set[str]]) -> dict[str, set[str]]:
    """Leave out each arrow that follows from others."""
    behind = {room: reached(needed, room) for room in needed}
    return {
        room: {one for one in direct if not any(one in behind[other] for other in direct - {one})}
        for room, direct in needed.items()
    }


def rows(needed: dict[str, set[str]], package: str) -> list[list[str]]:
    """The rooms of a package by height, lowest first: one stands above all that it needs there.

    Within a row, near what it needs.
    """
    height: dict[str, int] = {}

    def of(room: str) -> int:
        if room not in height:
            height[room] = 1 + max((of(one) for one in needed[room] if one in ROOMS[package]), default=-1)
        return height[room]

    placed: list[list[str]] = [[] for _ in range(1 + max(of(room) for room in ROOMS[package]))]
    for room in ROOMS[package]:
        placed[height[room]].append(room)
    middle: dict[str, float] = {}
    for row in placed:
        row.sort(key=lambda room: _mean([middle[one] for one in needed[room] if one in middle]))
        middle.update(zip(row, _spread(len(row), 0.0), strict=True))
    return placed


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _spread(count: int, middle: float) -> list[float]:
    """Where the middles of a row's boxes are."""
    return [middle + (place - (count - 1) / 2) * (BOX_WIDTH + GAP) for place in range(count)]


def places(needed: dict[str, set[str]]) -> tuple[dict[str, tuple[float, float]], float, float]:
    """Room -> the middle of its box's upper edge; and the picture's width and height. A column for each package."""
    columns = {package: rows(needed, package) for package in ROOMS}
    tallest = max(map(len, columns.values()))
    left, at = 0.0, {}
    for placed in columns.values():
        width = max(map(len, placed)) * (BOX_WIDTH + GAP) + 60
        for number, row in enumerate(placed):
            y = TOP + (tallest - 1 - number) * ROW
            at.update({room: (x, y) for room, x in zip(row, _spread(len(row), left + width / 2), strict=True)})
        left += width
    return at, left, TOP + tallest * ROW - 20


def arrow(room: str, one: str, at: dict[str, tuple[float, float]]) -> str:
    """Return the arrow from a room to one that it needs: down, or to the left into the other package."""
    (x0, y0), (x1, y1) = at[room], at[one]
    if x1 < x0 and one in ROOMS["textrl_env"] and room in ROOMS["textrl_agents"]:
        x0, x1, y0, y1 = x0 - BOX_WIDTH / 2, x1 + BOX_WIDTH / 2 + 2, y0 + BOX_HEIGHT / 2, y1 + BOX_HEIGHT / 2
        bend = (x0 - x1) / 2
        line = f"M{x0:.0f} {y0:.0f}C{x0 - bend:.0f} {y0:.0f} {x1 + bend:.0f} {y1:.0f} {x1:.0f} {y1:.0f}"
    else:
        y0, y1 = y0 + BOX_HEIGHT, y1 - 2
        bend = (y1 - y0) / 2
        line = f"M{x0:.0f} {y0:.0f}C{x0:.0f} {y0 + bend:.0f} {x1:.0f} {y1 - bend:.0f} {x1:.0f} {y1:.0f}"
    return (
        f'<path data-from="{escape(room)}" data-to="{escape(one)}" fill="none" stroke="#999" stroke-width="1.2" '
        f'marker-end="url(#tip)" d="{line}"/>'
    )


def box(room: str, package: str, at: dict[str, tuple[float, float]]) -> str:
    """Return a room's box with its name and what it is about."""
    (x, y), (fill, ink) = at[room], COLOURS[package]
    return (
        f'<g><rect x="{x - BOX_WIDTH / 2:.0f}" y="{y:.0f}" width="{BOX_WIDTH}" height="{BOX_HEIGHT}" rx="6" '
        f'fill="{fill}" stroke="{ink}"/><text x="{x:.0f}" y="{y + 19:.0f}" font-size="14" font-weight="bold" '
        f'text-anchor="middle" fill="{ink}">{escape(room)}</text><text x="{x:.0f}" y="{y + 36:.0f}" font-size="11" '
        f'text-anchor="middle" fill="#333">{escape(ABOUT[room])}</text></g>'
    )


def picture() -> str:
    """Return the drawing as SVG. Each arrow says its two ends in `data-from` and `data-to`."""
    needed = without_detours(needs())
    at, width, height = places(needed)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" font-family="sans-serif">',
        "<title>The rooms of textrl_env and textrl_agents; an arrow points to what is imported</title>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0L8 4L0 8z" fill="#777"/></marker></defs>',
        f'<rect width="{width:.0f}" height="{height:.0f}" rx="8" fill="#fff"/>',
        '<text x="20" y="30" font-size="14" fill="#333">An arrow points to what is imported; what follows from others '
        "is left out.</text>",
        *(arrow(room, one, at) for room, ones in needed.items() for one in sorted(ones)),
        *(box(room, package, at) for package, rooms in ROOMS.items() for room in rooms),
    ]
    for place, (package, (fill, ink)) in enumerate(COLOURS.items()):
        x = width - 290 + place * 140
        parts.append(
            f'<rect x="{x:.0f}" y="18" width="16" height="16" rx="3" fill="{fill}" stroke="{ink}"/>'
            f'<text x="{x + 22:.0f}" y="31" font-size="13" fill="#333">{package}</text>'
        )
    return "\n".join([*parts, "</svg>"]) + "\n"


if __name__ == "__main__":
    PICTURE.parent.mkdir(exist_ok=True)
    PICTURE.write_text(picture(), encoding="utf-8")
    print(PICTURE)
